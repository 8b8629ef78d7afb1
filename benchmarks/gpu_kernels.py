"""Measure each kernel alone, forward and backward, on a GPU.

    PYTHONPATH=.:kernels python benchmarks/gpu_kernels.py [--output kernels.json] [--tiny]

Device time in bf16 with cold caches, tables made: the time that Python needs to launch is hidden behind other work.
TFLOP/s count only pairs of a row and a key that it sees; backward counts 2.5 times block attention's forward pass
(arXiv 2205.14135) and 3 times that of the log-sum-exps. TB/s count every tensor once. No contestant is timed unless
each result and gradient is as near to torch's attention in fp32 as torch's own in bf16 is, within a factor of two
and a few roundings; otherwise its row says so. `error` is the largest distance, as a part of the largest value.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from blockrank_kernels.block_attention.api import IMPLEMENTATIONS as ATTENTION
from blockrank_kernels.document_lse.api import IMPLEMENTATIONS as LSE
from blockrank_kernels.gpu import triton_on
from gpu_common import (
    CEILING_TB_PER_S,
    WIDER,
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
    attention_flops,
    between_ms,
    document_lengths,
    flex_attention,
    forget_compiled,
    machine,
    mark,
    packed,
    visible_pairs,
    workload,
)
from torch import Tensor

from blockrank_rerank.model.layout import Layout

CONTESTANTS = ("triton", "sdpa", "flex")

SIGNALS = 2
"""Signal tokens of the released checkpoint."""

FILLER_BYTES = 2**30
"""Size of a write that empties every cache."""

FILLERS = 16
"""Writes before each call: at 4 TB/s, 4 ms in which Python can launch the kernels."""

ROUNDINGS = 4
"""Roundings of a result, in its dtype, that are no error."""

REORDERED = 1e-5
"""Relative error that summing in another order makes in fp32."""

COLUMNS = {
    "operation": "<15",
    "direction": "<9",
    "documents": ">9d",
    "lengths": "<8",
    "dim": ">4d",
    "contestant": "<10",
    "tokens": ">7d",
    "ms": ">19.4f",
    "TFLOP/s": ">8.3g",
    "of tensor cores": ">15.1%",
    "TB/s": ">8.3g",
    "of bandwidth": ">12.1%",
    "error": ">8.1e",
}


@dataclass
class Problem:
    """One operation on its inputs by each contestant, and what it costs forward and backward."""

    operation: str
    inputs: list[Tensor]
    functions: dict[str, Callable[..., Tensor]]
    flops: dict[str, float]
    bytes: dict[str, float]


def attention_problem(layout: Layout, heads: tuple[int, int], dim: int, work: Workload) -> Problem:
    """Set up block attention on random tokens."""
    segments, scale = layout.segments, dim**-0.5
    queries, keys = heads
    functions = dict(ATTENTION) | {"flex": flex_attention}
    flops = attention_flops(visible_pairs(segments), queries, dim)
    numbers = layout.num_tokens * dim * (queries + keys)
    return Problem(
        "block_attention",
        [_random(work, layout.num_tokens, count, dim) for count in (queries, keys, keys)],
        {name: _bound(run, segments, True, scale, None, None) for name, run in functions.items()},
        {"forward": flops, "backward": 2.5 * flops},
        # Read query, key, value, write the result; backward reads that and its gradient too, and writes three.
        {"forward": 2 * numbers * work.dtype.itemsize, "backward": 4 * numbers * work.dtype.itemsize},
    )


def lse_problem(layout: Layout, heads: tuple[int, int], dim: int, work: Workload) -> Problem:
    """Set up log-sum-exps of documents for random signal tokens."""
    offsets, scale = layout.requests[0].document_offsets, dim**-0.5
    queries, keys = heads
    tokens = int(offsets[-1] - offsets[0])
    # Moving the offsets waits for the GPU, so Triton gets them where it needs them.
    bounds = {name: offsets.to(work.device) if name == "triton" else offsets for name in LSE}
    flops = 2.0 * SIGNALS * tokens * queries * dim
    read = float(tokens * keys * dim * work.dtype.itemsize)
    return Problem(
        "document_lse",
        [_random(work, SIGNALS, queries, dim), _random(work, layout.num_tokens, keys, dim)],
        {name: _bound(run, bounds[name], scale, None) for name, run in LSE.items()},
        {"forward": flops, "backward": 3 * flops},
        {"forward": read, "backward": 2 * read},
    )


def _random(work: Workload, *shape: int) -> Tensor:
    return torch.randn(shape, device=work.device).to(work.dtype)


def _bound(function: Callable[..., Tensor], *rest: Any) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs, *rest)


def forward(problem: Problem, name: str, inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Return the call that gives the result."""
    return lambda: [problem.functions[name](*inputs)]


