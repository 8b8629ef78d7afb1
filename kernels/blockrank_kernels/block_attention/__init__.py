from blockrank_kernels.block_attention.api import block_attention

__all__ = ["block_attention"]
