from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from blockrank_kernels.gpu import Verdict
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

QUANTIZATIONS = ("float8",)
"""What the weights of linear layers, and what they multiply, can be rounded to."""

FLOAT8_CAPABILITY = (8, 9)
"""Oldest compute capability that multiplies 8-bit floating point (Ada)."""

FLOAT8_MULTIPLE = 16
"""The sizes of a linear layer have to be multiples of this."""

INSTALL_LINE = "pip install 'blockrank-rerank[float8]'"


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


def float8_on(device: torch.device) -> Verdict:
    """Whether linear layers can be computed in 8-bit floating point on a device."""
    if not _has_torchao():
        return Verdict(False, f"torchao is not installed ({INSTALL_LINE})")
    if device.type != "cuda" or torch.version.hip is not None:
        return Verdict(False, "needs an NVIDIA GPU")
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        return Verdict(False, f"compute capability {capability[0]}.{capability[1]} is below 8.9")
    return Verdict(True, "8-bit products by torchao, where quantization='float8' asks for them")


def refuse_quantization(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a device or dtype on which float8 cannot run.

    Raises
    ------
    ImportError
        Where torchao is missing.
    ValueError
        For a device without such products, or another dtype than bf16.
    """
    if not _has_torchao():
        raise ImportError(f"quantization float8 needs torchao: {INSTALL_LINE}")
    if not (verdict := float8_on(device)).usable:
        raise ValueError(f"quantization float8 cannot run on {device}: {verdict.reason}")
    if dtype != torch.bfloat16:
        raise ValueError(f"quantization float8 needs dtype bfloat16, got {str(dtype).removeprefix('torch.')}")


def quantize_linear_layers(model: Any) -> None:
    """Round a model's linear layers to 8-bit floating point (e4m3), with a scale for every output, in place.

    What they multiply is rounded when it comes, with a scale for every token: one for a whole pack would make a
    document's states depend on the others. Layers whose sizes are no multiples of 16 stay as they are.
    """
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def fits(module: Any, name: str) -> bool:
        sizes = (module.in_features, module.out_features) if isinstance(module, torch.nn.Linear) else (1,)
        return all(size % FLOAT8_MULTIPLE == 0 for size in sizes)

    quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False), fits)


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """What a tensor of torchao is made of; any other tensor itself."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def _has_torchao() -> bool:
    return importlib.util.find_spec("torchao") is not None
