"""``gated_activation``: arguments checked, implementation chosen."""

from __future__ import annotations

from torch import Tensor

from blockrank_kernels.arguments import choose, refuse_gradient
from blockrank_kernels.gated_activation import reference
from blockrank_kernels.gpu import launches_on

ACTIVATIONS = ("silu", "gelu_tanh")
"""Functions of the gate: ``x sigmoid(x)``, and the GELU by its hyperbolic tangent (arXiv 1606.08415)."""


def _triton(states: Tensor, activation: str) -> Tensor:
    # Triton is an optional dependency and slow to import.
    from blockrank_kernels.gated_activation import triton

    refuse_gradient("gated_activation", states)
    with launches_on(states):
        return triton.gated_activation(states, activation)


IMPLEMENTATIONS = {"reference": reference.gated_activation, "triton": _triton}


def gated_activation(states: Tensor, *, activation: str, implementation: str = "auto") -> Tensor:
    """Return ``activation(gate) * rest`` of rows that are gate and rest (GLU variants, arXiv 2002.05202).

    Parameters
    ----------
    states : Tensor
        ``[T, 2 I]``, any floating dtype: the first half of a row is its gate. Computed in fp32 and rounded once.
    activation : str
        ``silu`` or ``gelu_tanh``.
    implementation : str
        ``auto`` (Triton on a GPU, torch elsewhere), ``reference`` or ``triton``; the last has no backward pass.

    Returns
    -------
    Tensor
        ``[T, I]`` in the dtype of ``states``.

    Raises
    ------
    ValueError
        For rows without two halves, and unknown activations and implementations.
    """
    if states.dim() != 2 or states.shape[1] % 2:
        raise ValueError(f"states must be [T, 2 I], got {list(states.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    run = choose(implementation, IMPLEMENTATIONS, states, any_width=True, portable="reference")
    return run(states, activation)
