"""Parts that the GPU benchmarks share: workload, machine, arithmetic, timing, FlexAttention, tables."""

from __future__ import annotations

import argparse
import functools
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import torch
from blockrank_kernels import Segments
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from transformers import AutoModel, MistralConfig

from blockrank_rerank.evaluation.machine import machine as described
from blockrank_rerank.model.backbone import ATTENTION_NAME
from blockrank_rerank.model.layout import Layout, build_layout

CEILING_TFLOPS = 790.0
"""bf16 matrix products on one H200, measured (KERNELS.md)."""

CEILING_TB_PER_S = 4.3
"""Device-to-device copies on one H200, bytes read and written, measured (KERNELS.md)."""

QUERY_OFFSET = 16384
"""Query offset of the released checkpoint (blockrank_rerank/config.py)."""

TILT = 0.62
"""Skewed lengths are log-uniform with a tilt: log-uniform alone, 50–384 tokens average 164 and not 200."""

FLEX_BLOCK = 128
"""FlexAttention's default block."""

WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}
"""The wider dtype in which results are checked, by dtype."""


class Workload(NamedTuple):
    """Model, device and lengths in tokens of what is run."""

    device: torch.device
    dtype: torch.dtype
    model: dict[str, int]
    scoring_layer: int
    documents: list[int]
    instruction: int
    query: int
    document: int
    shortest: int
    longest: int


