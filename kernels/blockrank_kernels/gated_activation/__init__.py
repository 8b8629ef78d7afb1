"""The gate of a feed-forward part, activated and multiplied."""

from blockrank_kernels.gated_activation.api import gated_activation

__all__ = ["gated_activation"]
