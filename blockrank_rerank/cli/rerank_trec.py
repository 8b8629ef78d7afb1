"""A TREC run is reranked into another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from blockrank_rerank.cli.console import print_note
from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.cli.ranker import described_options, load_ranker
from blockrank_rerank.errors import install_line
from blockrank_rerank.evaluation.own_documents import own_documents, without_own
from blockrank_rerank.evaluation.rerank_run import (
    RerankedRun,
    check_run,
    document_ids,
    first_documents,
    rerank_run,
)
from blockrank_rerank.formats import Run, check_ids, check_output_path, read_corpus, read_queries, read_run, write_run
from blockrank_rerank.ranking.progress import progress_bar
from blockrank_rerank.ranking.results import Limits


class TrecPaths(NamedTuple):
    """Files of one reranking."""

    queries: Path
    corpus: Path
    run: Path
    output: Path


class Fleet(NamedTuple):
    """Where a Ray cluster keeps finished queries, and how many of its processes rank."""

    folder: Path
    workers: int


def rerank_trec(
    paths: TrecPaths,
    depth: int,
    limits: Limits,
    fleet: Fleet | None,
    model_options: ModelOptions,
) -> None:
    """Rerank a TREC run into another one, in this process or on a fleet."""
    # Everything that can be refused is refused before a model is loaded.
    check_output_path(paths.output, paths.run, paths.queries, paths.corpus, *model_options.files())
    first_stage = read_run(paths.run)
    check_ids(first_documents(first_stage, depth))
    queries = read_queries(paths.queries)
    # A query's own document is no candidate, so that the next one comes in.
    corpus = read_corpus(paths.corpus, keep=document_ids(first_documents(first_stage, depth + 1)))
    others = without_own(first_stage, own_documents(queries, corpus))
    candidates = {query: ranking for query, ranking in first_documents(others, depth).items() if ranking}
    check_run(candidates, queries, corpus)
    rerank = partial(rerank_run, load_ranker(model_options)) if fleet is None else _on_fleet(fleet, model_options)
    with progress_bar("reranking", "queries", len(candidates)) as advance:
        reranked = rerank(candidates, queries, corpus, **asdict(limits), on_progress=advance)
    write_run(paths.output, reranked.run)
    print_note(_summary(reranked, paths.output))
    _note_dropped(reranked.documents - _count(reranked.run))
    _note_emptied(sum(not ranking for ranking in reranked.run.values()))
    _note_left_out(_count(others) - reranked.documents, depth)
    _note_own(_count(first_stage) - _count(others))
    _note_cut(reranked.queries_truncated)


def _on_fleet(fleet: Fleet, model_options: ModelOptions) -> Callable[..., RerankedRun]:
    """Connect to the cluster that ``RAY_ADDRESS`` names or this machine has, or start one here."""
    try:
        import ray

        from blockrank_rerank.serving.ray.run import rerank_run_on_fleet
    except ImportError as error:
        raise ImportError(f"--fleet needs the extra ray ({error}); {install_line('ray')}") from error
    options = described_options(model_options)
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of ours
    return partial(rerank_run_on_fleet, folder=fleet.folder, workers=fleet.workers, **options)


def _summary(reranked: RerankedRun, output: Path) -> str:
    return (
        f"reranked {len(reranked.run):,} queries with {reranked.documents:,} documents "
        f"({reranked.truncated:,} truncated), {reranked.tokens:,} tokens in {reranked.seconds:.1f} s "
        f"({reranked.tokens_per_second:,.0f} tokens/s), into {output}"
    )


def _note_dropped(count: int) -> None:
    if count:
        print_note(
            f"{count:,} documents were reranked and left out of the output "
            "(--top-k, --threshold, --min-probability, --calibration)"
        )


def _note_emptied(count: int) -> None:
    if count:
        print_note(f"{count:,} queries have no document left, so they are not in the output")


def _note_left_out(count: int, depth: int) -> None:
    if count:
        print_note(f"{count:,} documents below rank {depth} were not reranked and are not in the output (--depth)")


def _note_own(count: int) -> None:
    if count:
        print_note(f"{count:,} queries are documents of the corpus themselves: left out of the output, as in BEIR")


def _note_cut(count: int) -> None:
    if count:
        print_note(f"{count:,} queries are longer than the model reads: only their beginnings were (--long-queries)")


def _count(run: Run) -> int:
    return sum(map(len, run.values()))
