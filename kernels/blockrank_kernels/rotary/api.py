"""``rotary_``: arguments checked, implementation chosen."""

from __future__ import annotations

from torch import Tensor

from blockrank_kernels.arguments import check_rows, choose, refuse_gradient
from blockrank_kernels.gpu import MAX_ROW_WIDTH, launches_on
from blockrank_kernels.rotary import reference


def _triton(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.rotary import triton

    refuse_gradient("rotary_", states, cos, sin)
    if cos.shape[1] > MAX_ROW_WIDTH:
        raise ValueError(f"rotary_ in triton turns up to {MAX_ROW_WIDTH} numbers of a head, got {cos.shape[1]}")
    with launches_on(states):
        return triton.rotary_(states, cos, sin)


IMPLEMENTATIONS = {"reference": reference.rotary_, "triton": _triton}


def rotary_(states: Tensor, cos: Tensor, sin: Tensor, *, implementation: str = "auto") -> Tensor:
    """Turn numbers of every head by the angles of their token's position, in place (RoFormer, arXiv 2104.09864).

    Of the first ``R`` numbers of a head, ``i`` and ``i + R/2`` are a pair: ``x[i] cos[i] - x[i + R/2] sin[i]`` and
    ``x[i + R/2] cos[i + R/2] + x[i] sin[i + R/2]``, computed in fp32 and rounded once. The others stay.

    Parameters
    ----------
    states : Tensor
        ``[T, H, D]``, any floating dtype; overwritten.
    cos, sin : Tensor
        ``[T, R]`` with an even ``R`` of at most ``D``.
    implementation : str
        ``auto`` (Triton on a GPU, torch elsewhere), ``reference`` or ``triton``; the last has no backward pass.

    Returns
    -------
    Tensor
        ``states``.

    Raises
    ------
    ValueError
        For tensors that do not fit each other, and unknown implementations.
    """
    check_rows("states", states)
    fits = states.dim() == 3 and cos.dim() == 2 and cos.shape == sin.shape and len(cos) == len(states)
    if not fits or cos.shape[1] % 2 or not 2 <= cos.shape[1] <= states.shape[2]:
        raise ValueError(
            "rotary_ needs states [T, H, D], and cos and sin [T, R] with an even R of at most D, got "
            f"{list(states.shape)}, {list(cos.shape)} and {list(sin.shape)}"
        )
    if not states.device == cos.device == sin.device:
        raise ValueError(f"states, cos and sin must share a device, got {states.device}, {cos.device} and {sin.device}")
    run = choose(implementation, IMPLEMENTATIONS, states, cos, sin, any_width=True, portable="reference")
    return run(states, cos, sin)
