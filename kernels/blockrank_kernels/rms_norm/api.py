"""``rms_norm``: arguments checked, implementation chosen."""

from __future__ import annotations

from torch import Tensor

from blockrank_kernels.arguments import check_rows, choose, refuse_gradient
from blockrank_kernels.gpu import MAX_ROW_WIDTH, launches_on
from blockrank_kernels.rms_norm import reference


def _triton(
    states: Tensor, weight: Tensor, eps: float, offset: float, residual: Tensor | None
) -> tuple[Tensor, Tensor]:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.rms_norm import triton

    refuse_gradient("rms_norm", states, weight, residual)
    if len(weight) > MAX_ROW_WIDTH:
        raise ValueError(f"rms_norm in triton takes rows of up to {MAX_ROW_WIDTH} numbers, got {len(weight)}")
    with launches_on(states):
        return triton.rms_norm(states, weight, eps, offset, residual)


IMPLEMENTATIONS = {"reference": reference.rms_norm, "triton": _triton}


def rms_norm(
    states: Tensor,
    weight: Tensor,
    *,
    eps: float,
    offset: float = 0.0,
    residual: Tensor | None = None,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return ``x / sqrt(mean(x²) + eps) * (offset + weight)`` of rows, and ``x``: the states, plus the residual.

    What is normalised is the sum as it is returned, in the dtype of ``states``; the rest is computed in fp32 and
    rounded once (Zhang and Sennrich 2019, arXiv 1910.07467).

    Parameters
    ----------
    states : Tensor
        ``[T, D]``, or ``[T, H, D]`` for rows of heads; any floating dtype.
    weight : Tensor
        ``[D]``.
    eps : float
        Added to the mean of squares.
    offset : float
        Added to the weight: 1 for Gemma's, which begin at 0.
    residual : Tensor, optional
        As ``states``, to which it is added.
    implementation : str
        ``auto`` (Triton on a GPU, torch elsewhere), ``reference`` or ``triton``; the last has no backward pass.

    Returns
    -------
    normalised, total : Tensor
        In shape and dtype of ``states``. Without a residual the second is ``states`` itself.

    Raises
    ------
    ValueError
        For tensors that do not fit each other, and unknown implementations.
    """
    check_rows("states", states)
    if weight.shape != states.shape[-1:] or weight.device != states.device:
        raise ValueError(
            f"weight must be [{states.shape[-1]}] on {states.device} for these states, got {list(weight.shape)} on "
            f"{weight.device}"
        )
    if residual is not None and (
        residual.shape != states.shape or residual.dtype != states.dtype or residual.device != states.device
    ):
        raise ValueError(
            f"residual must be as states, {list(states.shape)} {states.dtype}, got {list(residual.shape)} "
            f"{residual.dtype}"
        )
    run = choose(implementation, IMPLEMENTATIONS, states, weight, any_width=True, portable="reference")
    return run(states, weight, eps, offset, residual)
