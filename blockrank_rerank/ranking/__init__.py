"""Requests to ranked documents."""
