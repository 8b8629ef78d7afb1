"""``blockrank rerank``: documents of files for a query, or a TREC run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.document_files import files_or_pipe
from blockrank_rerank.cli.rerank_documents import rerank_documents
from blockrank_rerank.cli.rerank_trec import Fleet, TrecPaths, rerank_trec
from blockrank_rerank.formats import read_documents
from blockrank_rerank.ranking.results import Limits

RUN_PANEL = "Reranking a TREC run"
DEFAULT_DEPTH = 100
T = TypeVar("T")


@opt.with_model_options()
def rerank(
    query: opt.Query = None,
    files: opt.DocumentFiles = None,
    top_k: opt.TopK = None,
    threshold: opt.Threshold = None,
    min_probability: opt.MinProbability = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the sentences of each document that the query looked at.")
    ] = False,
    deadline_ms: opt.DeadlineMs = None,
    json: opt.Json = False,
    unit: opt.DocumentUnit = None,
    column: opt.DocumentColumn = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            parser=opt.user_path,
            metavar="JSONL",
            rich_help_panel=RUN_PANEL,
            help='{"_id", "text"} per line.',
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            parser=opt.user_path,
            metavar="JSONL",
            rich_help_panel=RUN_PANEL,
            help='{"_id", "title", "text"} per line.',
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            parser=opt.user_path,
            metavar="TREC",
            rich_help_panel=RUN_PANEL,
            help="Candidates of the first stage.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            parser=opt.user_path,
            metavar="TREC",
            rich_help_panel=RUN_PANEL,
            help="Reranked run, written whole or not at all. Where scores tie in single precision, the "
            "higher-ranked is raised by the least step, so that TREC tools keep the order.",
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            min=1,
            rich_help_panel=RUN_PANEL,
            help=f"Candidates per query; deeper ones are left out. Default: {DEFAULT_DEPTH}.",
        ),
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            "--fleet",
            parser=opt.user_path,
            metavar="FOLDER",
            rich_help_panel=RUN_PANEL,
            help="Rerank on a Ray cluster (RAY_ADDRESS, or this machine) and keep finished queries in this folder, "
            "which all machines see: the same command goes on where it was interrupted.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            metavar="N",
            rich_help_panel=RUN_PANEL,
            help="Processes of the fleet, each with the model and one CPU, or GPU with --device cuda. Default: 1.",
        ),
    ] = None,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Rank the documents of files for a query, or rerank a TREC run.

    For example:

    blockrank rerank "how do fleas reproduce" notes.txt pages.jsonl --top-k 5

    blockrank rerank --queries queries.jsonl --corpus corpus.jsonl --run bm25.trec --output reranked.trec
    """
    of_run = {"--queries": queries, "--corpus": corpus, "--run": run, "--output": output}
    more_of_run: dict[str, Any] = {"--depth": depth, "--fleet": fleet, "--workers": workers}
    is_run = any(map(_given, (*of_run.values(), *more_of_run.values())))
    if query is not None and not is_run:
        files = files_or_pipe(files)
    of_documents: dict[str, Any] = {"QUERY": query, "FILE": files or None}
    only_documents: dict[str, Any] = {"--explain": explain or None, "--deadline-ms": deadline_ms}
    only_documents |= {"--json": json or None, "--unit": unit, "--column": column or None}
    _refuse_both(of_run | more_of_run, of_documents | only_documents)
    limits = Limits(top_k, threshold, min_probability)
    if is_run:
        paths = TrecPaths(*_complete(of_run))
        if workers is not None and fleet is None:
            raise ValueError("--workers are those of a fleet; give its folder with --fleet")
        machines = None if fleet is None else Fleet(fleet, workers or 1)
        rerank_trec(paths, depth or DEFAULT_DEPTH, limits, machines, model_options)
    else:
        _complete(of_documents)
        if explain and deadline_ms is not None:
            raise ValueError(
                "--deadline-ms cannot go together with --explain, which reads every document; leave one out"
            )
        documents = read_documents(files or [], unit=unit, columns=opt.parse_columns(column, "text=abstract"))
        rerank_documents(query or "", documents, limits, explain, deadline_ms, json, model_options)


def _given(value: object) -> bool:
    return value is not None


def _names(parts: dict[str, Any], present: bool) -> str:
    return ", ".join(name for name, value in parts.items() if _given(value) is present)


def _refuse_both(of_run: dict[str, Any], of_documents: dict[str, Any]) -> None:
    run, documents = _names(of_run, present=True), _names(of_documents, present=True)
    if run and documents:
        raise ValueError(f"{documents} (ranking documents) cannot go together with {run} (reranking a TREC run)")


def _complete(parts: dict[str, T | None]) -> list[T]:
    missing = _names(parts, present=False)
    if missing:
        form = "reranking a TREC run" if "--run" in parts else "ranking documents"
        raise ValueError(f"{form} needs {' '.join(parts)}; missing: {missing}; see: blockrank rerank --help")
    return [value for value in parts.values() if value is not None]
