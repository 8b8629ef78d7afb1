"""How linear layers are computed: fused, or in chunks of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blockrank_rerank.model.devices import fast_bf16, profile_of
from blockrank_rerank.model.families import feed_forward_place, layers_of, separate_activation

QUANTIZATIONS = ("int8",)
"""What the weights of linear layers, and what they multiply, can be rounded to."""


def check_quantization(quantization: str | None) -> str | None:
    """Return the name of a quantization, or nothing.

    Raises
    ------
    ValueError
        For any other name.
    """
    if quantization is None or quantization in QUANTIZATIONS:
        return quantization
    raise ValueError(f"quantization must be {' or '.join(QUANTIZATIONS)}, or nothing, got {quantization!r}")


def chunk_feed_forward(model: Any) -> None:
    """Make every layer's feed-forward part work through a long pack in chunks of rows; no row depends on another.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model of a supported family. Its parameters keep their names.
    """
    # transformers' own chunk_size_feed_forward is for BERT alone and wants a length that it divides.
    width = model.config.intermediate_size
    for layer in layers_of(model):
        owner, name = feed_forward_place(layer)
        # The unbound method: a deep copy of the model must call its own layers, not these.
        setattr(owner, name, partial(_in_chunks, getattr(type(owner), name), owner, width))


def _in_chunks(function: Callable[..., Tensor], owner: Any, width: int, hidden: Tensor) -> Tensor:
    """``function(owner, hidden)`` for ``[1, T, hidden]``, some rows at a time."""
    limit = profile_of(hidden.device).chunk_bytes
    rows = max(limit // (width * hidden.element_size()), 1)
    if hidden.shape[1] <= rows:
        return function(owner, hidden)
    return torch.cat([function(owner, part) for part in hidden.split(rows, 1)], 1)


class FusedLinear(nn.Linear):
    """A linear layer whose bias and activation oneDNN applies inside the product; for inference without autocast.

    Torch copies the bias over the whole result first and adds the product to it, which takes up to a third longer
    (dev/LOG.md).
    """

    activation = "none"

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        # Private, but what torch.compile makes of a linear layer on a CPU.
        output: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, self.activation, [], "none")
        return output


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fused layers are known to pay: in bf16 on a CPU with units for it (dev/LOG.md)."""
    known = bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return device.type == "cpu" and dtype == torch.bfloat16 and known and fast_bf16(device).usable


def fuse_linear_layers(model: Any) -> None:
    """Make the linear layers of a base model of a supported family fused ones; its parameters keep their names."""
    for module in model.modules():
        if type(module) is nn.Linear and module.bias is not None:
            module.__class__ = FusedLinear
    if getattr(model.config, "hidden_act", None) == "gelu":
        for layer in layers_of(model):
            _take_in_activation(layer)


def _take_in_activation(layer: Any) -> None:
    found = separate_activation(layer)
    if found is not None:
        linear, owner, name = found
        linear.activation = "gelu"
        setattr(owner, name, nn.Identity())
