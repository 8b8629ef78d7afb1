"""Checks of arguments that operations share, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from blockrank_kernels.gpu import automatic, triton_for

Function = TypeVar("Function")


def choose(
    implementation: str,
    available: Mapping[str, Function],
    *tensors: Tensor,
    any_width: bool = False,
    portable: str = "sdpa",
) -> Function:
    """Return the named implementation, or for ``auto`` the fastest for the tensors; a name never falls back.

    ``any_width`` is as in :func:`blockrank_kernels.gpu.triton_for`; ``portable`` is what runs everywhere.

    Raises
    ------
    ValueError
        For an unknown name, and for Triton where it cannot run.
    """
    name = implementation
    if implementation == "auto":
        name = "triton" if automatic(*tensors, any_width=any_width) == "triton" else portable
    if name not in available:
        names = ", ".join(["auto", *available])
        raise ValueError(f"implementation must be one of {names}, got {implementation!r}")
    if implementation == "triton":
        verdict = triton_for(*tensors, any_width=any_width)
        if not verdict.usable:
            raise ValueError(f"implementation triton cannot run here: {verdict.reason}; use auto or {portable}")
    return available[name]


def check_heads(query: Tensor, key: Tensor) -> None:
    """Refuse tensors that are not ``[rows, Hq, D]`` and ``[T, Hk, D]`` with ``Hq`` a multiple of ``Hk``."""
    if query.dim() != 3 or key.dim() != 3:
        raise ValueError(
            f"query and key must be packed as [tokens, heads, head_dim], got {list(query.shape)} and {list(key.shape)}"
        )
    if query.shape[2] != key.shape[2]:
        raise ValueError(f"query and key differ in head_dim: {query.shape[2]} and {key.shape[2]}")
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(
            f"the number of query heads must be a multiple of the key heads, got {query.shape[1]} and {key.shape[1]}"
        )
    if query.dtype != key.dtype or query.device != key.device:
        raise ValueError(
            f"query and key must share dtype and device, got {query.dtype} on {query.device} "
            f"and {key.dtype} on {key.device}"
        )


def default_scale(query: Tensor, scale: float | None) -> float:
    """Return the scale, by default ``1/sqrt(D)`` (Vaswani et al. 2017, section 3.2.1)."""
    return query.shape[-1] ** -0.5 if scale is None else float(scale)


def check_rows(name: str, tensor: Tensor) -> None:
    """Refuse what is neither ``[T, D]`` nor ``[T, H, D]``."""
    if tensor.dim() not in (2, 3) or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be [T, D] or [T, H, D] in a floating dtype, got {tensor.dtype} {list(tensor.shape)}"
        )


def refuse_gradient(operation: str, *tensors: Tensor | None) -> None:
    """Refuse tensors whose gradient would be needed, for an operation that has none in Triton."""
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise ValueError(f"{operation} has no backward pass in triton: use torch.no_grad(), or another implementation")
