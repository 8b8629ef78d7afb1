"""Rotary position embedding."""

from blockrank_kernels.rotary.api import rotary_

__all__ = ["rotary_"]
