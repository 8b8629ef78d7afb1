"""``blockrank bench``: how long this machine takes for a list."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_table
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.ranking.progress import work_progress

if TYPE_CHECKING:
    from blockrank_rerank import BlockRankReranker

QUERY = "what makes old documents go to the front of the list"
WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they "
    "which one you were all her she there would their we him been has when who will no more if out so up said what "
    "its about than into them can only other time new some could these two may first then do any like my now over "
    "such our man me even most made after also did many off before must well back through years where much way"
)
"""Each is a token of its own in common vocabularies."""


@opt.with_model_options(
    without=("store", "cache", "cache_device", "tuning", "calibration", "prune", "long_documents", "long_queries")
)
def bench(
    documents: Annotated[int, typer.Option("--documents", min=1, help="Documents of a list.")] = 100,
    words: Annotated[
        int, typer.Option("--words", min=1, help="Mean words of a document; lengths vary by a half.")
    ] = 120,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rankings of which the median counts.")] = 5,
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Time the model on this machine: a list that is new to it, and the same documents prepared.

    What deadlines reckon with (rerank --deadline-ms) is measured anew too, and kept.

    Texts are random common words, which take as long as real ones.

    For example: blockrank bench --documents 200 --dtype float32
    """
    ranker = load_ranker(model_options)
    report = _measure(ranker, _texts(documents, words), repeats)
    print_json(report) if json else _print_report(report)


def _texts(count: int, words: int) -> list[str]:
    generator, words_there_are = random.Random(0), WORDS.split()
    lengths = [generator.randint(max(1, words // 2), max(1, words * 3 // 2)) for _ in range(count)]
    return [" ".join(generator.choices(words_there_are, k=length)) for length in lengths]


def _measure(ranker: BlockRankReranker, texts: list[str], repeats: int) -> dict[str, Any]:
    import torch

    from blockrank_rerank.engine.machine_profile import machine_profile

    tokens = 0

    def count(requests: int, read: int) -> None:
        nonlocal tokens
        tokens += read

    alone = ranker.config.prompt.documents_stand_alone
    # Rankings that count, and before each kind of them one or two that do not.
    rounds = repeats + 1 + (repeats + 2 if alone else 0)
    with work_progress("timing", rounds, sum(map(len, texts)) * rounds, None) as advance:
        ranker.rank_batch([(QUERY, texts)], show_progress=False, on_progress=count)
        advance(1, 0)
        rows = {"new": _median_ms(lambda: ranker.rank(QUERY, texts), repeats, advance)}
        if alone:
            prepared = ranker.prepare(texts, show_progress=False)
            advance(1, 0)
            ranker.rank(QUERY, prepared)
            advance(1, 0)
            rows["prepared"] = _median_ms(lambda: ranker.rank(QUERY, prepared), repeats, advance)
    keeps_deadlines = ranker.config.documents_are_independent
    return {
        "model": ranker.model,
        "device": str(ranker.device),
        "dtype": str(ranker.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "documents": len(texts),
        "tokens": tokens,
        "ms": {name: round(ms, 2) for name, ms in rows.items()},
        "profile": asdict(machine_profile(ranker.engine, anew=True)) if keeps_deadlines else None,
    }


def _median_ms(function: Callable[[], object], repeats: int, advance: Callable[[int, int], None]) -> float:
    """A ranking ends with scores on the CPU, so nothing of it is still running on a device when it returns."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1000)
        advance(1, 0)
    return statistics.median(times)


def _print_report(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("documents")
    for heading in ("ms", "documents/s"):
        table.add_column(heading, justify="right")
    for name, ms in report["ms"].items():
        table.add_row(f"{report['documents']:,} {name}", f"{ms:,.1f}", f"{report['documents'] / ms * 1000:,.0f}")
    print_table(table)
    if profile := report["profile"]:
        print_line(
            f"deadlines reckon with {1 / profile['token_layer_s']:,.0f} tokens/s through a layer, "
            f"{profile['layer_s'] * 1000:.2f} ms for the layer itself, and {profile['character_s'] * 1e6:.2f} s for a "
            "million characters"
        )
    threads = f", {report['threads']} threads" if report["device"] == "cpu" else ""
    print_line(f"{report['tokens']:,} tokens; {report['model']} on {report['device']} in {report['dtype']}{threads}")
