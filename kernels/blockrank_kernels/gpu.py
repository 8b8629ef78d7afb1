"""Whether the Triton kernels can run here, and how they are launched."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

CAPABILITY = (8, 0)
"""Oldest compute capability that the kernels are compiled and checked for (Ampere)."""

MAX_HEAD_DIM = 256
"""Largest head dimension whose tiles fit the registers, where an operation needs all of it at a time."""

MAX_GROUP_WIDTH = 8192
"""Largest number of query heads per key head, times head dimension, whose tiles fit the shared memory of any GPU."""

INTERPRET = frozenset({"1", "true", "yes", "on", "y"})
"""Values of ``TRITON_INTERPRET`` that Triton takes for yes."""

COMPILER = {"enable_fp_fusion": True}
"""Options of every launch. A product and a sum in one step round once; Triton 3.10 no longer does so unasked."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Dtypes that the kernels are written and checked for."""


class Verdict(NamedTuple):
    """A decision whether something can be used, with its reason."""

    usable: bool
    reason: str


def padded_size(size: int) -> int:
    """Return the next power of two that ``tl.dot`` takes."""
    return max(16, 1 << (size - 1).bit_length())


SHARED_MEMORY = {80: 166_912, 87: 166_912, 90: 232_448, 100: 232_448, 103: 232_448}
"""Bytes of shared memory that a block may have (CUDA C Programming Guide, technical specifications)."""

LEAST_SHARED_MEMORY = 101_376
"""The same for every other GPU from compute capability 8.0 on: 8.6, 8.9, 12.0."""


def shared_memory(capability: int) -> int:
    """Bytes of shared memory that a block may have on a GPU of compute capability 80, 90, …."""
    return SHARED_MEMORY.get(capability, LEAST_SHARED_MEMORY)


PROCESSORS = 108
"""Multiprocessors of an A100, for which the interpreter shares work out."""


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROCESSORS


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor from the CPU to a device without waiting for what is queued there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def triton_on(device: torch.device) -> Verdict:
    """Say whether Triton kernels run on a device.

    With ``TRITON_INTERPRET=1`` they run on a CPU too, slowly: for tests.
    """
    if not _has_triton():
        return Verdict(False, "triton is not installed (pip install triton)")
    if device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET", "").lower() in INTERPRET:
            return Verdict(True, "interpreted, because TRITON_INTERPRET=1: correct, not fast")
        return Verdict(False, "Triton kernels need a GPU (or TRITON_INTERPRET=1 to test them on a CPU)")
    if device.type != "cuda":
        return Verdict(False, f"Triton kernels do not run on {device.type}")
    if torch.version.hip is not None:
        return Verdict(False, "Triton kernels are compiled and checked for NVIDIA's GPUs, and this torch is for AMD's")
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return Verdict(False, f"compute capability {capability[0]}.{capability[1]} is below 8.0")
    if problem := _launch_problem():
        return Verdict(False, f"Triton cannot start: {problem}")
    return Verdict(True, f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}")


@cache
def _has_triton() -> bool:
    # Asked by every layer of every pass; looks through sys.path.
    return importlib.util.find_spec("triton") is not None


@cache
def _launch_problem() -> str | None:
    """Return what keeps Triton from launching anything: it compiles a helper in C when it starts."""
    try:
        from triton.runtime import driver

        _ = driver.active.utils
    except Exception as error:
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def launches_on(tensor: Tensor) -> AbstractContextManager[None]:
    """Make the tensor's GPU the current one: Triton launches there and never asks where its tensors lie."""
    return torch.cuda.device_of(tensor)


def triton_for(*tensors: Tensor, any_width: bool = False) -> Verdict:
    """Say whether the Triton kernels take these ``[rows, heads, dim]`` tensors, the query first.

    ``any_width`` is for an operation that takes a head dimension piece by piece and heads one at a time.
    """
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return Verdict(False, f"Triton kernels take float16, bfloat16 and float32, got {tensor.dtype}")
    verdict = triton_on(tensors[0].device)
    return verdict if any_width or not verdict.usable else _too_large(*tensors) or verdict


def _too_large(*tensors: Tensor) -> Verdict | None:
    """Refuse heads whose tiles are too large."""
    for tensor in tensors:
        if tensor.shape[-1] > MAX_HEAD_DIM:
            return Verdict(False, f"Triton kernels take head dimensions up to {MAX_HEAD_DIM}, got {tensor.shape[-1]}")
    group = max(tensors[0].shape[1] // tensor.shape[1] for tensor in tensors)
    if group * tensors[0].shape[-1] > MAX_GROUP_WIDTH:
        return Verdict(
            False,
            f"Triton kernels take up to {MAX_GROUP_WIDTH // tensors[0].shape[-1]} query heads per key head of this "
            f"dimension, got {group}",
        )
    return None


def automatic(*tensors: Tensor, any_width: bool = False) -> str:
    """Return the implementation that ``auto`` stands for: Triton on a GPU that it fits, torch's own elsewhere."""
    return "triton" if tensors[0].is_cuda and triton_for(*tensors, any_width=any_width).usable else "sdpa"


MAX_ROW_WIDTH = 16384
"""Most numbers of a row that a program holds at a time, where an operation needs all of them."""


class RowTile(NamedTuple):
    """Rows that one program of a row-wise kernel takes, with the compiler's option."""

    rows: int
    warps: int


def row_tile(width: int, numbers: int) -> RowTile:
    """Return how many rows of a power of two of numbers a program takes: so many numbers, or else one row."""
    return RowTile(max(1, numbers // width), max(4, width // 1024))


def with_row_strides(states: Tensor) -> tuple[Tensor, int, int, int]:
    """Return ``[T, D]`` or ``[T, H, D]`` states whose rows have their numbers side by side, two strides, and ``H``."""
    states = states if states.stride(-1) == 1 else states.contiguous()
    if states.dim() == 2:
        return states, states.stride(0), 0, 1
    return states, states.stride(0), states.stride(1), states.shape[1]
