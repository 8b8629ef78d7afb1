"""Compile every Triton kernel for GPUs that are not here, and show what the compiler made of it.

    python benchmarks/compile_kernels.py [--quick]

For sm_80, sm_89 and sm_90, each head dimension and dtype, and for large groups of heads; of the row-wise kernels for
the widths of models: registers per thread, bytes spilled to local memory, shared memory, instructions, and the
tensor-core instruction. Exits with 1 where a kernel of a group of 4 spills more than the assembler does of its own
accord to stay below a register count, needs more shared memory than the GPU has, multiplies half precision without
tensor cores, adds fp32 products to a running sum term by term, is row-wise and does not move 16 bytes in most of its
loads and stores of half precision (a weight as short as a head is spread over all threads), or is compiled for a number
that differs from list to list. Nothing is timed: that takes a GPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if os.environ.pop("TRITON_INTERPRET", None):
    print("TRITON_INTERPRET is ignored here: interpreted kernels are not compiled", file=sys.stderr)

import torch
import triton
from blockrank_kernels.block_attention.triton import backward, forward, tile_sizes
from blockrank_kernels.document_lse import triton as document_lse
from blockrank_kernels.gated_activation import triton as gated_activation
from blockrank_kernels.gpu import COMPILER, MAX_GROUP_WIDTH, padded_size, row_tile, shared_memory
from blockrank_kernels.rms_norm import triton as rms_norm
from blockrank_kernels.rotary import triton as rotary
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOLERATED_SPILL = 32
"""Bytes per thread: at exactly 64, 72, 80, 96, 128 and 168 registers ptxas stores up to eight numbers elsewhere so that
one more block fits on a multiprocessor."""

CHAIN = re.compile(r"tt\.dot [^,]+, [^,]+, %arg\d+")
"""A product that starts from a sum which a loop carries along."""

INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP|BRA `)", re.MULTILINE)
"""One line of machine code that does something."""

GLOBAL = re.compile(r"\b(?:ld|st)\.global\S*")
"""A load or a store of memory; with ``.v4`` it moves 16 bytes."""

LIVE = {"rows_in_all", "tokens_in_all", "first_row", "first_key", "count", "documents"}
"""Integers that differ from list to list."""

HEAD_DIM = 384
"""Head dimension of the default model's scoring layer, which is in fp32; unknown text on both sides adds one."""

