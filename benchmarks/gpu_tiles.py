"""Sweep the tile shapes of block attention's forward kernel on a GPU: which rows, keys, warps and stages are fastest.

    PYTHONPATH=.:kernels python benchmarks/gpu_tiles.py [--output tiles.json] [--tiny]

Device time of one call at 100 documents of 50 to 384 tokens, with cold caches, as in gpu_kernels.py; `x own` is the
time over that of the shape that tile_sizes.py chooses, which comes first. A shape that gives a wrong result, needs too
much shared memory or does not compile has a row that says so. Rows are written as they come, and every shape compiles
anew: a run that is cut short has measured the likeliest shapes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from blockrank_kernels.block_attention.triton import launch
from blockrank_kernels.block_attention.triton.tile_sizes import TileSizes
from blockrank_kernels.gpu import triton_on
from gpu_common import (
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
    document_lengths,
    machine,
    middle,
    packed,
    workload,
)
from gpu_kernels import FILLER_BYTES, Problem, attention_problem, checked, time_ms
from torch import Tensor

from blockrank_rerank.model.layout import Layout

SHAPES = [*product((128, 64), (64, 128, 32), (8, 4), (3, 2, 4))]
"""Rows, keys, warps and stages."""

TINY_SHAPES = [(16, 16, 4, 1), (32, 16, 4, 1)]

COLUMNS = {
    "dim": ">4d",
    "rows": ">5d",
    "keys": ">5d",
    "warps": ">6d",
    "stages": ">7d",
    "ms": ">19.4f",
    "TFLOP/s": ">8.3g",
    "x own": ">6.2f",
    "error": ">8.1e",
}


def in_use(problem: Problem) -> TileSizes:
    """Return the shape that the launcher chooses for a problem."""
    chosen: list[TileSizes] = []
    choose = launch.forward_sizes
    with patch.object(launch, "forward_sizes", lambda *given: chosen.append(choose(*given)) or chosen[-1]):
        problem.functions["triton"](*problem.inputs)
    return chosen[0]


def measure(problem: Problem, sizes: TileSizes, filler: Tensor | None, work: Workload, repeats: int) -> Attempt:
    """Return the median time and the error of one shape."""
    with patch.object(launch, "forward_sizes", lambda *given: sizes):
        done = checked(problem, "forward", ["triton"], work)["triton"]
        if done.failure:
            return done
        times = [time_ms(problem, "forward", "triton", filler) for _ in range(repeats)]
    return done._replace(result=(statistics.median(times), max(error.value for error in done.result)))


def rows(problem: Problem, work: Workload, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each shape, the one in use first."""
    filler = torch.empty(FILLER_BYTES, dtype=torch.uint8, device=work.device) if work.device.type == "cuda" else None
    chosen, own = in_use(problem), None
    others = [TileSizes(*shape) for shape in (TINY_SHAPES if options.tiny else SHAPES)]
    for sizes in [chosen, *(shape for shape in others if shape != chosen)]:
        done = attempt(partial(measure, problem, sizes, filler, work, options.repeats))
        done = done.result or done
        cells = sizes._asdict() | done.row
        if done.failure is None:
            ms, error = done.result
            own = own or ms
            cells |= {"ms": ms, "TFLOP/s": 1e-9 * problem.flops["forward"] / ms, "x own": ms / own, "error": error}
        yield cells


def sweep(table: Table, size: dict[str, int], layout: Layout, work: Workload, options: argparse.Namespace) -> None:
    """Add a row for each shape to the table, for one head dimension."""
    heads = work.model["num_attention_heads"], work.model["num_key_value_heads"]
    torch.manual_seed(0)
    for row in rows(attention_problem(layout, heads, size["dim"], work), work, options):
        table.add(size | row)


def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("tiles", machine(work.device, options.commit), COLUMNS, options.output)
    table.head()
    if not (verdict := triton_on(work.device)).usable:
        table.add({"failure": "cannot run", "reason": verdict.reason})
        return
    count = options.documents or middle(work.documents)
    layout = packed(work, document_lengths(work, "skewed", count))
    for dim in options.dims or ([16] if options.tiny else [128, 64]):
        size = {"dim": dim, "documents": count}
        done = attempt(partial(sweep, table, size, layout, work, options))
        if done.failure:
            table.add(size | done.row)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, help="100 if not given")
    parser.add_argument("--dims", type=int, nargs="+", help="head dimensions: 128 and 64 if not given")
    main(parser.parse_args())
