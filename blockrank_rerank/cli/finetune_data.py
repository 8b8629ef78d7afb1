"""The commands that check training data and mine negatives."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_table
from blockrank_rerank.finetune.data.reader import FORMATS, expanded_source
from blockrank_rerank.finetune.data.row import refuse, text_rows
from blockrank_rerank.finetune.data.writer import write_examples
from blockrank_rerank.finetune.mining.embeddings import POOLINGS
from blockrank_rerank.finetune.mining.mining import MARGIN, METHODS, Method, mine_negatives
from blockrank_rerank.finetune.mining.progress import stage_progress
from blockrank_rerank.finetune.mining.report import MiningReport
from blockrank_rerank.finetune.validation.report import DataReport
from blockrank_rerank.finetune.validation.validation import validate
from blockrank_rerank.formats import DataError, check_output_path
from blockrank_rerank.formats.collection import collection_files

KEPT_FAULTS = 10_000
"""Faults of which equal ones are found."""

Split = Annotated[str, typer.Option("--split", help="Which qrels/<split>.tsv, or which split of a Hub dataset.")]
Format = Annotated[
    str,
    typer.Option("--format", metavar="|".join(FORMATS), help="Form of the data. auto: by the path and the first line."),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="KNOWN=YOURS",
        help="Name a column, for instance pos=answer; may be repeated. Others that are not known are then ignored.",
    ),
]


def validate_data(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            show_default=False,
            help="JSONL files, CSV or TSV with named columns, BEIR folders, "
            "Hub datasets (owner/name or owner/name:configuration).",
        ),
    ],
    split: Split = "train",
    format: Format = "auto",
    column: Column = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", metavar="FOLDER|ID", help="Count the documents that are longer than --token-cap."),
    ] = None,
    token_cap: Annotated[
        int | None, typer.Option("--token-cap", min=1, metavar="N", help="Most tokens of a document.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FOLDER|ID", help="Model to train: find the queries that it cannot read."),
    ] = None,
    long_queries: opt.LongQueries = "error",
    max_faults: Annotated[int, typer.Option("--max-faults", min=1, help="Faults to print; all are counted.")] = 20,
    json: opt.Json = False,
) -> None:
    """Check training data: every fault with file and line, and statistics.

    For example:

    blockrank-finetune validate-data train.jsonl data/scifact --model default

    blockrank-finetune validate-data owner/pairs --column query=question --column pos=answer
    """
    if model is None and long_queries != "error":
        raise ValueError("--long-queries goes together with --model, which says what is long")
    report = validate(
        *sources,
        split=split,
        format=format,
        columns=opt.parse_columns(column, "pos=answer"),
        tokenizer=None if tokenizer is None else _tokenizer(tokenizer),
        token_cap=token_cap,
        prompt=None if model is None else _prompt(model, long_queries),
        # Equal faults are shown as one, so that more are looked at than shown.
        max_faults=max_faults if json else max(max_faults, KEPT_FAULTS),
    )
    print_json(report.as_json()) if json else _print_report(report, max_faults)
    if not report.usable:
        raise DataError(f"{report.fault_count:,} faults in {', '.join(report.sources)}; training will not start")


def mine_negatives_command(
    source: Annotated[
        str,
        typer.Argument(metavar="DATA", show_default=False, help="BEIR folder, JSONL file, or Hub dataset."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", parser=opt.user_path, metavar="JSONL", show_default=False, help="Written whole or not at all."
        ),
    ],
    split: Split = "train",
    format: Format = "auto",
    column: Column = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="|".join(METHODS),
            help="Where candidates come from, bm25 by default; given: from the data alone. Repeat it for the best of "
            "several in turns. Random documents fill up.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FOLDER|ID", help="sentence-transformers model of --method embeddings."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Documents of each ranking to look at.")] = 100,
    skip_top: Annotated[
        int, typer.Option("--skip-top", min=0, help="Unjudged documents to leave out at the top of each ranking.")
    ] = 0,
    per_query: Annotated[int, typer.Option("--per-query", min=1, help="Negatives per query.")] = 20,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="FOLDER|ID",
            help="sentence-transformers model that scores all documents and refuses false negatives.",
        ),
    ] = None,
    teacher_margin: Annotated[
        float | None,
        typer.Option(
            "--teacher-margin",
            help=f"Refuse negatives that score at least this share of the best positive's score. Default: {MARGIN}.",
        ),
    ] = None,
    queries_limit: Annotated[
        int | None, typer.Option("--queries-limit", min=1, metavar="N", help="Draw N of the queries at random.")
    ] = None,
    exclude_queries: Annotated[
        Path | None,
        typer.Option("--exclude-queries", parser=opt.user_path, metavar="FILE", help="Ids to leave out, one per line."),
    ] = None,
    exclude_documents: Annotated[
        Path | None,
        typer.Option(
            "--exclude-documents",
            parser=opt.user_path,
            metavar="FILE",
            help="Ids that must occur nowhere, one per line.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of random draws.")] = 0,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Texts per forward pass.")] = 64,
    pooling: Annotated[
        str | None,
        typer.Option("--pooling", metavar="|".join(POOLINGS), help="Of the embedding models. Default: their own."),
    ] = None,
    query_prefix: Annotated[
        str | None, typer.Option("--query-prefix", help="Put before queries. Default: the embedding models' own.")
    ] = None,
    document_prefix: Annotated[str | None, typer.Option("--document-prefix", help="The same before documents.")] = None,
    json: opt.Json = False,
) -> None:
    """Find hard negatives, leave out false ones, and write {"query", "pos", "neg"} with the teacher's scores.

    For example:

    blockrank-finetune mine-negatives data/scifact --teacher sentence-transformers/all-MiniLM-L6-v2 --output train.jsonl
    """
    # It holds less than the data: other columns, and negatives beyond --per-query, are not in it.
    data = Path(expanded_source(source))
    check_output_path(output, data, *collection_files(data, split), exclude_queries, exclude_documents)
    with stage_progress() as show:
        mining = mine_negatives(
            source,
            split=split,
            format=format,
            columns=opt.parse_columns(column, "pos=answer"),
            method=[_method(name) for name in method or ["bm25"]],
            model=model,
            depth=depth,
            skip_top=skip_top,
            per_query=per_query,
            teacher=teacher,
            teacher_margin=teacher_margin,
            queries_limit=queries_limit,
            exclude_queries=_ids(exclude_queries),
            exclude_documents=_ids(exclude_documents),
            seed=seed,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            pooling=pooling,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
            on_progress=show,
        )
    write_examples(output, mining.examples)
    print_json(mining.report.as_json()) if json else _print_mining(mining.report, output)


def _tokenizer(model: str) -> Any:
    from blockrank_rerank.model.checkpoint import Checkpoint
    from blockrank_rerank.model.names import model_folder

    checkpoint = Checkpoint(model=model_folder(model))
    return checkpoint.tokenizer(checkpoint.model_config().vocab_size)


def _prompt(model: str, long_queries: str) -> Any:
    from blockrank_rerank.engine.spec import read_prompt, resolve_config
    from blockrank_rerank.options import Options

    spec = Options(model, long_queries=long_queries).engine_spec()
    return read_prompt(spec, *resolve_config(spec))


def _ids(path: Path | None) -> frozenset[str]:
    return frozenset() if path is None else frozenset(row.value.strip() for row in text_rows(path, refuse))


def _method(name: str) -> Method:
    known: dict[str, Method] = {"bm25": "bm25", "embeddings": "embeddings", "random": "random", "given": "given"}
    if name not in known:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, got {name!r}")
    return known[name]


def _print_report(report: DataReport, max_faults: int) -> None:
    shown = [*islice(report.fault_lines(), max_faults)]
    for fault, _ in shown:
        print_line(" ".join(fault.split()))
    more = report.fault_count - sum(count for _, count in shown)
    if more:
        print_line(f"… and {more:,} more faults (--max-faults)")
    if report.statistics.examples:
        print_table(report)
    for line in (*report.facts(), *report.warnings()):
        print_line(line)


def _print_mining(report: MiningReport, output: Path) -> None:
    print_line(
        f"{report.queries:,} queries with {report.positives:,} positives and {report.negatives:,} negatives in {output}"
    )
    print_line(f"negatives: {report.mined:,} mined, {report.given:,} from the data, {report.random:,} random")
    if report.considered:
        share = report.refused_by_teacher / report.considered
        print_line(
            f"the teacher refused {report.refused_by_teacher:,} of {report.considered:,} candidates ({share:.1%}) "
            "as likely relevant"
        )
    for count, sentence in (
        (report.queries_without_mined, "queries have no mined negative"),
        (report.dropped, "negatives of the data were dropped, since a query keeps --per-query of them"),
        (report.queries_short, "queries have fewer negatives than asked for"),
        (report.positives_below_best_negative, "queries have a candidate that the teacher prefers to every positive"),
        (
            report.queries_without_their_scores,
            "queries lost the data's teacher scores, since some of their documents have none; "
            "--teacher scores all, a smaller --per-query adds fewer",
        ),
        (
            report.queries_in_corpus,
            "queries are documents of the collection themselves, which are never their negatives",
        ),
        (report.queries_excluded, "queries were left out, as asked or because no relevant document is left"),
        (report.documents_excluded, "documents were left out with those of --exclude-documents"),
    ):
        if count:
            print_line(f"{count:,} {sentence}")