LARGE_GROUPS = {dim: MAX_GROUP_WIDTH // dim for dim in (64, 128)}
"""Query heads per key head, by head dimension, as many as are accepted; tiles of dimension 256 hold them anyway."""

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
POINTERS = {"lse", "delta", "partial", "partial_lse"}
TABLES = {"items", "merged", "positions", "offsets"}
GRADIENTS = {"out", "dQ", "dK", "dV"}
ROWS = {"states", "residual", "weight", "total", "cos", "sin"}
ROW_WISE = ("rms_norm_kernel", "rotary_kernel", "gated_activation_kernel")
NO_PRODUCT = ("merge_softmax_kernel", "merge_sum_kernel", "delta_kernel", *ROW_WISE)

WIDTHS = {"hidden": (2048, 3584, 4096, 5376, 8192), "head": (64, 96, 128, 256), "intermediate": (8192, 14336, 18944)}
"""Numbers of a row: of states, of a head, of a gate; those of Llama, Mistral, Qwen, Gemma and Phi."""

QUICK_WIDTHS = {"hidden": (4096,), "head": (128,), "intermediate": (14336,)}
"""Those of Mistral-7B."""


class Variant(NamedTuple):
    """One kernel with the constants and options that it is launched with."""

    kernel: Any
    dim: int
    dtype: torch.dtype
    constants: dict[str, Any]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        """Operation and kernel, with the flags that set the variant apart."""
        flags = [flag.lower() for flag in ("SPLIT", "SOFTCAP", "RESIDUAL", "SILU") if self.constants.get(flag)]
        flags += [f"group of {self.constants['GROUP']}"] if self.constants.get("GROUP", 4) > 4 else []
        flags += ["windowed"] if self.constants.get("WINDOW") else []
        operation = self.kernel.__module__.split(".")[1]
        return " ".join([f"{operation}.{self.kernel.__name__.removesuffix('_kernel')}", *flags])


class Compiled(NamedTuple):
    """What the compiler made of a variant."""

    registers: int
    spilled: int
    shared: int
    instructions: int
    tensor_core: str
    chained: bool
    wide: bool


def variants(capability: int, quick: bool) -> Iterator[Variant]:
    """Yield every kernel at the tile sizes that it is launched with."""
    for dtype in (torch.bfloat16,) if quick else TYPES:
        for dim in (128,) if quick else (32, 64, 128, 256):
            yield from _attention_variants(dim, dtype, capability, quick)
            yield from _lse_variants(dim, dtype, quick)
        yield from _row_variants(dtype, QUICK_WIDTHS if quick else WIDTHS)
    for dim in (HEAD_DIM,) if quick else (HEAD_DIM, HEAD_DIM + 1):
        yield from _lse_variants(dim, torch.float32, quick)


def _attention_variants(dim: int, dtype: torch.dtype, capability: int, quick: bool) -> Iterator[Variant]:
    extras: list[dict[str, Any]] = [{}] if quick else [{}, {"SPLIT": True}, {"SOFTCAP": True, "WINDOW": 4096}]
    shape = {"GROUP": 4, "dim": dim, "value_dim": dim, "DIM": dim, "VALUE_DIM": dim}
    large = [] if quick or dim not in LARGE_GROUPS else [{"GROUP": LARGE_GROUPS[dim]}]
    for extra in [*extras, *large]:
        flags = {"SPLIT": False, "CAUSAL": True, "WINDOW": 0, "SOFTCAP": False} | extra
        for kernel, sizes in (
            (forward.forward_kernel, tile_sizes.forward_sizes(dim, dtype, capability)),
            (backward.query_gradient_kernel, tile_sizes.query_gradient_sizes(dim, dtype, flags["SOFTCAP"], capability)),
            (backward.key_gradient_kernel, tile_sizes.key_gradient_sizes(dim, dtype, flags["SOFTCAP"], capability)),
        ):
            tall = tile_sizes.with_group(sizes, flags.get("GROUP", 4))
            constants = shape | flags | {"ROWS": tall.rows, "KEYS": tall.keys}
            yield Variant(kernel, dim, dtype, constants, tall.warps, tall.stages)
    rows, warps = tile_sizes.forward_sizes(dim, dtype, capability).rows, tile_sizes.MERGE_WARPS
    merged = {"GROUP": 4, "ROWS": rows}
    value = {"value_dim": dim, "VALUE_DIM": dim}
    yield Variant(forward.merge_softmax_kernel, dim, dtype, merged | value, warps, 3)
    yield Variant(backward.merge_sum_kernel, dim, dtype, merged | {"dim": dim, "DIM": dim}, warps, 3)
    yield Variant(backward.delta_kernel, dim, dtype, {"ROWS": tile_sizes.DELTA_ROWS} | value, 4, 3)


def _lse_variants(dim: int, dtype: torch.dtype, quick: bool) -> Iterator[Variant]:
    size = document_lse.slice_size(dim)
    tiles = document_lse.launch_options(size, dtype)
    warps, stages = tiles.pop("num_warps"), tiles.pop("num_stages")
    for softcap in (False,) if quick else (False, True):
        constants: dict[str, Any] = {"SOFTCAP": softcap, "dim": dim, "DIM": size} | tiles
        yield Variant(document_lse.forward_kernel, dim, dtype, constants, warps, stages)
        yield Variant(document_lse.key_gradient_kernel, dim, dtype, constants, warps, stages)
        chunked = constants | {"CHUNK": document_lse.DOCUMENTS_PER_CHUNK}
        yield Variant(document_lse.query_gradient_kernel, dim, dtype, chunked, warps, stages)


def _row_variants(dtype: torch.dtype, widths: dict[str, tuple[int, ...]]) -> Iterator[Variant]:
    # A launch with one head is compiled for it.
    of_states = [(width, {"heads": 1, "RESIDUAL": added}) for width in widths["hidden"] for added in (False, True)]
    for width, flags in [*of_states, *((dim, {"RESIDUAL": False}) for dim in widths["head"])]:
        tile = row_tile(padded_size(width), rms_norm.NUMBERS)
        constants: dict[str, Any] = {"width": width, "ROWS": tile.rows, "WIDTH": padded_size(width)} | flags
        yield Variant(rms_norm.rms_norm_kernel, width, dtype, constants, tile.warps, 3)
    for dim in widths["head"]:
        half = dim // 2
        tile = row_tile(padded_size(half), rotary.PAIRS)
        constants = {"half": half, "ROWS": tile.rows, "HALF": padded_size(half)}
        yield Variant(rotary.rotary_kernel, dim, dtype, constants, tile.warps, 3)
    for width in widths["intermediate"]:
        tile = row_tile(gated_activation.COLUMNS, gated_activation.NUMBERS)
        for silu in (True, False):
            constants = {"width": width, "SILU": silu, "ROWS": tile.rows, "COLUMNS": gated_activation.COLUMNS}
            yield Variant(gated_activation.gated_activation_kernel, width, dtype, constants, tile.warps, 3)


def compiled(variant: Variant, capability: int) -> Compiled:
    """Compile a variant to machine code and read what it needs."""
    names = variant.kernel.arg_names
    signature = {name: _type(name, variant) for name in names}
    # Launches with aligned pointers and even strides promise this too.
    even = ("_token", "_head") if variant.dim % 16 == 0 else ()
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or name.endswith(even)
    }
    source = ASTSource(variant.kernel, signature, variant.constants, aligned)
    options = {"num_warps": variant.warps, "num_stages": variant.stages} | COMPILER
    program = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    found = re.search(r"wgmma\.mma_async|mma\.sync", program.asm["ptx"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"{field}:(\d+)", usage)[1]) for field in ("REG", "STACK"))
    chained = variant.dtype == torch.float32 and CHAIN.search(program.asm["ttgir"]) is not None
    instructions = len(INSTRUCTION.findall(code))
    accesses = GLOBAL.findall(program.asm["ptx"])
    wide = 2 * sum(".v4" in access for access in accesses) > len(accesses)
    return Compiled(registers, stack, program.metadata.shared, instructions, found[0] if found else "-", chained, wide)


