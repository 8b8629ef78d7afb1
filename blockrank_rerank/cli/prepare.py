"""``blockrank prepare``: a corpus is read once, into a folder of states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_note
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.formats import read_documents
from blockrank_rerank.ranking.progress import progress_bar


@opt.with_model_options(without=("store", "cache", "cache_device", "prune", "long_queries"))
def prepare(
    corpus: Annotated[
        Path,
        typer.Argument(
            parser=opt.user_path,
            metavar="CORPUS",
            help="A file or folder of documents, as rerank takes it.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path,
        typer.Argument(
            parser=opt.user_path,
            metavar="STORE",
            help="Folder for the states: new, empty, or to go on with.",
            show_default=False,
        ),
    ],
    states: Annotated[
        str | None,
        typer.Option(
            "--states", metavar="DTYPE", help="float32, bfloat16, float16 or int8. Default: the dtype of the model."
        ),
    ] = None,
    unit: opt.DocumentUnit = None,
    column: opt.DocumentColumn = None,
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Read a corpus once, so that later queries need not: pass the folder to rerank as --store.

    Documents that are in the folder already are checked and not read again: run it again after an
    interruption, or when the corpus has grown.

    For example: blockrank prepare corpus.jsonl states && blockrank rerank "flea life" corpus.jsonl --store states
    """
    documents = read_documents(corpus, unit=unit, columns=opt.parse_columns(column, "text=abstract"))
    ranker = load_ranker(model_options)
    try:
        with progress_bar("preparing", "documents", len(documents)) as advance:
            done = ranker.prepare_store(
                store, (document.content for document in documents), dtype=states, on_progress=advance
            )
    except KeyboardInterrupt:
        print_note(f"interrupted; what was prepared stays in {store}: run the same command again to go on")
        raise
    if json:
        print_json(done._asdict())
    else:
        print_line(
            f"{done.prepared} blocks prepared, {done.found} were there; {store} holds {done.blocks} in "
            f"{done.nbytes / 1e6:,.1f} MB"
        )
