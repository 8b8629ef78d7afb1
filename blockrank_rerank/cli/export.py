"""``blockrank export``: a model as it is in use becomes a folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json, print_line
from blockrank_rerank.cli.ranker import described_ranker

WITHOUT = ("method", "store", "cache", "cache_device", "tuning", "calibration", "prune", "long_queries", "max_memory")


@opt.with_model_options(without=WITHOUT)
def export(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=opt.user_path,
            metavar="FOLDER",
            help="Folder for the model: new or empty.",
            show_default=False,
        ),
    ],
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Write the model as it is in use into a folder, for programs that take a model's folder.

    Its settings are those that the options here give it. Layers after the scoring layer are left out, and an adapter
    is merged.

    For example: blockrank export my-model && blockrank rerank "flea life" corpus.txt --model my-model
    """
    described_ranker(model_options).save_pretrained(folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if json:
        print_json({"folder": str(folder), "bytes": size})
    else:
        print_line(f"{folder} holds the model, {size / 1e6:,.1f} MB")
