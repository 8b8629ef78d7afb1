"""``blockrank-finetune init``: an encoder gets a scoring layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_line

START_TOKEN_CHOICES = "shared|each"


def init(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER", show_default=False, help="Folder or Hub id of an encoder, such as an embedding model."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            parser=opt.user_path,
            show_default=False,
            help="Of the new model; must not exist or be empty.",
        ),
    ],
    query_prefix: Annotated[
        str | None,
        typer.Option(
            "--query-prefix",
            metavar="TEXT",
            show_default=False,
            help="What the encoder expects before a query. Default: the prompt that comes with it, if any.",
        ),
    ] = None,
    document_prefix: Annotated[
        str | None,
        typer.Option("--document-prefix", metavar="TEXT", show_default=False, help="The same before a document."),
    ] = None,
    start_token: Annotated[
        str,
        typer.Option(
            "--start-token",
            metavar=START_TOKEN_CHOICES,
            help="Whose is the first token of a sentence, such as [CLS]: shared by query and documents, or each its "
            "own, as in the encoder's training. Only a shared one allows probabilities.",
        ),
    ] = "shared",
    temperature: Annotated[float, typer.Option("--temperature", help="Of the cosines.")] = 0.05,
    length_weight: Annotated[
        float,
        typer.Option("--length-weight", help="Of the log of a document's length: -1 is a mean over tokens, 0 a sum."),
    ] = -0.3,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="float32|bfloat16|float16",
            help="Of the written weights. Default: the encoder's own.",
        ),
    ] = None,
) -> None:
    """Put a scoring layer on an encoder, so that it ranks and can be trained.

    Untrained it ranks by the cosines of the query's tokens with those of each document. Decoders need none of it.

    For example:

    blockrank-finetune init intfloat/e5-small-v2 start --query-prefix "query: " --document-prefix "passage: "

    blockrank-finetune train model=start output=my-model data=train.jsonl steps=300
    """
    from blockrank_rerank.finetune.starting_model import write_starting_model

    config = write_starting_model(
        encoder,
        folder,
        query_prefix=query_prefix,
        document_prefix=document_prefix,
        start_token=start_token,  # type: ignore[arg-type]
        temperature=temperature,
        length_weight=length_weight,
        dtype=dtype,
    )
    print_line(f"it reads {config.prompt.query} and {config.prompt.document}")
    print_line(f"written to {folder}: rank with --model {folder}, or train with model={folder}")
