"""``blockrank search``: all documents of a store are ranked for a query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import print_json
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.cli.rerank_documents import print_ranking, record
from blockrank_rerank.formats import FileDocument


@opt.with_model_options(without=("method", "store", "cache", "cache_device", "prune"))
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.", show_default=False)],
    store: Annotated[
        Path,
        typer.Option(
            "--store", parser=opt.user_path, metavar="FOLDER", help="Made by blockrank prepare with the same model."
        ),
    ],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, metavar="K", help="Show the best K documents.")] = 10,
    min_probability: opt.MinProbability = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Faster, and may miss some of the best documents.")
    ] = False,
    json: opt.Json = False,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Rank all documents of a prepared corpus for a query; no first stage chooses candidates.

    One command reads all of the store for one query: many queries are quicker from Python or an adapter, which keep it
    in memory (docs/search.md).

    For example: blockrank prepare corpus.jsonl states && blockrank search "how do fleas reproduce" --store states
    """
    from blockrank_rerank import StoredDocuments

    documents = StoredDocuments(store)  # before the model is loaded
    ranker = load_ranker(model_options)
    ranking = ranker.search(documents, query, top_k, min_probability=min_probability, approximate=approximate)
    shown = {
        ranked.index: FileDocument(
            text=ranked.text, source=str(store), title=ranked.document.title, id=ranked.document.id
        )
        for ranked in ranking
    }
    if json:
        print_json([record(rank, ranked, shown[ranked.index]) for rank, ranked in enumerate(ranking, start=1)])
    else:
        print_ranking(ranking, shown, len(documents))