def backward(problem: Problem, name: str, inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    """Return the call that gives the gradients; the forward pass runs now."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = problem.functions[name](*leaves)
    seed = _seed(out, problem)
    return lambda: list(torch.autograd.grad(out, leaves, seed))


def _seed(out: Tensor, problem: Problem) -> Tensor:
    """Return the gradient of the result, the same for every contestant."""
    generator = torch.Generator(out.device).manual_seed(0)
    return torch.randn(out.shape, device=out.device, generator=generator).to(problem.inputs[0].dtype).to(out.dtype)


DIRECTIONS = {"forward": forward, "backward": backward}


class Error(NamedTuple):
    """Largest distance of a tensor from the truth, and what rounding alone may do; parts of its largest value."""

    value: float
    rounding: float

    def no_worse(self, eager: Error) -> bool:
        """Say whether the error is at most twice that of torch's attention, and rounding. NaN is not."""
        return self.value <= 2 * eager.value + self.rounding


def errors(results: list[Tensor], truth: list[Tensor]) -> list[Error]:
    """Return the error of each tensor."""
    return [
        Error(float((a - b).abs().max() / b.abs().max()), max(ROUNDINGS * torch.finfo(a.dtype).eps, REORDERED))
        for a, b in zip(results, truth, strict=True)
    ]


def checked(problem: Problem, direction: str, names: list[str], work: Workload) -> dict[str, Attempt]:
    """Return each contestant's errors, or how it failed: a wrong one by how much."""
    prepare = DIRECTIONS[direction]
    truth = prepare(problem, "sdpa", [tensor.to(WIDER[work.dtype]) for tensor in problem.inputs])()

    def compare(name: str) -> list[Error]:
        return errors(prepare(problem, name, problem.inputs)(), truth)

    found = {name: attempt(partial(compare, name)) for name in names}
    eager = compare("sdpa")
    for name, done in found.items():
        if done.failure is None and not all(map(Error.no_worse, done.result, eager)):
            found[name] = done.wrong(max(error.value for error in done.result))
    return found


def time_ms(problem: Problem, direction: str, name: str, filler: Tensor | None) -> float:
    """Measure the device time of one call; the device is kept busy until Python has launched it."""
    run = DIRECTIONS[direction](problem, name, problem.inputs)
    device = problem.inputs[0].device
    if filler is not None:
        torch.cuda.synchronize()
        for _ in range(FILLERS):
            filler.zero_()
    start = mark(device)
    run()
    return between_ms(start, mark(device))


def rows(problem: Problem, names: list[str], work: Workload, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Check all contestants, then time them in turns."""
    filler = torch.empty(FILLER_BYTES, dtype=torch.uint8, device=work.device) if work.device.type == "cuda" else None
    table_rows = []
    for direction in DIRECTIONS:
        found = checked(problem, direction, names, work)
        errors_of = {name: max(error.value for error in done.result) for name, done in found.items() if done.result}
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.repeats):
            for name in names:
                if found[name].failure is None:
                    found[name] = attempt(partial(time_ms, problem, direction, name, filler))
                    times[name].append(found[name].result)
        for name in names:
            cells = {"operation": problem.operation, "direction": direction, "contestant": name}
            cells |= found[name].row | {"error": errors_of.get(name)}
            if found[name].failure is None:
                cells |= _rates(problem, direction, statistics.median(times[name]), options)
            table_rows.append(cells)
    return table_rows


def _rates(problem: Problem, direction: str, ms: float, options: argparse.Namespace) -> dict[str, float]:
    tflops, tb_per_s = 1e-9 * problem.flops[direction] / ms, 1e-9 * problem.bytes[direction] / ms
    return {
        "ms": ms,
        "TFLOP/s": tflops,
        "of tensor cores": tflops / options.ceiling,
        "TB/s": tb_per_s,
        "of bandwidth": tb_per_s / options.bandwidth,
    }


def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("kernels", machine(work.device, options.commit), COLUMNS, options.output)
    verdict = triton_on(work.device)
    print(f"ceilings {options.ceiling} TFLOP/s and {options.bandwidth} TB/s; triton: {verdict.reason}")
    table.head()
    if not verdict.usable:
        table.add({"contestant": "triton", "failure": "cannot run", "reason": verdict.reason})
    names = [name for name in options.contestants if name != "triton" or verdict.usable]
    heads = work.model["num_attention_heads"], work.model["num_key_value_heads"]
    for kind in options.lengths:
        for count in options.documents or work.documents:
            layout = packed(work, document_lengths(work, kind, count))
            size = {"documents": count, "lengths": kind, "tokens": layout.num_tokens}
            for dim in options.dims or ([16] if options.tiny else [64, 128]):
                torch.manual_seed(0)
                for problem in (attention_problem(layout, heads, dim, work), lse_problem(layout, heads, dim, work)):
                    able = [name for name in names if name in problem.functions]
                    done = attempt(partial(rows, problem, able, work, options))
                    failed = [{"operation": problem.operation} | done.row]
                    for cells in failed if done.failure else done.result:
                        table.add(size | {"dim": dim} | cells)
                forget_compiled()


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--lengths", nargs="+", choices=("uniform", "skewed"), default=["uniform", "skewed"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--dims", type=int, nargs="+", help="head dimensions: 64 and 128 if not given")
    parser.add_argument("--bandwidth", type=float, default=CEILING_TB_PER_S, help="TB/s of copies")
    main(parser.parse_args())
