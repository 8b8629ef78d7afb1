"""A TREC run reranked by the workers of a fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import ray.data

from blockrank_rerank.evaluation.rerank_run import RerankedRun, check_run, scores_by_id
from blockrank_rerank.formats import Corpus, Queries, Run
from blockrank_rerank.serving.ray.job_folder import read_parts
from blockrank_rerank.serving.ray.table import BATCH_ROWS, rerank_table
from blockrank_rerank.system.files import UserPath

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "query": pa.string(),
        "documents": pa.list_(pa.struct({"id": pa.string(), "title": pa.string(), "text": pa.string()})),
    }
)


def rerank_run_on_fleet(
    run: Run,
    queries: Queries,
    corpus: Corpus,
    folder: UserPath,
    *,
    workers: int = 1,
    top_k: int | None = None,
    threshold: float | None = None,
    min_probability: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> RerankedRun:
    """Rerank all candidates of a run on a Ray cluster, as `rerank_run` does in one process.

    Parameters
    ----------
    run, queries, corpus
        As for `rerank_run`.
    folder, workers, top_k, threshold, min_probability, on_progress, **options
        As for `rerank_table`: queries that are finished in the folder are not read again.

    Returns
    -------
    RerankedRun
        Its tokens and seconds are those of this call.

    Raises
    ------
    DataError, FileNotFoundError, TypeError, ValueError
        As those two raise them.
    """
    check_run(run, queries, corpus)
    start = time.perf_counter()
    done = rerank_table(
        ray.data.from_arrow([*_tables(run, queries, corpus)]),
        folder,
        workers=workers,
        top_k=top_k,
        threshold=threshold,
        min_probability=min_probability,
        on_progress=on_progress,
        **options,
    )
    rows = {row["id"]: row for row in read_parts(done.folder)}
    rankings: dict[str, list[Any]] = {
        query: [SimpleNamespace(**document) for document in rows[query]["ranking"]] for query in run
    }
    return RerankedRun(
        run={query: scores_by_id(rankings[query], list(ranking)) for query, ranking in run.items()},
        documents=sum(map(len, run.values())),
        truncated=sum(document.truncated for ranking in rankings.values() for document in ranking),
        queries_truncated=sum(rows[query]["query_truncated"] for query in run),
        tokens=done.tokens,
        seconds=time.perf_counter() - start,
    )


def _tables(run: Run, queries: Queries, corpus: Corpus) -> Iterator[pa.Table]:
    """The run as tables of one batch each, so that as many workers as there are batches find work."""
    rows = (
        {
            "id": query,
            "query": queries[query],
            "documents": [{"id": name, **_fields(corpus[name])} for name in ranking],
        }
        for query, ranking in run.items()
    )
    while some := list(islice(rows, BATCH_ROWS)):
        yield pa.Table.from_pylist(some, schema=SCHEMA)


def _fields(document: str | dict[str, str]) -> dict[str, str]:
    return {"text": document} if isinstance(document, str) else document
