"""Root-mean-square normalisation, of a sum where there is a residual."""

from blockrank_kernels.rms_norm.api import rms_norm

__all__ = ["rms_norm"]
