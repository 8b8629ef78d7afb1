"""Checks of arguments that both operations share, and the choice of an implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from blockrank_kernels.gpu import automatic, triton_for

Function = TypeVar("Function")


def choose(
    implementation: str, available: Mapping[str, Function], *tensors: Tensor, any_width: bool = False
) -> Function:
    """Return the named implementation, or for ``auto`` the fastest for the tensors; a name never falls back.

    ``any_width`` is as in :func:`blockrank_kernels.gpu.triton_for`.

    Raises
    ------
    ValueError
        For an unknown name, and for Triton where it cannot run.
    """
    name = automatic(*tensors, any_width=any_width) if implementation == "auto" else implementation
    if name not in available:
        names = ", ".join(["auto", *available])
        raise ValueError(f"implementation must be one of {names}, got {implementation!r}")
    if implementation == "triton":
        verdict = triton_for(*tensors, any_width=any_width)
        if not verdict.usable:
            raise ValueError(f"implementation triton cannot run here: {verdict.reason}; use auto or sdpa")
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
