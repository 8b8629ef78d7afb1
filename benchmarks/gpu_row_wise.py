"""Measure what lies between the products of a decoder layer, and products apart and merged, on a GPU.

    PYTHONPATH=.:kernels python benchmarks/gpu_row_wise.py [--documents 100] [--output row_wise.json] [--tiny]

In the shape of Mistral-7B, for one list of documents: the kernels of `fused_decoder.py` in Triton, the same as
Transformers computes it (an operation of torch at a time), and that compiled by torch; and the products for queries,
keys and values, and for gate and up, each by its own weight and by one that is merged. Device time in bf16 with cold
caches. TB/s count every tensor once, read or written. No contestant is timed unless its result is as near to that of
Transformers in fp32 as the one of Transformers in bf16 is, within a factor of two and a few roundings; otherwise its
row says so. `error` is the largest distance, as a part of the largest value. `of a pass` is the time for all layers
before the scoring layer.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from blockrank_kernels import gated_activation, rms_norm, rotary_
from blockrank_kernels.gpu import triton_on
from gpu_common import (
    CEILING_TB_PER_S,
    WIDER,
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
    between_ms,
    document_lengths,
    machine,
    mark,
    middle,
    workload,
)
from gpu_kernels import FILLER_BYTES, FILLERS, Error, errors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, apply_rotary_pos_emb

EPSILON = 1e-5
"""Of Mistral-7B's norms."""

COLUMNS = {
    "operation": "<18",
    "contestant": "<12",
    "tokens": ">7d",
    "ms": ">16.4f",
    "of a pass": ">9.2f",
    "TB/s": ">8.3g",
    "of bandwidth": ">12.1%",
    "TFLOP/s": ">8.3g",
    "error": ">8.1e",
}

Run = Callable[..., list[Tensor]]


@dataclass
class Problem:
    """One operation on its inputs by each contestant, of which the last is what Transformers does."""

    operation: str
    inputs: list[Tensor]
    functions: dict[str, Run]
    nbytes: float
    flops: float | None = None

    @property
    def baseline(self) -> Run:
        """What Transformers does."""
        return list(self.functions.values())[-1]


def norm(states: Tensor, weight: Tensor, *residual: Tensor) -> list[Tensor]:
    """Return what Transformers makes of states, or of their sum with a residual, and the sum."""
    module = MistralRMSNorm(len(weight), eps=EPSILON)
    module.weight = nn.Parameter(weight, requires_grad=False)
    total = states + residual[0] if residual else states
    return [module(total), total]


def fused_norm(states: Tensor, weight: Tensor, *residual: Tensor) -> list[Tensor]:
    """Return the same by the kernel."""
    added = residual[0] if residual else None
    return [*rms_norm(states, weight, eps=EPSILON, residual=added, implementation="triton")]


