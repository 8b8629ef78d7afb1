"""Measure what users call, from text to ranking, on a GPU: new lists, the same list again, prepared documents.

    PYTHONPATH=.:kernels python benchmarks/gpu_engine.py [--output engine.json] [--tiny]

Two models: the one in the package, and random weights in the shape of Mistral-7B behind the same tokenizer. A document
has 50 to 384 words, 200 in the mean. `call` is

- load: what the first call does before it ranks (weights that are in memory already for the random model);
- first: the first list of this size in the process, kernels compiled for it included;
- again: the same list;
- new: other lists of as many documents, which share nothing with those before;
- prepare: what `prepare` takes;
- prepared first, prepared again: the query over prepared documents.

Times are the wall's, medians but for first calls; a ranking ends with scores on the CPU. `difference` is the largest
one of raw scores from those of torch's attention for a new list. A contestant whose scores lie further away than the
dtype explains has rows that say so.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_common import (
    QUERY_OFFSET,
    WIDER,
    Attempt,
    Table,
    Workload,
    arguments,
    attempt,
    attempt_with_memory,
    document_lengths,
    machine,
    random_mistral,
    workload,
)

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.bench import QUERY, WORDS
from blockrank_rerank.config import RELEASED
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.fused_decoder import fuse_decoder_layers, uses_triton
from blockrank_rerank.text.prompt import PromptEncoder

CONTESTANTS = ("auto", "triton", "sdpa")

ROUNDINGS = 3
"""Two results in one dtype differ by 1.4 times what each differs from the truth; longer lists have larger extremes."""

COLUMNS = {
    "model": "<10",
    "documents": ">9d",
    "contestant": "<10",
    "call": "<14",
    "ms": ">16.2f",
    "documents/s": ">11.0f",
    "peak GiB": ">8.2f",
    "difference": ">10.1e",
}

Model = Callable[[str, torch.dtype], BlockRankReranker]
"""A model with a named implementation of attention, in a dtype."""


def texts(work: Workload, count: int, seed: int) -> list[str]:
    """Return documents of random words, each of them one token, in lengths from shortest to longest."""
    generator, words = random.Random(seed), WORDS.split()
    lengths = document_lengths(work, "skewed", count)
    generator.shuffle(lengths)
    return [" ".join(generator.choices(words, k=length)) for length in lengths]


def packaged(work: Workload) -> Model:
    """Return the model in the package."""
    return lambda attention, dtype: BlockRankReranker.from_pretrained(
        device=str(work.device), dtype=dtype, attention=attention
    )


def mistral(work: Workload) -> Model:
    """Return random weights in the shape of Mistral-7B; those that are fused for Triton are a copy."""
    prompt = replace(RELEASED.prompt.without_query(), chat=False)
    config = replace(RELEASED, scoring_layer=work.scoring_layer, query_offset=QUERY_OFFSET, prompt=prompt)
    like = BlockRankReranker.from_pretrained(device="cpu")._shared
    tokenizer = like.spec.checkpoint.tokenizer(work.model["vocab_size"])
    weights = random_mistral(work, work.scoring_layer)
    fused: list[torch.nn.Module] = []

    def model_for(attention: str, dtype: torch.dtype) -> torch.nn.Module:
        if not uses_triton(attention, weights):
            return weights if dtype == work.dtype else copy.deepcopy(weights).to(dtype)
        if not fused:
            fused.append(copy.deepcopy(weights))
            fuse_decoder_layers(fused[0])
        return fused[0]

    def ranker(attention: str, dtype: torch.dtype) -> BlockRankReranker:
        model = model_for(attention, dtype)
        encoder = PromptEncoder(tokenizer, config, weights.config.max_position_embeddings)
        engine = Engine(config, encoder, Backbone(model, config, None, attention))
        return BlockRankReranker(SharedEngine(like.spec, engine))

    return ranker


def raw_scores(ranker: BlockRankReranker, documents: Any) -> torch.Tensor:
    """Rank and return the raw scores in input order."""
    ranking = ranker.rank(QUERY, documents)
    return torch.tensor([found.raw_score for found in sorted(ranking, key=lambda found: found.index)])


def tolerance(model: Model, work: Workload) -> float:
    """Return how far two right answers may lie apart: what the dtype rounds, measured on the smallest list."""
    documents = texts(work, work.documents[0], 0)
    exact = raw_scores(model("sdpa", WIDER[work.dtype]), documents)
    rounding = torch.finfo(work.dtype).eps if work.dtype == torch.float32 else 0.0
    apart = float((raw_scores(model("sdpa", work.dtype), documents) - exact).abs().max())
    return ROUNDINGS * (apart + rounding * float(exact.abs().max()))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the milliseconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start), result


def calls(ranker: BlockRankReranker, work: Workload, count: int, repeats: int) -> Iterator[tuple[str, Attempt]]:
    """Yield each kind of call with its median time and, where it ranks the first list, the scores."""
    first = texts(work, count, 0)
    prepared: list[Any] = []

    def median(lists: list[Any]) -> tuple[float, torch.Tensor]:
        done = [timed(partial(raw_scores, ranker, documents)) for documents in lists]
        return statistics.median(ms for ms, _ in done), done[0][1]

    def prepare() -> tuple[float, None]:
        ms, documents = timed(partial(ranker.prepare, first, show_progress=False))
        prepared[:] = [documents]
        return ms, None

    def new() -> tuple[float, None]:
        return median([texts(work, count, seed) for seed in range(1, repeats + 1)])[0], None

    ways: dict[str, Callable[[], tuple[float, torch.Tensor | None]]] = {
        "first": lambda: median([first]),
        "again": lambda: median([first] * repeats),
        "new": new,
        "prepare": prepare,
        "prepared first": lambda: median(prepared[:]),
        "prepared again": lambda: median(prepared * repeats),
    }
    for name, way in ways.items():
        if prepared or not name.startswith("prepared"):
            done = attempt_with_memory(way, work.device)
            yield name, done
            if name == "first" and done.failure:
                return


def rows(
    ranker: BlockRankReranker, expected: torch.Tensor, limit: float, work: Workload, count: int, repeats: int
) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind of call."""
    for call, done in calls(ranker, work, count, repeats):
        cells: dict[str, Any] = {"call": call}
        if done.failure is None:
            ms, scores = done.result
            apart = None if scores is None else float((scores - expected).abs().max())
            if apart is not None and not apart <= limit:
                done = done.wrong(apart)
            else:
                cells |= {"ms": ms, "documents/s": 1e3 * count / ms}
            cells["difference"] = apart
        yield cells | done.row


def measure(
    name: str, make: Callable[[Workload], Model], work: Workload, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield all rows of one model."""
    model = make(work)
    limit = tolerance(model, work)
    exact = model("sdpa", work.dtype)
    for contestant in options.contestants:
        run = {"model": name, "contestant": contestant, "tolerance": limit}
        ranker = model(contestant, work.dtype)
        loaded = attempt_with_memory(lambda ranker=ranker: timed(lambda: ranker.engine)[0], work.device)
        yield run | {"call": "load", "ms": loaded.result} | loaded.row
        if loaded.failure:
            continue
        for count in options.documents or work.documents[:: 1 if options.tiny else 2]:
            expected = raw_scores(exact, texts(work, count, 0))
            for row in rows(ranker, expected, limit, work, count, options.repeats):
                yield run | {"documents": count} | row


MODELS = {"default": packaged, "Mistral-7B": mistral}


def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("engine", machine(work.device, options.commit), COLUMNS, options.output)
    table.head()
    for name in options.models:
        done = attempt(lambda name=name: [table.add(row) for row in measure(name, MODELS[name], work, options)])
        if done.failure:
            table.add({"model": name} | done.row)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, nargs="+", help="10, 100 and 500 if not given")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    main(parser.parse_args())