FULL = Workload(
    device=torch.device("cuda"),
    dtype=torch.bfloat16,
    model={  # config.json of mistralai/Mistral-7B-Instruct-v0.3
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    scoring_layer=20,
    documents=[10, 50, 100, 200, 500],
    instruction=128,
    query=96,
    document=200,
    shortest=50,
    longest=384,
)

TINY = Workload(
    device=torch.device("cpu"),
    dtype=torch.float32,
    model={
        "vocab_size": 32768,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    },
    scoring_layer=2,
    documents=[3, 12],
    instruction=13,
    query=9,
    document=20,
    shortest=5,
    longest=38,
)


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all GPU benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small layers in fp32 on the CPU: proves that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ceiling", type=float, default=CEILING_TFLOPS, help="TFLOP/s of bf16 matrix products")
    parser.add_argument("--output", type=Path, help="write the rows as JSON, for plot.py")
    parser.add_argument("--commit", help="where there is no git to ask")
    return parser


def workload(tiny: bool) -> Workload:
    """Return the workload that was asked for; the full one needs a GPU."""
    if not tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device here: run this on a GPU, or with --tiny to see that it works")
    return TINY if tiny else FULL


def middle(counts: list[int]) -> int:
    """Return the number of documents of which one list stands for all: 100 of the full workload's."""
    return counts[(len(counts) - 1) // 2]


def document_lengths(work: Workload, kind: str, count: int) -> list[int]:
    """Return ``uniform`` lengths, or ``skewed`` ones from shortest to longest in an order that never changes."""
    if kind == "uniform":
        return [work.document] * count
    ratio = work.longest / work.shortest
    lengths = [round(work.shortest * ratio ** ((rank / (count - 1)) ** TILT)) for rank in range(count)]
    random.Random(0).shuffle(lengths)
    return lengths


def packed(work: Workload, lengths: list[int], padded_to: int = 0) -> Layout:
    """Pack a request of random tokens, the same for the same lengths; shorter documents may be padded with token 0."""
    request = common.random_request(work.instruction, lengths, work.query)
    documents = [document + [0] * (padded_to - len(document)) for document in request.documents]
    return build_layout([replace(request, documents=documents)], QUERY_OFFSET)


def random_mistral(work: Workload, scoring_layer: int) -> torch.nn.Module:
    """Make a Mistral of random weights up to the scoring layer, on the device and in the dtype of its use."""
    torch.manual_seed(0)
    config = MistralConfig(
        **work.model, num_hidden_layers=scoring_layer + 1, max_position_embeddings=32768, sliding_window=None
    )
    with work.device:
        model = AutoModel.from_config(config, dtype=work.dtype, attn_implementation=ATTENTION_NAME)
    return model.eval().requires_grad_(False)


def gemm_flops(config: Any, tokens: int, scoring_layer: int) -> float:
    """Count the FLOPs of matrix products before the scoring layer, and of its key projection."""
    hidden, head_dim = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    weights = 2 * hidden * queries + 2 * hidden * keys + 3 * hidden * config.intermediate_size
    return 2.0 * tokens * (scoring_layer * weights + hidden * keys)


def visible_pairs(segments: Segments) -> int:
    """Count the pairs of a row and a key that it sees, causal."""
    lengths = segments.offsets.diff()
    contexts = segments.context_ends - segments.context_starts
    return int((lengths * contexts + lengths * (lengths + 1) // 2).sum())


def attention_flops(pairs: int, heads: int, head_dim: int) -> float:
    """Count the FLOPs of the two products of one attention call."""
    return 4.0 * pairs * heads * head_dim


def machine(device: torch.device, commit: str | None) -> str:
    """Describe the machine in one line: commit, processor, its measured ceilings, torch."""
    if device.type == "cpu":
        return str(described())
    import triton

    tflops, tb_per_s = _measured_ceilings(device)
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return (
        f"commit {commit or _commit()}, {torch.cuda.get_device_name(device)}, {memory:.0f} GiB, measured here "
        f"{tflops:.0f} TFLOP/s bf16 and {tb_per_s:.2f} TB/s, torch {torch.__version__}, triton {triton.__version__}"
    )


def _commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _measured_ceilings(device: torch.device) -> tuple[float, float]:
    """Measure TFLOP/s of a large bf16 product of random numbers, and TB/s of a large copy."""
    size = 8192
    left, right = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    source = torch.empty(2**30, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    times = medians_ms({"product": lambda: left @ right, "copy": lambda: target.copy_(source)}, 10, device)
    return 2e-9 * size**3 / times["product"].result, 2e-9 * source.numel() / times["copy"].result


def mark(device: torch.device) -> Any:
    """Take a point in time, on the device's clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between_ms(start: Any, end: Any) -> float:
    """Return the milliseconds between two marks."""
    if isinstance(start, float):
        return 1e3 * (end - start)
    end.synchronize()
    return float(start.elapsed_time(end))


def elapsed_ms(function: Callable[[], object], device: torch.device) -> float:
    """Time one call, on a device that has nothing else to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = mark(device)
    function()
    return between_ms(start, mark(device))


class Attempt(NamedTuple):
    """The result of a contestant's call, or its failure in a few words and in full, and the peak memory it added."""

    result: Any = None
    failure: str | None = None
    reason: str | None = None
    peak_gib: float | None = None

    @property
    def row(self) -> dict[str, Any]:
        """Cells of a row: the failure, where there is one, and the peak memory."""
        return {"failure": self.failure, "reason": self.reason, "peak GiB": self.peak_gib}

    def wrong(self, by: float) -> Attempt:
        """Return this attempt as one whose result is off by so much."""
        return self._replace(failure=f"wrong by {by:.1e}")


def attempt(function: Callable[[], Any]) -> Attempt:
    """Call a contestant; whatever fails is an outcome, so that the others still have their rows."""
    try:
        result = function()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        return Attempt(failure="out of memory", reason=_one_line(error))
    except Exception as error:
        return Attempt(failure=type(error).__name__, reason=_one_line(error))
    return Attempt(result)


def attempt_with_memory(function: Callable[[], Any], device: torch.device) -> Attempt:
    """Call a contestant, and measure the most memory that it needs beside what is in use."""
    if device.type != "cuda":
        return attempt(function)
    before = attempt(_reset_peak)
    done = before if before.failure else attempt(function)
    return done if done.failure else done._replace(peak_gib=_peak_gib(before.result))


def _reset_peak() -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_gib(before: int) -> float:
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def medians_ms(functions: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Attempt]:
    """Return each warm function's median time; in turns, so that a hot minute of the GPU hits all of them.

    One that fails has its failure instead.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    failed: dict[str, Attempt] = {}
    for _ in range(repeats):
        for name, function in functions.items():
            if name not in failed:
                done = attempt(partial(elapsed_ms, function, device))
                times[name].append(done.result)
                failed |= {name: done} if done.failure else {}
    return {name: failed.get(name) or Attempt(statistics.median(values)) for name, values in times.items()}


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attend under BlockRank's mask with torch's FlexAttention; causal, without soft-capping or windows."""
    plans = segments.plans
    if "flex" not in plans:
        plans["flex"] = flex_mask(segments, query.device)
    query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    # Compilation for a CPU takes longer than a tiny run.
    run = _compiled_flex() if query.is_cuda else flex.flex_attention
    return run(query, key, value, block_mask=plans["flex"], scale=scale, enable_gqa=True)[0].transpose(0, 1)


def forget_compiled() -> None:
    """Drop compiled code: every layout has a shape of its own, and torch gives up compiling after a few."""
    torch.compiler.reset()


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex.flex_attention, dynamic=False)


def flex_mask(segments: Segments, device: torch.device) -> flex.BlockMask:
    """Build the mask from block indices: nothing has T×T entries, the index tables have (T/128)²."""
    seen, full = flex_blocks(segments)
    tables = (*_ordered(seen & ~full, device), *_ordered(full, device))
    length = segments.num_tokens
    return flex.BlockMask.from_kv_blocks(
        *tables, BLOCK_SIZE=FLEX_BLOCK, mask_mod=_mask_mod(segments, device), seq_lengths=(length, length)
    )


def flex_blocks(segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[T/128, T/128]`` twice: the blocks of keys that a block of rows sees, and those seen in full."""
    size, tokens = FLEX_BLOCK, segments.num_tokens
    edges = np.arange(0, tokens, size)
    seen, full = np.zeros((len(edges), len(edges)), dtype=bool), np.ones((len(edges), len(edges)), dtype=bool)
    # As torch's own masks have it: an incomplete block is never full.
    full[-1] = tokens % size == 0

    def common(low: int, high: int) -> np.ndarray:
        """Count the tokens of each block that lie in a range."""
        return np.clip(np.minimum(edges + size, high) - np.maximum(edges, low), 0, None)

    bounds = (segments.offsets[:-1], segments.offsets[1:], segments.context_starts, segments.context_ends)
    for start, end, context_start, context_end in zip(*(bound.tolist() for bound in bounds), strict=True):
        context = common(context_start, context_end)
        for block in range(start // size, -(-end // size)):
            first, last = max(start, block * size), min(end, (block + 1) * size)
            # Of its segment the last row sees everything up to itself, and every row what the first one sees.
            seen[block] |= context + common(start, last) > 0
            full[block] &= context + common(start, first + 1) == size
    return seen, full


def _ordered(blocks: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the number of chosen blocks in each row of blocks, and all indices, chosen ones first."""
    table = torch.from_numpy(blocks.astype(np.int32)).to(device)[None, None]
    order = table.argsort(dim=-1, descending=True, stable=True)
    return table.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _mask_mod(segments: Segments, device: torch.device) -> Callable[..., Tensor]:
    segment = torch.repeat_interleave(torch.arange(segments.num_segments), segments.offsets.diff())
    bounds = (segment, segments.context_starts[segment], segments.context_ends[segment])
    segments_of_rows, starts, ends = (bound.to(device, torch.int32) for bound in bounds)

    def sees(batch: Tensor, head: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return ((key >= starts[row]) & (key < ends[row])) | (
            (segments_of_rows[row] == segments_of_rows[key]) & (key <= row)
        )

    return sees


class Table:
    """Rows printed as they come, and written as JSON each time: a run that is cut short keeps what it measured.

    Parameters
    ----------
    benchmark, machine : str
        What is measured, and where.
    columns : dict of str
        Title and format of each column; the column ``ms`` shows a row's ``failure`` where it has one.
    output : Path, optional
        The JSON file.
    """

    def __init__(self, benchmark: str, machine: str, columns: dict[str, str], output: Path | None) -> None:
        self.columns, self.output = columns, output
        self.content: dict[str, Any] = {"benchmark": benchmark, "machine": machine, "rows": []}
        print(machine)

    def head(self) -> None:
        """Print the titles."""
        print("  ".join(f"{title:{self._width(spec)}}" for title, spec in self.columns.items()))

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and write all of them."""
        shown = row | {"ms": row.get("failure") or row.get("ms")}
        print("  ".join(self._cell(shown.get(title), spec) for title, spec in self.columns.items()), flush=True)
        if row.get("reason"):
            print(f"  {row['failure']}: {row['reason']}", flush=True)
        self.content["rows"].append(row)
        if self.output:
            self.output.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def _cell(self, value: Any, spec: str) -> str:
        if isinstance(value, (int, float)):
            return f"{value:{spec}}"
        return f"{'-' if value is None else value:{self._width(spec)}}"

    @staticmethod
    def _width(spec: str) -> str:
        """Alignment and width of a format such as ``>8.1f``."""
        return spec.partition(".")[0].rstrip("df%")
