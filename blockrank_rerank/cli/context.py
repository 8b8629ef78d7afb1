"""``blockrank context``: what of the documents of files goes into a generator's prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line, print_note
from blockrank_rerank.cli.document_files import files_or_pipe, naming_documents
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.cli.rerank_documents import unanswered
from blockrank_rerank.formats import FileDocument, read_documents
from blockrank_rerank.ranking.context.settings import MAX_TOKENS, TEMPLATE, ContextSettings

if TYPE_CHECKING:
    from blockrank_rerank import Context, Piece


@opt.with_model_options()
def context(
    query: opt.Query = None,
    files: opt.DocumentFiles = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, metavar="N", help="Most tokens of the context.")
    ] = MAX_TOKENS,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="MODEL",
            help="Whose tokens they are: a folder or Hub id with a tokenizer.json. Default: the reranker's own.",
        ),
    ] = None,
    top_k: opt.TopK = None,
    threshold: opt.Threshold = None,
    min_probability: opt.MinProbability = None,
    diversity: Annotated[
        float,
        typer.Option(
            "--diversity", min=0, max=1, help="How much a sentence loses for being like one that was taken before."
        ),
    ] = 0.0,
    template: Annotated[
        str,
        typer.Option(
            "--template", help="How a document is written: {text}, and maybe {title}, {id}, {index}, {number}."
        ),
    ] = TEMPLATE,
    json: opt.Json = False,
    unit: opt.DocumentUnit = None,
    column: opt.DocumentColumn = None,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Rank the documents of files, and print those of their sentences that a prompt has room for.

    The context goes to standard output, and what was left out to standard error.

    For example: blockrank context "how do fleas reproduce" notes.txt --max-tokens 500
    """
    files = files_or_pipe(files)
    if query is None or not files:
        raise ValueError("a context needs QUERY FILE; see: blockrank context --help")
    documents = read_documents(files, unit=unit, columns=opt.parse_columns(column, "text=abstract"))
    # What cannot be used is refused before a model is loaded.
    given = None if tokenizer is None else _read_tokenizer(tokenizer)
    ContextSettings(max_tokens, given, diversity, template)
    ranker = load_ranker(model_options)
    with naming_documents(documents):
        found = ranker.context(
            query,
            [_with_id(document) for document in documents],
            max_tokens,
            given,
            top_k=top_k,
            threshold=threshold,
            min_probability=min_probability,
            diversity=diversity,
            template=template,
        )
    if json:
        print_json(_record(found, documents))
        return
    if found.text:
        print_line(found.text)
    for note in _notes(found, max_tokens):
        print_note(note)


def _with_id(document: FileDocument) -> dict[str, Any]:
    """A document as the template names it: by its id, or by file and line."""
    return {"id": document.id or document.source, "title": document.title, "text": document.text}


def _read_tokenizer(name: str) -> Any:
    from tokenizers import Tokenizer

    from blockrank_rerank.model.checkpoint import Checkpoint, readable

    path = Checkpoint(model=name).file("tokenizer.json")  # whose errors name it
    with readable(name, "the tokenizer"):
        if path is None:
            raise FileNotFoundError("it has no tokenizer.json")
        return Tokenizer.from_file(str(path))


def _record(found: Context, documents: Sequence[FileDocument]) -> dict[str, Any]:
    return {
        "text": found.text,
        "tokens": found.num_tokens,
        "answerable": found.ranking.answerable,
        "pieces": [_piece(piece, documents) for piece in found.pieces],
        "dropped": [_piece(piece, documents) for piece in found.dropped],
    }


def _piece(piece: Piece, documents: Sequence[FileDocument]) -> dict[str, Any]:
    document = documents[piece.index]
    return {"id": document.id, "source": document.source, **asdict(piece)}


def _notes(found: Context, max_tokens: int) -> Iterator[str]:
    yield f"{found.num_tokens} of {max_tokens} tokens, from {len(found.texts)} of {len(found.ranking)} documents"
    reasons = Counter(piece.reason if piece.duplicate_of is None else "near-duplicate" for piece in found.dropped)
    if reasons:
        yield "left out: " + ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
    yield from unanswered(found.ranking)
