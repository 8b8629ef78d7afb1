"""The ranker of AnswerDotAI's rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import count
from typing import Any

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.adapters import (
    DEFAULT_MODEL,
    ScoreType,
    Scoring,
    UserPath,
    answerability,
    check_is_list,
    check_options,
    in_executor,
    install_line,
    metadata_of,
    with_options,
)

try:
    from rerankers.documents import Document
    from rerankers.models import AVAILABLE_RANKERS
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
except ImportError as error:
    raise ImportError(f"rerankers_blockrank needs rerankers; {install_line('rerankers')}") from error


class BlockRankRanker(BaseRanker):
    """BlockRank behind ``Reranker("default", model_type="BlockRankRanker")``.

    Parameters
    ----------
    model_name_or_path : str or path-like
        Folder, Hub id, or "default" for the model in the package.
    verbose : int
        Accepted for the interface; nothing is printed.
    score_type : str, optional
        `probability`, `raw` or `share`; probability where the model gives one, else raw, if not given.
    **options
        Of `BlockRankReranker.from_pretrained`.
    """

    @with_options(without=("model",))
    def __init__(
        self,
        model_name_or_path: UserPath = DEFAULT_MODEL,
        verbose: int = 1,
        score_type: ScoreType | None = None,
        **options: Any,
    ) -> None:
        self._scoring = Scoring(score_type)
        check_options({"model": model_name_or_path, **options})
        self._reranker = BlockRankReranker.from_pretrained(model_name_or_path, **options)

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str] | Sequence[Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """All documents, best first, with `probability` and `passage` in their metadata where they have them.

        The metadata of each have `answerable`, too: how likely some document of the list answers the query. With a
        calibration those below its threshold are left out.
        """
        documents = _documents([docs] if isinstance(docs, str | Document) else docs, doc_ids, metadata)
        ranking = self._scoring.rank(self._reranker, query, [document.text or "" for document in documents])
        for found in ranking:
            documents[found.ranked.index].metadata |= metadata_of(found.ranked) | answerability(ranking.answerable)
        results = [
            Result(document=documents[found.ranked.index], score=found.score, rank=rank)
            for rank, found in enumerate(ranking, start=1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)

    async def rank_async(
        self,
        query: str,
        docs: str | Document | Sequence[str] | Sequence[Document],
        doc_ids: Sequence[str] | Sequence[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """As `rank`, in a thread that stops when nobody waits for it any more."""
        return await in_executor(self.rank, query, docs, doc_ids, metadata)

    def score(self, query: str, doc: str) -> float:
        """Score of one document, as `rank` gives it; raw where scores are shares, as that of a single one is 1."""
        score_type = self._scoring.score_type
        # Whatever threshold a calibration has.
        scoring = Scoring("raw" if score_type == "share" else score_type, min_probability=0)
        return scoring.rank(self._reranker, query, [doc])[0].score


def _documents(
    docs: Sequence[str] | Sequence[Document],
    doc_ids: Sequence[str] | Sequence[int] | None,
    metadata: list[dict[str, Any]] | None,
) -> list[Document]:
    """New documents with ids and metadata; `rerankers.utils.prep_docs` would write them to the caller's."""
    check_is_list(docs)
    documents = [_document(document, number) for number, document in enumerate(docs)]
    for name, values in (("doc_ids", doc_ids), ("metadata", metadata)):
        if values is not None and len(values) != len(documents):
            raise ValueError(f"{name} must have one entry for each of {len(documents)} documents, got {len(values)}")
    taken = {document.doc_id for document in documents}
    free = (number for number in count() if number not in taken)
    for number, document in enumerate(documents):
        if doc_ids is not None:
            document.doc_id = doc_ids[number]
        elif document.doc_id is None:
            document.doc_id = next(free)
        document.metadata = dict((document.metadata if metadata is None else metadata[number]) or {})
    return documents


def _document(document: object, number: int) -> Document:
    if isinstance(document, str):
        return Document(document)
    if not isinstance(document, Document):
        raise TypeError(f"docs[{number}] must be a str or a Document of rerankers, got {type(document).__name__}")
    return copy(document)


AVAILABLE_RANKERS["BlockRankRanker"] = BlockRankRanker
