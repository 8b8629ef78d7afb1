"""``blockrank rerank``: documents of files for a query, or a TREC run."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.rerank_documents import rerank_documents
from blockrank_rerank.cli.rerank_trec import TrecPaths, rerank_trec
from blockrank_rerank.formats import read_documents
from blockrank_rerank.formats.documents import STDIN
from blockrank_rerank.ranking.results import Limits

RUN_PANEL = "Reranking a TREC run"
DEFAULT_DEPTH = 100
T = TypeVar("T")


@opt.with_model_options()
def rerank(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", help="What the documents should answer.", show_default=False),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            parser=opt.user_path,
            metavar="FILE",
            show_default=False,
            help="Text files with one document per line, Markdown, .jsonl files of strings or of objects with "
            '"text" and optional "title" and "_id", CSV and TSV with named columns, folders of such files, any of them '
            "with .gz, or - for standard input, which is also read where it is a pipe and no file is named.",
        ),
    ] = None,
    top_k: opt.TopK = None,
    threshold: opt.Threshold = None,
    min_probability: opt.MinProbability = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the sentences of each document that the query looked at.")
    ] = False,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            metavar="MS",
            help="Print the ranking after this time, of what was read by then; the rest follows, marked as not read to "
            "the end. Loading the model, and measuring the machine at the first use, come on top.",
        ),
    ] = None,
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
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Rank the documents of files for a query, or rerank a TREC run.

    For example:

    blockrank rerank "how do fleas reproduce" notes.txt pages.jsonl --top-k 5

    blockrank rerank --queries queries.jsonl --corpus corpus.jsonl --run bm25.trec --output reranked.trec
    """
    of_run = {"--queries": queries, "--corpus": corpus, "--run": run, "--output": output}
    is_run = any(map(_given, (*of_run.values(), depth)))
    if query is not None and not files and not is_run and _is_piped():
        files = [STDIN]
    of_documents: dict[str, Any] = {"QUERY": query, "FILE": files or None}
    only_documents: dict[str, Any] = {
        "--min-probability": min_probability,
        "--explain": explain or None,
        "--deadline-ms": deadline_ms,
        "--json": json or None,
    }
    only_documents |= {"--unit": unit, "--column": column or None}
    _refuse_both(of_run | {"--depth": depth}, of_documents | only_documents)
    if is_run:
        rerank_trec(TrecPaths(*_complete(of_run)), depth or DEFAULT_DEPTH, top_k, threshold, model_options)
    else:
        _complete(of_documents)
        if explain and deadline_ms is not None:
            raise ValueError(
                "--deadline-ms cannot go together with --explain, which reads every document; leave one out"
            )
        limits = Limits(top_k, threshold, min_probability)
        documents = read_documents(files or [], unit=unit, columns=opt.parse_columns(column, "text=abstract"))
        rerank_documents(query or "", documents, limits, explain, deadline_ms, json, model_options)


def _is_piped() -> bool:
    """Whether standard input is a pipe or a file, and neither a terminal nor closed."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


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
