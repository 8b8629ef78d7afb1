"""Attention of the last rows of a sequence to keys that come in parts."""

from blockrank_kernels.last_rows_attention.api import last_rows_attention

__all__ = ["last_rows_attention"]
