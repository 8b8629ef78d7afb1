"""Measure whole forward passes of a Mistral-7B-shaped model up to its scoring layer, on a GPU.

    PYTHONPATH=.:kernels python benchmarks/gpu_forward.py [--attention-share] [--output forward.json] [--tiny]

Random weights and tokens; the same for every contestant:

- triton: ours, layers fused as where a model is loaded with `attention="triton"`;
- unfused: the same attention, and the layers of Transformers around it, as in all the others;
- sdpa: ours, by torch's attention;
- full causal: every token sees every earlier one (flash attention), so its scores differ by design;
- flex: FlexAttention, compiled, with a block mask made from block indices;
- padded: the released code's formulation, written by us. Every document is padded to the longest, matrix products
  included; three attention calls (instruction, documents, query) with repeated key heads and an additive mask.

Contestants take turns; `ms` is the median with the layout's tables made, `cold ms` with them made anew, as each new
request needs. TFLOP/s count what the contestant does (padding and invisible pairs of full attention included);
`floor` is the packed layout's matrix products at the ceiling, over the time. `x ours` is the time over that of Triton
(of sdpa where Triton did not run). No contestant is timed whose log-sum-exps lie further from sdpa's than bf16
explains: its row says so, as those of others do that cannot run or fail. `difference` is the largest one, and that of
full causal attention shows what a wrong mask would do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from blockrank_kernels import Segments
from blockrank_kernels.block_attention.api import IMPLEMENTATIONS as ATTENTION
from blockrank_kernels.document_lse.api import IMPLEMENTATIONS as LSE
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
    between_ms,
    document_lengths,
    elapsed_ms,
    flex_attention,
    forget_compiled,
    gemm_flops,
    machine,
    mark,
    medians_ms,
    packed,
    random_mistral,
    visible_pairs,
    workload,
)
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.fused_decoder import fuse_decoder_layers
from blockrank_rerank.model.layout import Layout

ROUNDINGS = 3
"""Two results in one dtype differ by 1.4 times what each differs from the truth; longer lists have larger extremes."""

OURS = ("triton", "unfused", "sdpa")
TRITON = ("triton", "unfused")
CONTESTANTS = (*OURS, "full causal", "flex", "padded")
OTHER_SCORES = ("full causal",)
"""Contestants whose log-sum-exps are meant to differ."""

COLUMNS = {
    "documents": ">9d",
    "lengths": "<8",
    "contestant": "<11",
    "tokens": ">7d",
    "padding": ">7.0%",
    "ms": ">16.2f",
    "cold ms": ">9.2f",
    "TFLOP/s": ">8.3g",
    "floor": ">6.1%",
    "x ours": ">6.2f",
    "peak GiB": ">8.2f",
    "difference": ">10.1e",
    "attention": ">9.1%",
}


@dataclass
class Contestant:
    """One way to run the request: its layout, and the pairs of tokens that its attention computes."""

    name: str
    layout: Layout
    pairs: int
    backbone: Backbone

    def run(self) -> Tensor:
        """Return log-sum-exps ``[S, H, N]``."""
        return self.backbone.document_lse(self.layout)[0].documents

    def run_cold(self) -> Tensor:
        """Return log-sum-exps after making the layout's tables anew."""
        self.layout.segments.plans.clear()
        return self.run()


