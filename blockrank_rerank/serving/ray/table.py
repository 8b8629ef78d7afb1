"""A table of queries with their documents, reranked by the workers of a fleet."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray.data

from blockrank_rerank.errors import DataError, check_whole, shown_ids
from blockrank_rerank.ranking.progress import no_progress
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.ray.job_folder import open_job, read_parts
from blockrank_rerank.serving.ray.table_reranker import TableReranker
from blockrank_rerank.system.files import UserPath, absolute

COLUMNS = ("id", "query", "documents")

BATCH_ROWS = 16
"""Rows that a worker ranks at a time, and loses when it dies: several fill a GPU's passes, and one fills a CPU's."""


class FinishedTable(NamedTuple):
    """A table that was reranked.

    Attributes
    ----------
    folder : Path
        ``parts/*.jsonl`` hold a row for every row of the table: ``id``, ``ranking``, best document first, and
        ``answerable``, as :class:`Ranking` has it.
    rows : int
        Of the table.
    rows_before : int
        Those that were finished already.
    tokens : int
        Tokens of the others.
    """

    folder: Path
    rows: int
    rows_before: int
    tokens: int


def rerank_table(
    table: ray.data.Dataset,
    folder: UserPath,
    *,
    workers: int = 1,
    cpus: float = 1,
    gpus: float | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    min_probability: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> FinishedTable:
    """Rerank a table on a Ray cluster, and go on where an earlier call for the same folder was interrupted.

    Rows count as finished once they are in the folder, which happens for all rows of a batch or for none. A worker
    that dies is replaced, and its batch is ranked again.

    Parameters
    ----------
    table : ray.data.Dataset
        Columns ``id`` (texts or whole numbers, each once), ``query`` (texts) and ``documents`` (lists of texts, or of
        objects with ``text`` and optional ``title`` and ``id``). Other columns are not read.
    folder : str or path-like
        New, or of the same table and settings. All machines of the cluster must see it under this path.
    workers : int
        Processes that rank, each with a model of its own.
    cpus, gpus : float
        Of each worker; Ray gives a worker as many threads as it has CPUs. By default a GPU where ``device`` is one.
    top_k, threshold, min_probability
        As for :meth:`BlockRankReranker.rank`.
    on_progress : callable, optional
        Called with (rows, tokens) finished since the last call.
    **options
        Those of :meth:`BlockRankReranker.from_pretrained`. Paths are those of the workers' machines.

    Raises
    ------
    TypeError
        For a keyword that is no option.
    DataError
        For a table without rows or a column, ids that are missing or not each once, and rows that cannot be ranked:
        what was finished before stays.
    ValueError, FileNotFoundError
        For options that cannot be used, and a folder of another job.
    """
    job = absolute(folder, "folder")
    limits: Any = {"top_k": top_k, "threshold": threshold, "min_probability": min_probability}
    workers = check_whole("workers", workers, 1)
    ranker = BlockRankReranker.from_pretrained(**options)
    _ = ranker.config  # reads settings of a model and no weights
    ranker._limits(**limits)
    ids = _ids(table)
    open_job(job, options, limits)
    finished = {row["id"]: row["digest"] for row in read_parts(job)}
    ranked = table.select_columns([*COLUMNS]).map_batches(
        TableReranker,
        fn_constructor_args=(job, finished, limits, options),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        # Batches take long, so that none should wait at a worker while another one has nothing to do.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=cpus,
        num_gpus=float(str(options.get("device")).startswith("cuda")) if gpus is None else gpus,
    )
    tokens = _followed(ranked, on_progress or no_progress)
    return FinishedTable(job, len(ids), sum(name in finished for name in ids), tokens)


def _followed(ranked: ray.data.Dataset, on_progress: Callable[[int, int], None]) -> int:
    """Let the workers rank, and report what they have done; the tokens of all."""
    tokens = 0
    for batch in ranked.iter_batches(batch_size=None, batch_format="pyarrow"):
        for done in batch.to_pylist():
            if done["error"] is not None:
                raise pickle.loads(done["error"])
            tokens += done["tokens"]
            on_progress(done["rows"], done["tokens"])
    return tokens


def _ids(table: ray.data.Dataset) -> Sequence[str]:
    """The ids of a table, which are checked, as texts."""
    columns = table.columns() or []
    missing = [name for name in COLUMNS if name not in columns]
    if columns and missing:
        raise DataError(
            f"the table has no column {missing[0]!r}: expected {', '.join(COLUMNS)}, got {', '.join(columns)}; "
            "table.rename_columns gives columns other names"
        )
    batches = table.select_columns(["id"]).iter_batches(batch_size=None, batch_format="pyarrow") if columns else ()
    found = [name for batch in batches for name in batch["id"].to_pylist()]
    if not found:
        raise DataError("the table is empty: expected a row for each query")
    if None in found:
        raise DataError(f"{found.count(None)} rows of the table have no id; each needs one of its own")
    ids = [str(name) for name in found]
    twice = [name for name, number in Counter(ids).items() if number > 1]
    if twice:
        raise DataError(f"{len(twice)} ids stand in several rows of the table: {shown_ids(twice)}; each needs its own")
    return ids
