"""``blockrank report``: one collection measured from every side, as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import literal, print_line, print_table
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.evaluation.measures import require_extra
from blockrank_rerank.evaluation.task import TaskSource
from blockrank_rerank.formats import check_output_path
from blockrank_rerank.ranking.progress import progress_bar

if TYPE_CHECKING:
    from blockrank_rerank import BlockRankReranker
    from blockrank_rerank.evaluation.report.contestants import Contestant
    from blockrank_rerank.evaluation.report.numbers import Numbers

CACHE = "2GB"
"""Bytes of document states that are kept where nobody says how many: a report asks for every document many times."""


@opt.with_model_options(without=("store", "calibration", "prune", "cache_device"))
def report(
    context: typer.Context,
    folder: opt.BeirFolder,
    run: opt.FirstStageRun = None,
    split: opt.Split = "test",
    depth: opt.Depth = 100,
    min_relevance: opt.MinRelevance = 1,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, metavar="N", help="Draw N of the queries at random.")
    ] = None,
    seed: opt.Seed = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Measure this one too: folder or Hub id of a cross-encoder, an embedding model (cosine and MaxSim) or "
            "a BlockRank model, or rerankers:TYPE:MODEL for a ranker of the library rerankers; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", parser=opt.user_path, metavar="HTML", help="The page; its numbers go beside it as .json."
        ),
    ] = Path("report.html"),
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Measure a BEIR collection from every side, and write a page that needs no other file.

    Quality on the same candidates with intervals, more candidates, other orders, time cold and prepared, stuffed
    documents, probabilities, and the queries that went worst. Documents are read once (--cache, 2GB if not given).

    For example: blockrank report examples/data/medquad-sample
    """
    from blockrank_rerank.evaluation.report.build import ReportBuilder, read_task
    from blockrank_rerank.evaluation.report.page import json_path, require_report, write_report

    require_extra()
    require_report()
    _check_output(output, json_path(output), run, *model_options.files())
    source = TaskSource(
        folder=folder,
        run=run,
        split=split,
        depth=depth,
        min_relevance=min_relevance,
        queries=queries,
        seed=seed,
    )
    task = read_task(source)
    contestants, notes = _contestants(model_options, against or [])
    builder = ReportBuilder(source=source, task=task, contestants=contestants, progress=_progress)
    finished = builder.build(str(context.obj), notes)
    write_report(finished, output)
    _print_rows(finished.numbers)
    print_line(f"{output} is the page, and {json_path(output)} has its numbers")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    with progress_bar(what, "lists", total) as advance:
        # Without the tokens: documents that were read before count none.
        yield lambda items, tokens: advance(items, 0)


def _check_output(page: Path, numbers: Path, *read: Path | None) -> None:
    if page.suffix not in (".html", ".htm"):
        raise typer.BadParameter(f"--output must be a file that ends in .html, got {page}")
    for path in (page, numbers):
        check_output_path(path, *read)


def _contestants(model_options: opt.ModelOptions, against: list[str]) -> tuple[list[Contestant], list[str]]:
    """Load our model and the others, and say which are missing."""
    from blockrank_rerank.evaluation.report import contestants

    def load(cache: str | int | None) -> BlockRankReranker:
        words = {**model_options.words, "cache": cache}
        return load_ranker(opt.ModelOptions(query_free=model_options.query_free, **words))

    cache, ours = model_options.words["cache"] or CACHE, load(None)
    base = contestants.base_contestants(ours)
    found = [contestants.blockrank_contestant(Path(ours.model).name, load, cache), *base]
    for model in against:
        found += contestants.other_contestants(model, ours, cache)
    contestants.check_names(found)
    return found, [] if base else [contestants.NO_BASE]


def _print_rows(numbers: Numbers) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(literal(f"{numbers.collection.name}, {numbers.collection.queries:,} queries"))
    for heading in ("nDCG@10", "95 %", "MRR@10", "MAP", "R@10"):
        table.add_column(heading, justify="right")
    for row in numbers.rows:
        interval = f"{row.interval.low:.3f}–{row.interval.high:.3f}"
        values = (f"{row.measures[name]:.4f}" for name in ("RR@10", "AP", "R@10"))
        table.add_row(literal(row.name), f"{row.interval.mean:.4f}", interval, *values)
    print_table(table)
