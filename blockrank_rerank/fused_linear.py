from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blockrank_rerank.choices import fast_bf16
from blockrank_rerank.families import layers_of, separate_activation


class FusedLinear(nn.Linear):
    """A linear layer whose bias and activation oneDNN applies inside the product; for inference without autocast.

    Torch copies the bias over the whole result first and adds the product to it, which takes up to a third longer
    (docs/LOG.md).
    """

    activation = "none"

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        # Private, but what torch.compile makes of a linear layer on a CPU.
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, self.activation, [], "none")


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fused layers are known to pay: in bf16 on a CPU with units for it (docs/LOG.md)."""
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
