"""Rerank TREC runs, and measure what becomes of them."""
