"""``block_attention``: arguments checked, implementation chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blockrank_kernels.arguments import check_heads, choose, default_scale
from blockrank_kernels.block_attention import reference, sdpa
from blockrank_kernels.gpu import launches_on
from blockrank_kernels.segments import Segments


def _triton(query: Tensor, *arguments: Any) -> Tensor:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.block_attention.triton import launch

    with launches_on(query):
        return launch.block_attention(query, *arguments)


IMPLEMENTATIONS = {"reference": reference.block_attention, "sdpa": sdpa.block_attention, "triton": _triton}


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    causal: bool = True,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Return the attention of packed tokens to their context and their own segment.

    Parameters
    ----------
    query : Tensor
        ``[T, Hq, D]``, any floating dtype.
    key, value : Tensor
        ``[T, Hk, D]`` and ``[T, Hk, Dv]``; ``Hq`` is a multiple of ``Hk`` and query head ``h`` reads
        key head ``h // (Hq / Hk)``.
    segments : Segments
        The keys that each row may see.
    causal : bool
        Whether a row sees its own segment up to itself only.
    scale : float, optional
        Factor on the logits; ``1/sqrt(D)`` by default.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)`` (Gemma 2, arXiv 2408.00118).
    window : int, optional
        Keys at a position distance of ``window`` or more are invisible (sliding-window attention).
    implementation : str
        ``auto`` (Triton on a GPU that it fits, torch elsewhere), ``reference``, ``sdpa`` or ``triton``.

    Returns
    -------
    Tensor
        ``[T, Hq, Dv]``, in the dtype of ``query``; differentiable.

    Raises
    ------
    ValueError
        For tensors that do not fit each other or the segments, and unknown implementations.
    """
    check_heads(query, key)
    tokens = segments.num_tokens
    if not query.shape[0] == key.shape[0] == value.shape[0] == tokens:
        raise ValueError(
            f"query, key and value need the {tokens} tokens of segments, got "
            f"{query.shape[0]}, {key.shape[0]} and {value.shape[0]}"
        )
    if value.shape[1] != key.shape[1] or value.dtype != key.dtype:
        raise ValueError(
            f"value must have key's {key.shape[1]} heads and {key.dtype}, got {value.shape[1]} and {value.dtype}"
        )
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    run = choose(implementation, IMPLEMENTATIONS, query, value)
    return run(query, key, value, segments, causal, default_scale(query, scale), softcap, window)
