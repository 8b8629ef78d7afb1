"""Whether the Triton kernels can run here, and how they are launched."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CAPABILITY = (8, 0)
"""Oldest compute capability that the kernels are compiled and checked for (Ampere)."""

MAX_HEAD_DIM = 256
"""Largest head dimension whose tiles fit the registers."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Verdict(NamedTuple):
    """Whether something can be used, and why."""

    usable: bool
    reason: str


def triton_on(device: torch.device) -> Verdict:
    """Whether Triton kernels run on a device.

    With ``TRITON_INTERPRET=1`` they run on a CPU too, slowly: for tests.
    """
    if not _has_triton():
        return Verdict(False, "triton is not installed (pip install triton)")
    if device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return Verdict(True, "interpreted, because TRITON_INTERPRET=1: correct, not fast")
        return Verdict(False, "Triton kernels need a GPU (or TRITON_INTERPRET=1 to test them on a CPU)")
    if device.type != "cuda":
        return Verdict(False, f"Triton kernels do not run on {device.type}")
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < CAPABILITY:
        return Verdict(False, f"compute capability {capability[0]}.{capability[1]} is below 8.0")
    return Verdict(True, f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}")


@cache
def _has_triton() -> bool:
    # Asked by every layer of every pass; looks through sys.path.
    return importlib.util.find_spec("triton") is not None


def triton_for(*tensors: Tensor) -> Verdict:
    """Whether the Triton kernels take these ``[rows, heads, dim]`` tensors."""
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return Verdict(False, f"Triton kernels take float16, bfloat16 and float32, got {tensor.dtype}")
        if tensor.shape[-1] > MAX_HEAD_DIM:
            return Verdict(False, f"Triton kernels take head dimensions up to {MAX_HEAD_DIM}, got {tensor.shape[-1]}")
    return triton_on(tensors[0].device)


def automatic(*tensors: Tensor) -> str:
    """Name of the implementation that ``auto`` stands for: Triton on a GPU that it fits, torch's own elsewhere."""
    return "triton" if tensors[0].is_cuda and triton_for(*tensors).usable else "sdpa"
