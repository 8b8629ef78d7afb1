"""Measure whole forward passes of a Mistral-7B-shaped model up to its scoring layer, on a GPU.

    PYTHONPATH=.:kernels python benchmarks/gpu_forward.py [--attention-share] [--output forward.json] [--tiny]

Random weights and tokens; the same for every contestant:

- triton, sdpa: ours;
- float8: ours, with linear layers in 8-bit floating point (torchao), which changes scores by design too;
- full causal: every token sees every earlier one (flash attention), so its scores differ by design;
- flex: FlexAttention, compiled, with a block mask made from block indices;
- padded: the released code's formulation, written by us. Every document is padded to the longest, matrix products
  included; three attention calls (instruction, documents, query) with repeated key heads and an additive mask.

Contestants take turns; `ms` is the median with the layout's tables made, `cold ms` with them made anew, as each new
request needs. TFLOP/s count what the contestant does (padding and invisible pairs of full attention included);
`floor` is the packed layout's matrix products at the ceiling, over the time. `x ours` is the time over that of Triton
(of sdpa where Triton did not run). Nothing is timed before the log-sum-exps of all BlockRank contestants in bf16 agree:
`difference` is the largest one, and that of full causal attention shows what a wrong mask would do.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from blockrank_kernels import Segments
from blockrank_kernels.block_attention.api import IMPLEMENTATIONS as ATTENTION
from blockrank_kernels.document_scores.api import IMPLEMENTATIONS as SCORES
from blockrank_kernels.gpu import triton_on
from gpu_common import (
    WIDER,
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
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
from blockrank_rerank.model.devices import float8_on
from blockrank_rerank.model.layout import Layout
from blockrank_rerank.model.linear import quantize_linear_layers

ROUNDINGS = 3
"""Two results in one dtype differ by 1.4 times what each differs from the truth; longer lists have larger extremes."""

OURS = ("triton", "sdpa")
CONTESTANTS = (*OURS, "float8", "full causal", "flex", "padded")
OTHER_SCORES = ("float8", "full causal")
"""Contestants whose log-sum-exps are meant to differ."""

COLUMNS = {
    "documents": ">9d",
    "lengths": "<8",
    "contestant": "<11",
    "tokens": ">7d",
    "padding": ">7.0%",
    "ms": ">13.2f",
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

    @property
    def peer(self) -> bool:
        """Whether it is not ours."""
        return self.name not in OURS

    def run(self) -> Tensor:
        """``[S, H, N]``."""
        return self.backbone.document_scores(self.layout)[0]

    def run_cold(self) -> Tensor:
        """The same with the layout's tables made anew."""
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
    """Every token sees every earlier one."""
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
        """Three calls: instruction, documents as a batch, query."""
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

    def scores(self, query: Tensor, key: Tensor, offsets: Tensor, scale: float, softcap: float | None) -> Tensor:
        """Ours over the tokens that are no padding: the score pass is not what is compared."""
        return own_scores(query.device)(query, key.index_select(0, self.index), self.offsets, scale, softcap)

    def pairs(self, instruction: int, query: int) -> int:
        """Pairs that the three calls compute: a mask spares none."""
        count, longest = self.real.shape
        tokens = instruction + count * longest + query
        return instruction * (instruction + 1) // 2 + count * longest * (instruction + longest) + query * tokens

    def _batch(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, self.real.shape)

    def _masks(self, instruction: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Additive ``[N, 1, L, instruction + L]`` of the documents and ``[1, 1, rows, T]`` of the query."""
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
    """``[B, L, H, D]`` to packed rows; causal where there is no mask."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)


def own_scores(device: torch.device) -> Callable[..., Tensor]:
    """Our fastest score pass; peers have none of their own."""
    return SCORES["triton" if triton_on(device).usable else "sdpa"]


def contestant(name: str, work: Workload, lengths: list[int], backbone: Backbone) -> Contestant:
    """Register what the name stands for, with a layout of its own, so that no tables are shared."""
    layout = packed(work, lengths, padded_to=max(lengths) if name == "padded" else 0)
    tokens, pairs = layout.num_tokens, visible_pairs(layout.segments)
    if name == "full causal":
        ATTENTION[name], SCORES[name] = full_causal_attention, own_scores(work.device)
        pairs = tokens * (tokens + 1) // 2
    elif name == "float8":
        fastest = "triton" if triton_on(work.device).usable else "sdpa"
        ATTENTION[name], SCORES[name] = ATTENTION[fastest], SCORES[fastest]
    elif name == "flex":
        ATTENTION[name], SCORES[name] = flex_attention, own_scores(work.device)
    elif name == "padded":
        padded = Padded(lengths, work.instruction, work.device)
        ATTENTION[name], SCORES[name] = padded.attention, padded.scores
        pairs = padded.pairs(work.instruction, work.query)
    return Contestant(name, layout, pairs, Backbone(backbone.model, backbone.config, None, name))


def tolerance(backbone: Backbone, work: Workload) -> float:
    """How far two right answers may lie apart: by what this model rounds, measured on the smallest request."""
    layout = packed(work, document_lengths(work, "skewed", work.documents[0]))
    wider = Backbone(copy.deepcopy(backbone.model).to(WIDER[work.dtype]), backbone.config, None, "sdpa")
    truth = wider.document_scores(layout)[0]
    result = Backbone(backbone.model, backbone.config, None, "sdpa").document_scores(layout)[0]
    rounding = torch.finfo(result.dtype).eps * float(truth.abs().max())
    return ROUNDINGS * (float((result - truth).abs().max()) + rounding)


def differences(attempts: dict[str, Attempt], tolerance: float) -> dict[str, float]:
    """Largest difference of each contestant's log-sum-exps from the first one's; stops where one is wrong."""
    results = {name: done.result for name, done in attempts.items() if done.failure is None}
    first = next((name for name in results if name not in OTHER_SCORES), next(iter(results)))
    found = {name: float((result - results[first]).abs().max()) for name, result in results.items()}
    wrong = [name for name, value in found.items() if name not in OTHER_SCORES and not value <= tolerance]
    if wrong:
        sys.exit(f"no timings: {', '.join(wrong)} differ from {first} by more than {tolerance:.1e}: {found}")
    return found


def measure(contestants: list[Contestant], limit: float, repeats: int, share: bool) -> dict[str, dict[str, Any]]:
    """What each contestant needs, by name: nothing but the failure where it has failed."""
    device = next(contestants[0].backbone.parameters()).device
    attempts = {one.name: attempt(one.run, device, one.peer) for one in contestants}
    apart = differences(attempts, limit)
    able = [one for one in contestants if one.name in apart]
    warm = medians_ms({one.name: one.run for one in able}, repeats, device)
    cold = medians_ms({one.name: one.run_cold for one in able}, max(1, repeats // 2), device)
    rows: dict[str, dict[str, Any]] = {name: {"failure": done.failure} for name, done in attempts.items()}
    for one in able:
        name = one.name
        rows[name] = {
            "ms": warm[name],
            "cold ms": cold[name],
            "peak GiB": attempts[name].peak_gib,
            "difference": apart[name],
            "attention": attention_share(one, device) if share else None,
        }
    return rows


def attention_share(one: Contestant, device: torch.device) -> float:
    """Part of the time between the start and the end of attention calls, the score pass included."""
    spans: list[tuple[Any, Any]] = []

    def timed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any) -> Tensor:
            start = mark(device)
            out = function(*args)
            spans.append((start, mark(device)))
            return out

        return call

    attention, scores = timed(ATTENTION[one.name]), timed(SCORES[one.name])
    with patch.dict(ATTENTION, {one.name: attention}), patch.dict(SCORES, {one.name: scores}):
        whole = elapsed_ms(one.run, device)
    return sum(between_ms(*span) for span in spans) / whole


def derived(one: Contestant, packed_tokens: int, ceiling: float, ms: float) -> dict[str, float]:
    """What follows from the layout and the time."""
    config, layer, tokens = one.backbone.model.config, one.backbone.config.scoring_layer, one.layout.num_tokens
    attention = layer * attention_flops(one.pairs, config.num_attention_heads, config.head_dim)
    floor_ms = 1e-9 * gemm_flops(config, packed_tokens, layer) / ceiling
    tflops = 1e-9 * (gemm_flops(config, tokens, layer) + attention) / ms
    return {"TFLOP/s": tflops, "floor ms": floor_ms, "floor": floor_ms / ms}


def contestants_here(names: list[str], device: torch.device) -> list[str]:
    """Without those of ours that cannot run."""
    verdicts = {"triton": triton_on(device), "float8": float8_on(device)}
    missing = {name: verdicts[name].reason for name in names if name in verdicts and not verdicts[name].usable}
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}")
    return [name for name in names if name not in missing]


def quantized(backbone: Backbone) -> Backbone:
    """A copy with linear layers in 8 bits."""
    model = copy.deepcopy(backbone.model)
    quantize_linear_layers(model)
    return Backbone(model, backbone.config, None)


@torch.inference_mode()
def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("forward", machine(work.device, options.commit), COLUMNS, options.output)
    names = contestants_here(options.contestants, work.device)
    model = random_mistral(work, work.scoring_layer)
    backbone = Backbone(model, BlockRankConfig(scoring_layer=work.scoring_layer), None)
    own = {"float8": quantized(backbone)} if "float8" in names else {}
    limit = tolerance(backbone, work)
    table.content |= {"ceiling TFLOP/s": options.ceiling, "tolerance": limit}
    exempt = " and ".join(OTHER_SCORES)
    print(f"tolerance {limit:.1e} of log-sum-exps, but for {exempt}; ceiling {options.ceiling} TFLOP/s")
    table.head()
    for kind in options.lengths:
        for count in options.documents or work.documents:
            lengths = document_lengths(work, kind, count)
            contestants = [contestant(name, work, lengths, own.get(name, backbone)) for name in names]
            found = measure(contestants, limit, options.repeats, options.attention_share)
            ours = next((found[name]["ms"] for name in OURS if "ms" in found.get(name, {})), None)
            tokens = work.instruction + sum(lengths) + work.query
            for one in contestants:
                cells = found[one.name]
                if "ms" in cells:
                    cells |= derived(one, tokens, options.ceiling, cells["ms"])
                    cells["x ours"] = cells["ms"] / ours if ours else None
                size = {"tokens": one.layout.num_tokens, "padding": 1 - tokens / one.layout.num_tokens}
                table.add({"documents": count, "lengths": kind, "contestant": one.name} | size | cells)
            forget_compiled()


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--lengths", nargs="+", choices=("uniform", "skewed"), default=["uniform", "skewed"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--attention-share", action="store_true", help="also the part of the time spent in attention")
    main(parser.parse_args())
