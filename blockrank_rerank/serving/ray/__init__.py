"""Reranks tables and runs on a Ray cluster, and serves there."""
