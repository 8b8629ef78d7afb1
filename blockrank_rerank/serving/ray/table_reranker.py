"""What each worker of a fleet does with the rows of a table."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockrank_rerank.errors import DataError, request_name
from blockrank_rerank.evaluation.rerank_run import rank_candidates
from blockrank_rerank.ranking.request import check_request
from blockrank_rerank.ranking.results import ANSWERABLE
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.ray.job_folder import row_digest, write_part

if TYPE_CHECKING:
    import pyarrow as pa

    from blockrank_rerank.ranking.results import RankedDocument

FIELDS = (
    "index", "id", "score", "raw_score", "probability", "truncated", "passage", "unreadable", "pruned", "layers_read",
)  # fmt: skip
"""What is kept of a ranked document: what the ranking says of it, and not the document."""


class TableReranker:
    """Ranks batches of rows and writes them into a job's folder: the actor class of ``map_batches``.

    The model is read with the first row that is not finished.

    Parameters
    ----------
    folder : Path
        Of the job, as every machine sees it.
    finished : mapping of str to str
        Ids of rows that are finished, with the digests of these rows.
    limits : mapping
        ``top_k``, ``threshold`` and ``min_probability``, as for :meth:`BlockRankReranker.rank`.
    options : mapping
        Of the reranker.
    """

    def __init__(
        self, folder: Path, finished: Mapping[str, str], limits: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._folder, self._finished, self._limits, self._options = folder, finished, limits, options

    @cached_property
    def _ranker(self) -> BlockRankReranker:
        return BlockRankReranker.from_pretrained(**self._options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rank the rows of a batch that are not finished.

        Parameters
        ----------
        batch : pyarrow.Table
            With columns ``id``, ``query`` and ``documents``.

        Returns
        -------
        pyarrow.Table
            One row: how many ``rows`` are finished now, the ``tokens`` of those that were ranked here, and the
            ``error`` that stopped it, pickled, or nothing. An error that is returned reaches the caller as it is,
            and none of Ray's own that has it somewhere inside.
        """
        import pyarrow as pa

        tokens, error = 0, None
        try:
            tokens = self._finish(batch.to_pylist())
        except Exception as fault:
            error = pickle.dumps(fault)
        rows = 0 if error else batch.num_rows
        return pa.table({"rows": [rows], "tokens": [tokens], "error": pa.array([error], pa.binary())})

    def _finish(self, batch: Sequence[Mapping[str, Any]]) -> int:
        """Rank rows and write them; their tokens."""
        rows = {str(row["id"]): _checked(row) for row in batch}
        digests = {name: row_digest(*row) for name, row in rows.items()}
        for name, digest in digests.items():
            if self._finished.get(name, digest) != digest:
                raise DataError(
                    f"{request_name(name)} has another text or other documents than the one of this id that is "
                    f"finished in {self._folder}; give another folder"
                )
        new = {name: row for name, row in rows.items() if name not in self._finished}
        return self._rank(new, digests) if new else 0

    def _rank(self, rows: Mapping[str, tuple[str, list[Any]]], digests: Mapping[str, str]) -> int:
        tokens = 0

        def count(_: int, more: int) -> None:
            nonlocal tokens
            tokens += more

        queries = {name: query for name, (query, _) in rows.items()}
        candidates = {name: _named(documents) for name, (_, documents) in rows.items()}
        ranked = rank_candidates(self._ranker, queries, candidates, on_progress=count, **self._limits)
        finished = [
            {
                "id": name,
                "digest": digests[name],
                "query_truncated": name in ranked.queries_truncated,
                ANSWERABLE: ranking.answerable,
                "ranking": [_plain(document) for document in ranking],
            }
            for name, ranking in ranked.rankings.items()
        ]
        write_part(self._folder, finished)
        return tokens


def _checked(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Query and documents of a row, without the fields that a table fills with nothing."""
    query, documents = row["query"], row["documents"]
    try:
        check_request((query, documents))
    except (TypeError, ValueError) as error:
        raise DataError(f"{request_name(str(row['id']))}: {error}") from error
    return query, [
        {field: value for field, value in document.items() if value is not None}
        if isinstance(document, dict)
        else document
        for document in documents
    ]


def _named(documents: Sequence[Any]) -> dict[str, Any]:
    """Documents by what errors call them: by their ids where each has its own, or else by their places."""
    ids = [str(document["id"]) for document in documents if isinstance(document, dict) and "id" in document]
    names = ids if len(set(ids)) == len(documents) else map(str, range(len(documents)))
    return dict(zip(names, documents, strict=True))


def _plain(document: RankedDocument) -> dict[str, Any]:
    return {field: getattr(document, field) for field in FIELDS}
