"""``blockrank prepare``: a corpus is read once, into a folder of states."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_note
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.errors import DocumentError
from blockrank_rerank.formats import DataError, read_documents
from blockrank_rerank.ranking.progress import progress_bar

WITHOUT = ("method", "store", "cache", "cache_device", "tuning", "calibration", "prune", "long_queries")


@opt.with_model_options(without=WITHOUT)
def prepare(
    corpus: Annotated[
        Path,
        typer.Argument(
            parser=opt.user_path,
            metavar="CORPUS",
            help="A file or folder of documents, as rerank takes it. With --delete and --compact it is left out.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path | None,
        typer.Argument(
            parser=opt.user_path,
            metavar="STORE",
            help="Folder for the states, ids and texts: new, empty, or to go on with.",
            show_default=False,
        ),
    ] = None,
    states: Annotated[
        str | None,
        typer.Option(
            "--states", metavar="DTYPE", help="float32, bfloat16, float16 or int8. Default: the dtype of the model."
        ),
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="ID", help="Remove the document of this id from the store; may be repeated."),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Remove what is left of replaced and deleted documents from the store's files."),
    ] = False,
    unit: opt.DocumentUnit = None,
    column: opt.DocumentColumn = None,
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Read a corpus once, so that later queries need not: pass the folder to rerank as --store.

    Documents that are in the folder already are checked and not read again: run it again after an
    interruption, or when the corpus has grown. A known id with another text or title replaces its document.

    For example: blockrank prepare corpus.jsonl states && blockrank rerank "flea life" corpus.jsonl --store states

    blockrank prepare states --delete d7 --delete d9 --compact
    """
    if delete or compact:
        _shrink(delete or [], compact, corpus, store, json)
        return
    if store is None:
        raise typer.BadParameter("prepare takes CORPUS and STORE; STORE alone goes with --delete and --compact")
    documents = read_documents(corpus, unit=unit, columns=opt.parse_columns(column, "text=abstract"))
    ranker = load_ranker(model_options)
    try:
        with progress_bar("preparing", "documents", len(documents)) as advance:
            done = ranker.prepare_store(store, documents, dtype=states, on_progress=advance)
    except KeyboardInterrupt:
        print_note(f"interrupted; what was prepared stays in {store}: run the same command again to go on")
        raise
    except DocumentError as error:
        raise DataError(f"{documents[error.index].source} {error.reason}") from error
    if json:
        print_json(done._asdict())
    else:
        print_line(
            f"{done.prepared} blocks prepared, {done.found} were there; {store} holds {done.blocks} in "
            f"{done.nbytes / 1e6:,.1f} MB"
        )
        print_line(
            f"{done.added} documents added, {done.replaced} replaced, {done.unchanged} unchanged; {store} holds "
            f"{done.documents}"
        )
        _note_unused(done.unused)


def _shrink(ids: list[str], compact: bool, store: Path, other: Path | None, json: bool) -> None:
    if other is not None:
        raise typer.BadParameter(f"--delete and --compact take STORE alone, got {store} and {other}")
    from blockrank_rerank import StoredDocuments

    documents = StoredDocuments(store)
    deleted = documents.delete(ids)
    freed = documents.compact() if compact else 0
    unused = documents.unused_blocks()
    if json:
        print_json({"deleted": deleted, "documents": len(documents), "unused": unused, "freed_bytes": freed})
        return
    print_line(f"{deleted} documents deleted; {store} holds {len(documents)}")
    if compact:
        print_line(f"{freed / 1e6:,.1f} MB freed")
    _note_unused(unused)


def _note_unused(unused: int) -> None:
    if unused:
        print_line(
            f"{unused} blocks of replaced and deleted documents, and their texts, stay in its files; "
            "'blockrank prepare STORE --compact' removes them"
        )
