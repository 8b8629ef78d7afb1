"""Which device and dtype to use where the user names none, and why; and how much work at a time suits a device."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from blockrank_kernels.gpu import Verdict, triton_on

from blockrank_rerank.errors import install_line

BF16_UNITS = {"AMX matrix units": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
"""What makes a CPU multiply bf16 faster than fp32 in whole passes (dev/LOG.md), and who in torch.cpu knows of it."""


class Choice(NamedTuple):
    """One thing that could be used: what it is, whether it can be, and why."""

    what: str
    usable: bool
    reason: str


def resolve_device(device: str | torch.device | None, argument: str = "device") -> torch.device:
    """Return the named device, or the first CUDA device, or the CPU; errors name the argument.

    Raises
    ------
    ValueError
        For names that torch does not know, and devices that this machine does not have.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).item()  # "meta" has tensors, but no values
    except (RuntimeError, AssertionError, TypeError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{argument} must be one that torch can use here, got {str(device)!r}: {reason}") from error
    return resolved


def check_device(device: str | torch.device | None, argument: str = "device") -> None:
    """Refuse a device that torch does not know, or that this machine does not have, without starting it.

    A process that forks later could not use a GPU that was started in it.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if device is None or device == "auto":
        return
    named = device_named(device, argument)
    count = _device_count(named.type)
    if count is not None and (named.index or 0) >= count:
        raise ValueError(
            f"{argument} must be one that torch can use here, got {str(device)!r}: this machine has {count or 'no'} "
            f"{named.type} device{'s' * (count != 1)} that torch can use"
        )


def _device_count(kind: str) -> int | None:
    """Devices of a kind on this machine; nothing where only using them would tell."""
    if kind == "cuda":
        return int(torch.cuda.device_count())
    return int(torch.backends.mps.is_available()) if kind == "mps" else None


def device_named(device: str | torch.device, argument: str = "device") -> torch.device:
    """The device of a name that torch knows, whether this machine has it or not.

    Raises
    ------
    ValueError
        Naming the argument, for any other name, and for ``meta``, whose tensors have no values.
    """
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{argument} must be one that torch can use here, got {str(device)!r}: {reason}") from error
    if named.type == "meta":
        raise ValueError(f"{argument} must be one that torch can use here, got 'meta', whose tensors have no values")
    return named


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the named floating dtype, or bf16 where the device multiplies it faster than fp32, or fp32.

    Raises
    ------
    ValueError
        For names that are no floating dtype of torch.
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if fast_bf16(device).usable else torch.float32
    resolved = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if resolved not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"dtype must be float32, bfloat16, float16, float64 or auto, got {dtype!r}")
    return resolved


def describe_choices() -> list[Choice]:
    """Devices, dtypes and attention implementations of this machine, usable or not, with reasons."""
    cuda = torch.cuda.is_available()
    cuda_reason = torch.cuda.get_device_name(0) if cuda else _no_cuda()
    mps = torch.backends.mps.is_available()
    device = resolve_device(None)
    return [
        Choice("device cuda", cuda, cuda_reason),
        Choice("device mps", mps, "Apple GPU; only used when named" if mps else "no Apple GPU on this machine"),
        Choice(
            "device cpu",
            True,
            f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        ),
        Choice("dtype bfloat16", *fast_bf16(device)[1:]),
        Choice("dtype float32", True, "always; the default where bfloat16 is not faster"),
        Choice("quantization int8", *int8_on(torch.device("cpu"))),
        Choice("attention triton", *_triton(device)),
        Choice("attention sdpa", True, "torch's own attention, a call for each length; what auto picks without triton"),
        Choice("attention reference", True, "the dense specification, for checking results; slow"),
    ]


def _triton(device: torch.device) -> Verdict:
    verdict = triton_on(device)
    return verdict._replace(reason=f"what auto picks: {verdict.reason}") if verdict.usable else verdict


def _no_cuda() -> str:
    return "this torch build has no CUDA" if torch.version.cuda is None else "no NVIDIA GPU or driver found"


def fast_bf16(device: torch.device) -> Choice:
    """Whether a device multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return Choice("bfloat16", native, "native on this GPU" if native else "needs compute capability 8.0")
    if device.type == "cpu":
        unit = next((name for name, probe in BF16_UNITS.items() if _cpu_has(probe)), None)
        return Choice("bfloat16", unit is not None, unit or f"no {' or '.join(BF16_UNITS)}: fp32 is as fast")
    return Choice("bfloat16", False, f"not known to be faster on {device.type}")


def _cpu_has(probe: str) -> bool:
    # Private, but the only way to ask.
    ask = getattr(torch.cpu, probe, None)
    return bool(ask and ask())


def has_vnni() -> bool:
    """Whether this CPU adds 8-bit products in 32 bits (AVX512-VNNI)."""
    return _cpu_has("_is_vnni_supported")


def int8_on(device: torch.device) -> Verdict:
    """Whether an encoder's linear layers can be computed in 8-bit integers on a device."""
    if device.type != "cpu":
        return Verdict(False, "it needs device='cpu'")
    if importlib.util.find_spec("openvino") is None:
        return Verdict(False, f"openvino is not installed ({install_line('openvino')})")
    return Verdict(True, "8-bit products by OpenVINO, for encoders, by quantization='int8'; pays with VNNI")


class DeviceProfile(NamedTuple):
    """How much work at a time suits a kind of device.

    Attributes
    ----------
    budget_tokens : int
        Packed tokens of one forward pass.
    max_workers : int
        Threads of passes that run at the same time.
    chunk_bytes : int
        Bytes of one feed-forward activation, the widest tensor of a model, at a time.
    """

    budget_tokens: int
    max_workers: int
    chunk_bytes: int


PROFILES = {
    # A CPU is as fast from about 2,000 tokens on and slower again from 16,000, where every activation is a fresh
    # mapping of memory. Python runs in one thread at a time, so that many would wait for each other. A feed-forward
    # activation that does not fit the cache is a fresh mapping for every layer: chunks make a whole ranking 1.2 times
    # as fast (dev/LOG.md).
    "cpu": DeviceProfile(budget_tokens=8192, max_workers=4, chunk_bytes=6 << 20),
    # A list of 500 documents in one pass; how much fits is a question of the memory that is free (engine/budget.py).
    "cuda": DeviceProfile(budget_tokens=262144, max_workers=1, chunk_bytes=256 << 20),
}
ACCELERATOR = DeviceProfile(budget_tokens=65536, max_workers=1, chunk_bytes=256 << 20)
"""Of every other device, where chunks only save memory: products of thousands of rows are at full speed."""


def profile_of(device: torch.device) -> DeviceProfile:
    """How much work at a time suits a device."""
    return PROFILES.get(device.type, ACCELERATOR)