def _type(name: str, variant: Variant) -> str:
    if name in variant.constants:
        return "constexpr"
    if name in TABLES:
        return "*i64"
    if name in POINTERS or (name in GRADIENTS and variant.constants.get("SPLIT")):
        return "*fp32"
    if name in GRADIENTS | ROWS | {"Q", "K", "V", "grad"}:
        # The gradient of log-sum-exps is fp32, as they are.
        of_lse = variant.kernel.__module__ == document_lse.__name__ and name == "grad"
        return "*fp32" if of_lse else f"*{TYPES[variant.dtype]}"
    return "fp32" if name in ("scale", "factor", "cap", "eps", "offset") else "i32"


def main(quick: bool) -> int:
    print(f"triton {triton.__version__}")
    print(
        f"{'kernel':44} {'arch':5} {'dtype':5} {'dim':>4} {'regs':>4} {'spill B':>7} {'shared B':>8} {'code':>5}  "
        "tensor core"
    )
    faults = 0
    for capability in (80, 90) if quick else (80, 89, 90):
        for variant in variants(capability, quick):
            result = compiled(variant, capability)
            half = variant.dtype != torch.float32 and variant.kernel.__name__ not in NO_PRODUCT
            spills = result.spilled > TOLERATED_SPILL and variant.constants.get("GROUP", 4) == 4
            slow = half and result.tensor_core == "-"
            recompiled = any(p.name in LIVE and not p.do_not_specialize for p in variant.kernel.params)
            narrow = variant.kernel.__name__ in ROW_WISE and variant.dtype != torch.float32 and not result.wide
            large = result.shared > shared_memory(capability)
            fault = spills or slow or result.chained or recompiled or narrow or large
            faults += fault
            print(
                f"{variant.name:44} sm_{capability} {TYPES[variant.dtype]:5} {variant.dim:4} {result.registers:4} "
                f"{result.spilled:7} {result.shared:8} {result.instructions:5}  "
                f"{result.tensor_core}{'  FAULT' if fault else ''}",
                flush=True,
            )
    print(f"{faults} faults")
    return int(faults > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="bf16 with head dimension 128 alone")
    raise SystemExit(main(**vars(parser.parse_args())))
