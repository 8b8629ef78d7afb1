"""Serves rankings over HTTP."""
