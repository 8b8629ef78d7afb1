"""Measure one training step, forward and backward, of a slice of a Mistral-7B-shaped model, on a GPU.

    PYTHONPATH=.:kernels python benchmarks/gpu_training.py [--layers 2] [--documents 30] [--output t.json] [--tiny]

Random weights and tokens; one list whose first document is the relevant one; gradients of all weights, no optimizer.
`floor` is three times the forward pass's matrix products at the ceiling, over the time of both passes; peak memory is
above the weights, their gradients included. No contestant is timed unless the loss and each weight's gradient are as
near to those of the same model in wider precision as torch's attention comes, within a factor of two and four
roundings; otherwise its row says so. `error` is the largest distance, as a part of the tensor's norm.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from functools import partial
from typing import Any

import torch
from blockrank_kernels.gpu import triton_on
from gpu_common import (
    WIDER,
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
    attempt_with_memory,
    attention_flops,
    document_lengths,
    elapsed_ms,
    gemm_flops,
    machine,
    packed,
    random_mistral,
    visible_pairs,
    workload,
)
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.finetune.losses import contrastive, list_logits
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.layout import Layout

ROUNDINGS = 4
"""Roundings in the weights' dtype that are no error: of one number, the loss, torch's may be small by chance."""

COLUMNS = {
    "contestant": "<10",
    "layers": ">6d",
    "documents": ">9d",
    "lengths": "<8",
    "tokens": ">7d",
    "forward ms": ">10.2f",
    "backward ms": ">11.2f",
    "ms": ">16.2f",
    "TFLOP/s": ">8.3g",
    "floor": ">6.1%",
    "peak GiB": ">8.2f",
    "error": ">8.1e",
}


def loss(backbone: Backbone, layout: Layout) -> Tensor:
    """Return the paper's contrastive loss of one list."""
    documents = backbone.document_lse(layout)[0].documents
    logits = list_logits(documents, backbone.config.reduction, temperature=0.05)
    return contrastive(logits, torch.eye(1, len(logits), device=logits.device)[0])


def step(backbone: Backbone, layout: Layout) -> list[Tensor]:
    """Return the loss and the gradient of every weight that it reaches."""
    value = loss(backbone, layout)
    weights = list(backbone.parameters())
    gradients = torch.autograd.grad(value, weights, allow_unused=True)
    return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]


def errors(results: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Return the distance of each tensor from the truth, as a part of its norm."""
    pairs = zip(results, truth, strict=True)
    return [float((result.to(exact.dtype) - exact).norm() / exact.norm()) for result, exact in pairs]


def checked(backbones: dict[str, Backbone], layout: Layout, work: Workload) -> dict[str, tuple[Attempt, float | None]]:
    """Return each contestant's attempt, a failure where it is wrong, and its largest error."""
    truth = step(copy.deepcopy(backbones["sdpa"]).to(WIDER[work.dtype]), layout)
    eager, rounding = errors(step(backbones["sdpa"], layout), truth), ROUNDINGS * torch.finfo(work.dtype).eps
    found: dict[str, tuple[Attempt, float | None]] = {}
    for name, backbone in backbones.items():
        done = attempt_with_memory(partial(step, backbone, layout), work.device)
        apart = errors(done.result, truth) if done.failure is None else []
        if apart and not all(error <= 2 * other + rounding for error, other in zip(apart, eager, strict=True)):
            done = done.wrong(max(apart))
        found[name] = done._replace(result=None), max(apart, default=None)
    return found


def time_ms(backbone: Backbone, layout: Layout, device: torch.device) -> tuple[float, float]:
    """Time the forward and the backward pass."""
    values: list[Tensor] = []
    forward = elapsed_ms(lambda: values.append(loss(backbone, layout)), device)
    weights = list(backbone.parameters())
    return forward, elapsed_ms(lambda: torch.autograd.grad(values[0], weights, allow_unused=True), device)


def rates(model: Any, layout: Layout, layers: int, ceiling: float, ms: float) -> dict[str, float]:
    """Derive rates from the layout and the time; backward counts 2 and 2.5 times the forward pass."""
    config, pairs = model.config, visible_pairs(layout.segments)
    gemm = 3 * gemm_flops(config, layout.num_tokens, layers)
    attention = 3.5 * layers * attention_flops(pairs, config.num_attention_heads, config.head_dim)
    return {"TFLOP/s": 1e-9 * (gemm + attention) / ms, "floor": 1e-9 * gemm / ceiling / ms}


def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("training", machine(work.device, options.commit), COLUMNS, options.output)
    verdict = triton_on(work.device)
    print(f"ceiling {options.ceiling} TFLOP/s; triton: {verdict.reason}")
    table.head()
    if not verdict.usable:
        table.add({"contestant": "triton", "failure": "cannot run", "reason": verdict.reason})
    model = random_mistral(work, options.layers).requires_grad_(True)
    config = BlockRankConfig(scoring_layer=options.layers)
    names = [*(["triton"] if verdict.usable else []), "sdpa"]
    backbones = {name: Backbone(model, config, None, name) for name in names}
    layout = packed(work, document_lengths(work, options.lengths, options.documents))
    found = checked(backbones, layout, work)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(options.repeats):
        for name in names:
            if found[name][0].failure is None:
                done = attempt(partial(time_ms, backbones[name], layout, work.device))
                times[name].append(done.result)
                if done.failure:
                    found[name] = done, found[name][1]
    size = {"layers": options.layers, "documents": options.documents, "lengths": options.lengths}
    for name in names:
        done, error = found[name]
        row = {"contestant": name, "tokens": layout.num_tokens, "error": error} | size | done.row
        if done.failure is None:
            forward, backward = map(statistics.median, zip(*times[name], strict=True))
            row |= {"forward ms": forward, "backward ms": backward, "ms": forward + backward}
            row |= rates(model, layout, options.layers, options.ceiling, forward + backward)
        table.add(row)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=2, help="full layers before the scoring layer")
    parser.add_argument("--documents", type=int, default=30)
    parser.add_argument("--lengths", choices=("uniform", "skewed"), default="uniform")
    main(parser.parse_args())
