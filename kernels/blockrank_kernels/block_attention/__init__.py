"""Attention of packed tokens to their context and their own segment."""

from blockrank_kernels.block_attention.api import block_attention

__all__ = ["block_attention"]
