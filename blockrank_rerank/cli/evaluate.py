"""``blockrank evaluate``: measures of a collection before and after reranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import literal, print_json, print_line, print_table
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.evaluation.measures import Evaluation, evaluate_ranker, require_extra
from blockrank_rerank.evaluation.task import TaskSource
from blockrank_rerank.formats import Collection, check_ids, check_output_path, write_run
from blockrank_rerank.formats.collection import collection_files
from blockrank_rerank.ranking.progress import progress_bar


# Measures are of whole lists, whose order no calibration changes.
@opt.with_model_options(without=("calibration",))
def evaluate(
    folder: opt.BeirFolder,
    run: opt.FirstStageRun = None,
    split: opt.Split = "test",
    depth: opt.Depth = 100,
    min_relevance: opt.MinRelevance = 1,
    queries_limit: Annotated[
        int | None,
        typer.Option("--queries-limit", min=1, metavar="N", help="Draw N of the queries at random."),
    ] = None,
    seed: opt.Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", parser=opt.user_path, metavar="TREC", help="Keep the reranked run.")
    ] = None,
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Measure nDCG@10, RR@10 and recall before and after reranking a BEIR collection.

    Means are over the judged queries that have a relevant document; one without candidates counts as 0.
    Candidates are shuffled before they are scored, so that no model profits from the first stage's order.

    For example:

    blockrank evaluate data/scifact

    blockrank evaluate data/trec-dl19 --run data/trec-dl19/bm25.trec --split full_pool --min-relevance 2
    """
    asked = TaskSource(
        folder=folder,
        run=run,
        split=split,
        depth=depth,
        min_relevance=min_relevance,
        queries=queries_limit,
        seed=seed,
    )
    _evaluate(asked, output, json, model_options)


def _evaluate(asked: TaskSource, output: Path | None, as_json: bool, model_options: opt.ModelOptions) -> None:
    require_extra()
    if output:
        read = collection_files(asked.folder, asked.split)
        check_output_path(output, asked.run, *read, *model_options.files())
    collection, corpus, first_stage = asked.read()
    if output:
        check_ids(first_stage)
    ranker = load_ranker(model_options)
    with_candidates = sum(bool(first_stage.get(query)) for query in collection.queries)
    with progress_bar("reranking", "queries", with_candidates) as advance:
        evaluation = evaluate_ranker(
            ranker,
            collection,
            corpus,
            first_stage,
            depth=asked.depth,
            min_relevance=asked.min_relevance,
            seed=asked.seed,
            on_progress=advance,
        )
    report = _report(asked, collection, evaluation, str(ranker.model))
    try:
        if output:
            write_run(output, evaluation.reranked.run)
    finally:  # a disk that is full by now does not cost the measures
        print_json(report) if as_json else _print_report(report)


def _report(asked: TaskSource, collection: Collection, evaluation: Evaluation, model: str) -> dict[str, Any]:
    reranked = evaluation.reranked
    return {
        "folder": str(asked.folder),
        "split": asked.split,
        "first_stage": asked.first_stage_name,
        "model": model,
        "depth": asked.depth,
        "min_relevance": asked.min_relevance,
        "seed": asked.seed,
        "queries": evaluation.queries,
        "queries_without_relevant": len(collection.without_positive),
        "queries_without_candidates": evaluation.without_candidates,
        "queries_unranked": evaluation.unranked,
        "queries_in_corpus": evaluation.in_corpus,
        "queries_truncated": reranked.queries_truncated,
        "documents": reranked.documents,
        "documents_per_query": reranked.documents / max(1, len(reranked.run)),
        "documents_truncated": reranked.truncated,
        "tokens": reranked.tokens,
        "seconds": reranked.seconds,
        "tokens_per_second": reranked.tokens_per_second,
        "before": evaluation.before,
        "after": evaluation.after,
    }


def _print_report(report: dict[str, Any]) -> None:
    print_table(_measures(report))
    for line in (*_facts(report), *_caveats(report)):
        print_line(line)


def _measures(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(literal(f"{report['folder']} ({report['split']})"))
    for heading in ("before", "after", "difference"):
        table.add_column(heading, justify="right")
    for measure in ("nDCG@10", "RR@10", "R@10"):
        before, after = report["before"][measure], report["after"][measure]
        table.add_row(measure, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    return table


def _facts(report: dict[str, Any]) -> list[str]:
    ceiling = f"R@{report['depth']}"
    return [
        f"first stage: {report['first_stage']}, with {ceiling} = {report['before'][ceiling]:.4f}, "
        "which reranking does not change",
        f"model: {report['model']}",
        f"{report['queries']:,} queries, {report['documents_per_query']:.1f} documents per query "
        f"({report['documents_truncated']:,} of {report['documents']:,} truncated)",
        f"{report['tokens']:,} tokens in {report['seconds']:.1f} s ({report['tokens_per_second']:,.0f} tokens/s)",
    ]


def _caveats(report: dict[str, Any]) -> list[str]:
    least = report["min_relevance"]
    sentences = {
        "queries_without_relevant": f"judged queries have no document judged {least} or higher: left out",
        "queries_without_candidates": "queries have no candidates and count as 0",
        "queries_unranked": "queries have candidates of one and the same score: 'before' shuffles those",
        "queries_in_corpus": "queries are documents of the corpus themselves: left out of their candidates, as in BEIR",
        "queries_truncated": "queries are longer than the model reads: only their beginnings were (--long-queries)",
    }
    return [f"{report[name]:,} {sentence}" for name, sentence in sentences.items() if report[name]]
