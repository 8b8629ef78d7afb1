"""TREC runs reranked and measured."""