def full_causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attend from every token to every earlier one."""
    query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    fused = sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION])
    # Never the formulation that writes T×T numbers.
    with fused if query.is_cuda else contextlib.nullcontext():
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1)


class Padded:
    """The released code's formulation, for documents of the given lengths that are padded to the longest."""

    def __init__(self, lengths: list[int], instruction: int, device: torch.device) -> None:
        self.real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self.offsets = torch.tensor([0, *lengths]).cumsum(0)
        self.index = (instruction + self.real.flatten().nonzero()[:, 0]).to(device)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Segments,
        causal: bool,
        scale: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        """Attend in three calls: instruction, documents as a batch, query."""
        start, end = int(segments.offsets[1]), int(segments.offsets[-2])
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
        if "padded" not in segments.plans:
            segments.plans["padded"] = self._masks(start, len(query) - end, query)
        documents, last = segments.plans["padded"]
        keys, values = (
            torch.cat([tensor[:start].expand(len(self.real), -1, -1, -1), self._batch(tensor[start:end])], 1)
            for tensor in (key, value)
        )
        parts = [
            _attend(query[None, :start], key[None, :start], value[None, :start], None, scale),
            _attend(self._batch(query[start:end]), keys, values, documents, scale),
            _attend(query[None, end:], key[None], value[None], last, scale),
        ]
        return torch.cat(parts)

    def lse(self, query: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
        """Return our log-sum-exps over tokens that are no padding: the score pass is not what is compared."""
        return fastest_lse(query.device)(query, key.index_select(0, self.index), self.offsets, scale, softcap)

    def pairs(self, instruction: int, query: int) -> int:
        """Count the pairs that the three calls compute: a mask spares none."""
        count, longest = self.real.shape
        tokens = instruction + count * longest + query
        return instruction * (instruction + 1) // 2 + count * longest * (instruction + longest) + query * tokens

    def _batch(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, self.real.shape)

    def _masks(self, instruction: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return additive masks ``[N, 1, L, instruction + L]`` of documents and ``[1, 1, rows, T]`` of the query."""
        real = self.real.to(like.device)
        longest = real.shape[1]
        triangle = real.new_ones(longest, longest).tril()
        documents = F.pad(triangle & real[:, None], (instruction, 0), value=True)
        seen = F.pad(real.flatten(), (instruction, 0), value=True).expand(rows, -1)
        query = torch.cat([seen, real.new_ones(rows, rows).tril()], 1)
        return tuple(
            torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, float("-inf"))
            for mask in (documents[:, None], query[None, None])
        )


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attend from ``[B, L, H, D]``, causally where there is no mask; returns packed rows."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)


def fastest_lse(device: torch.device) -> Callable[..., Tensor]:
    """Return our fastest score pass; peers have none."""
    return LSE["triton" if triton_on(device).usable else "sdpa"]


def register(name: str, work: Workload, lengths: list[int], backbone: Backbone) -> Contestant:
    """Register what the name stands for, with a separate layout, so that no tables are shared."""
    layout = packed(work, lengths, padded_to=max(lengths) if name == "padded" else 0)
    tokens, pairs = layout.num_tokens, visible_pairs(layout.segments)
    if name == "full causal":
        ATTENTION[name], LSE[name] = full_causal_attention, fastest_lse(work.device)
        pairs = tokens * (tokens + 1) // 2
    elif name == "unfused":
        ATTENTION[name], LSE[name] = ATTENTION["triton"], LSE["triton"]
    elif name == "flex":
        ATTENTION[name], LSE[name] = flex_attention, fastest_lse(work.device)
    elif name == "padded":
        padded = Padded(lengths, work.instruction, work.device)
        ATTENTION[name], LSE[name] = padded.attention, padded.lse
        pairs = padded.pairs(work.instruction, work.query)
    return Contestant(name, layout, pairs, Backbone(backbone.model, backbone.config, None, name))


def fused(backbone: Backbone) -> Backbone:
    """Return a copy of a backbone with fused layers; the others keep the weights that it has."""
    model = copy.deepcopy(backbone.model)
    fuse_decoder_layers(model)
    return Backbone(model, backbone.config, None)


def tolerance(backbone: Backbone, work: Workload) -> float:
    """Return how far two right answers may lie apart: what the model rounds, measured on the smallest request."""
    layout = packed(work, document_lengths(work, "skewed", work.documents[0]))
    wider = Backbone(copy.deepcopy(backbone.model).to(WIDER[work.dtype]), backbone.config, None, "sdpa")
    truth = wider.document_lse(layout)[0].documents
    result = Backbone(backbone.model, backbone.config, None, "sdpa").document_lse(layout)[0].documents
    rounding = torch.finfo(result.dtype).eps * float(truth.abs().max())
    return ROUNDINGS * (float((result - truth).abs().max()) + rounding)


def checked(attempts: dict[str, Attempt], tolerance: float) -> tuple[dict[str, Attempt], dict[str, float]]:
    """Return the attempts, those with a wrong result as failures, and how far results lie from the reference's.

    The reference is torch's attention, or else the first contestant that has a result.
    """
    results = {name: done.result for name, done in attempts.items() if done.failure is None}
    comparable = [name for name in results if name not in OTHER_SCORES]
    reference = "sdpa" if "sdpa" in results else next(iter(comparable or results), None)
    found = {name: float((result - results[reference]).abs().max()) for name, result in results.items()}
    wrong = {name: attempts[name].wrong(found[name]) for name in comparable if not found[name] <= tolerance}
    return attempts | wrong, found


def measure(contestants: list[Contestant], limit: float, repeats: int, share: bool) -> dict[str, dict[str, Any]]:
    """Measure each contestant's time and memory, by name; a contestant that failed has its failure alone."""
    device = next(contestants[0].backbone.parameters()).device
    attempts = {contestant.name: attempt_with_memory(contestant.run, device) for contestant in contestants}
    attempts, apart = checked(attempts, limit)
    able = [contestant for contestant in contestants if attempts[contestant.name].failure is None]
    warm = medians_ms({contestant.name: contestant.run for contestant in able}, repeats, device)
    cold = medians_ms({contestant.name: contestant.run_cold for contestant in able}, max(1, repeats // 2), device)
    rows = {name: done.row | {"difference": apart.get(name)} for name, done in attempts.items()}
    for contestant in able:
        name = contestant.name
        shared = attempt(partial(attention_share, contestant, device)) if share else Attempt()
        failed = next((done for done in (warm[name], cold[name], shared) if done.failure), None)
        cells = {"ms": warm[name].result, "cold ms": cold[name].result, "attention": shared.result}
        rows[name] |= cells | ({"failure": failed.failure, "reason": failed.reason} if failed else {})
    return rows


def attention_share(contestant: Contestant, device: torch.device) -> float:
    """Return the part of a run's time that is spent in attention calls, the score pass included."""
    spans: list[tuple[Any, Any]] = []

    def timed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            start = mark(device)
            out = function(*args)
            spans.append((start, mark(device)))
            return out

        return call

    attention, lse = timed(ATTENTION[contestant.name]), timed(LSE[contestant.name])
    with patch.dict(ATTENTION, {contestant.name: attention}), patch.dict(LSE, {contestant.name: lse}):
        whole = elapsed_ms(contestant.run, device)
    return sum(between_ms(*span) for span in spans) / whole


def derived(contestant: Contestant, packed_tokens: int, ceiling: float, ms: float) -> dict[str, float]:
    """Derive rates and the floor from the layout and the time."""
    config, layer = contestant.backbone.model.config, contestant.backbone.config.scoring_layer
    tokens = contestant.layout.num_tokens
    attention = layer * attention_flops(contestant.pairs, config.num_attention_heads, config.head_dim)
    floor_ms = 1e-9 * gemm_flops(config, packed_tokens, layer) / ceiling
    tflops = 1e-9 * (gemm_flops(config, tokens, layer) + attention) / ms
    return {"TFLOP/s": tflops, "floor ms": floor_ms, "floor": floor_ms / ms}


@torch.inference_mode()
def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("forward", machine(work.device, options.commit), COLUMNS, options.output)
    verdict = triton_on(work.device)
    names = [name for name in options.contestants if name not in TRITON or verdict.usable]
    model = random_mistral(work, work.scoring_layer)
    backbone = Backbone(model, BlockRankConfig(scoring_layer=work.scoring_layer), None)
    backbones = dict.fromkeys(names, backbone)
    limit = tolerance(backbone, work)
    if "triton" in names:
        backbones["triton"] = fused(backbone)
    table.content |= {"ceiling TFLOP/s": options.ceiling, "tolerance": limit}
    exempt = " and ".join(OTHER_SCORES)
    print(f"tolerance {limit:.1e} of log-sum-exps, but for {exempt}; ceiling {options.ceiling} TFLOP/s")
    table.head()
    if len(names) < len(options.contestants):
        table.add({"contestant": "triton", "failure": "cannot run", "reason": verdict.reason})
    for kind in options.lengths:
        for count in options.documents or work.documents:
            lengths = document_lengths(work, kind, count)
            contestants = [register(name, work, lengths, backbones[name]) for name in names]
            found = measure(contestants, limit, options.repeats, options.attention_share)
            for row in rows(contestants, found, work.instruction + sum(lengths) + work.query, options.ceiling):
                table.add({"documents": count, "lengths": kind} | row)
            forget_compiled()


def rows(
    contestants: list[Contestant], found: dict[str, dict[str, Any]], tokens: int, ceiling: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each contestant of one list, of so many tokens without padding."""
    ours = next((found[name]["ms"] for name in OURS if found.get(name, {}).get("ms")), None)
    for contestant in contestants:
        cells, length = found[contestant.name], contestant.layout.num_tokens
        if cells.get("ms"):
            cells |= derived(contestant, tokens, ceiling, cells["ms"])
            cells["x ours"] = cells["ms"] / ours if ours else None
        yield {"contestant": contestant.name, "tokens": length, "padding": 1 - tokens / length} | cells


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--lengths", nargs="+", choices=("uniform", "skewed"), default=["uniform", "skewed"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--attention-share", action="store_true", help="also the part of the time spent in attention")
    main(parser.parse_args())