def rotary(states: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
    """Return rotated queries and keys as Transformers makes them."""
    heads = states.transpose(0, 1)[None]
    parts = heads.split([heads.shape[1] * 4 // 5, heads.shape[1] - heads.shape[1] * 4 // 5], 1)
    rotated = apply_rotary_pos_emb(*parts, cos[None], sin[None])
    return [part[0].transpose(0, 1) for part in rotated]


def fused_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
    """Return the same by the kernel, which overwrites them."""
    queries = states.shape[1] * 4 // 5
    return [*rotary_(states, cos, sin, implementation="triton").split([queries, states.shape[1] - queries], 1)]


def gate(states: Tensor) -> list[Tensor]:
    """Return the activated gate times the rest as Transformers computes it."""
    opening, rest = states.chunk(2, -1)
    return [F.silu(opening) * rest]


def fused_gate(states: Tensor) -> list[Tensor]:
    """Return the same by the kernel."""
    return [gated_activation(states, activation="silu", implementation="triton")]


def row_wise(operation: str, inputs: list[Tensor], fused: Run, eager: Run, nbytes: float, *, triton: bool) -> Problem:
    """Set up an operation between two products, with the contestants that can run here."""
    functions = {"triton": fused} if triton else {}
    if inputs[0].is_cuda:
        functions["compiled"] = torch.compile(eager, dynamic=False)
    return Problem(operation, inputs, functions | {"transformers": eager}, nbytes)


def product(operation: str, states: Tensor, weights: list[Tensor]) -> Problem:
    """Set up products of the same rows with several weights."""
    merged = torch.cat(weights)
    sizes = [len(weight) for weight in weights]

    def together(states: Tensor, *_: Tensor) -> list[Tensor]:
        return [*F.linear(states, merged).split(sizes, 1)]

    def apart(states: Tensor, *weights: Tensor) -> list[Tensor]:
        return [F.linear(states, weight) for weight in weights]

    written = len(states) * len(merged)
    nbytes = (states.numel() + merged.numel() + written) * states.dtype.itemsize
    return Problem(
        operation, [states, *weights], {"merged": together, "apart": apart}, nbytes, 2.0 * written * states.shape[1]
    )


def problems(work: Workload, tokens: int, triton: bool) -> Iterator[Problem]:
    """Set up one operation after the other, so that one's tensors are in memory at a time."""
    hidden, wide = work.model["hidden_size"], work.model["intermediate_size"]
    dim, queries, keys = (work.model[name] for name in ("head_dim", "num_attention_heads", "num_key_value_heads"))
    size = work.dtype.itemsize * tokens
    states, weight = random(work, tokens, hidden), random(work, hidden)
    yield row_wise("rms_norm", [states, weight], fused_norm, norm, 2 * hidden * size, triton=triton)
    residual = random(work, tokens, hidden)
    added = [states, weight, residual]
    yield row_wise("rms_norm, residual", added, fused_norm, norm, 4 * hidden * size, triton=triton)
    angles = torch.rand(tokens, dim, device=work.device) * 6.3
    turned = [random(work, tokens, queries + keys, dim), angles.cos().to(work.dtype), angles.sin().to(work.dtype)]
    nbytes = (2 * (queries + keys) + 2) * dim * size
    yield row_wise("rotary", turned, fused_rotary, rotary, nbytes, triton=triton)
    gates = [random(work, tokens, 2 * wide)]
    yield row_wise("gated_activation", gates, fused_gate, gate, 3 * wide * size, triton=triton)
    scale = hidden**-0.5
    yield product("query, key, value", states, [scale * random(work, n * dim, hidden) for n in (queries, keys, keys)])
    yield product("gate, up", states, [scale * random(work, wide, hidden) for _ in range(2)])


def random(work: Workload, *shape: int) -> Tensor:
    """Return random numbers in the dtype of the workload."""
    return torch.randn(shape, device=work.device).to(work.dtype)


def result_errors(run: Run, inputs: list[Tensor], truth: list[Tensor]) -> list[Error]:
    """Return the error of each result; one that overwrites its input has a copy."""
    return errors(run(*(tensor.clone() for tensor in inputs)), truth)


def checked(problem: Problem, work: Workload) -> dict[str, Attempt]:
    """Return each contestant's errors, or how it failed: a wrong one by how much."""
    truth = problem.baseline(*(tensor.to(WIDER[work.dtype]) for tensor in problem.inputs))
    eager = result_errors(problem.baseline, problem.inputs, truth)
    found = {}
    for name, run in problem.functions.items():
        done = attempt(partial(result_errors, run, problem.inputs, truth))
        if done.failure is None and not all(map(Error.no_worse, done.result, eager)):
            done = done.wrong(max(error.value for error in done.result))
        found[name] = done
    return found


def time_ms(run: Run, inputs: list[Tensor], filler: Tensor | None, device: torch.device) -> float:
    """Measure the device time of one call; the device is kept busy until Python has launched it."""
    for _ in range(FILLERS if filler is not None else 0):
        filler.zero_()
    start = mark(device)
    run(*inputs)
    return between_ms(start, mark(device))


def rows(problem: Problem, work: Workload, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Check all contestants, then time them in turns."""
    filler = torch.empty(FILLER_BYTES, dtype=torch.uint8, device=work.device) if work.device.type == "cuda" else None
    found = checked(problem, work)
    apart = {name: max(error.value for error in done.result) for name, done in found.items() if not done.failure}
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.repeats):
        for name, run in problem.functions.items():
            if found[name].failure is None:
                found[name] = attempt(partial(time_ms, run, problem.inputs, filler, work.device))
                times[name].append(found[name].result)
    for name, done in found.items():
        cells: dict[str, Any] = {"contestant": name, "error": apart.get(name)} | done.row
        if done.failure is None:
            ms = statistics.median(times[name])
            tb_per_s = 1e-9 * problem.nbytes / ms
            cells |= {"ms": ms, "of a pass": ms * work.scoring_layer, "TB/s": tb_per_s}
            cells |= {"of bandwidth": tb_per_s / options.bandwidth}
            cells |= {"TFLOP/s": 1e-9 * problem.flops / ms} if problem.flops else {}
        yield cells


@torch.inference_mode()
def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("row_wise", machine(work.device, options.commit), COLUMNS, options.output)
    verdict = triton_on(work.device)
    print(f"ceiling {options.bandwidth} TB/s; triton: {verdict.reason}")
    table.head()
    if not verdict.usable:
        table.add({"contestant": "triton", "failure": "cannot run", "reason": verdict.reason})
    lengths = document_lengths(work, "skewed", options.documents or middle(work.documents))
    tokens = work.instruction + sum(lengths) + work.query
    torch.manual_seed(0)
    for problem in problems(work, tokens, verdict.usable):
        done = attempt(lambda problem=problem: [*rows(problem, work, options)])
        for cells in [done.row] if done.failure else done.result:
            table.add({"operation": problem.operation, "tokens": tokens} | cells)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, help="100 if not given")
    parser.add_argument("--bandwidth", type=float, default=CEILING_TB_PER_S, help="TB/s of copies")
    main(parser.parse_args())
