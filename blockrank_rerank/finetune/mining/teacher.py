"""An embedding model that judges negatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.mining.embeddings import EmbeddingTable, Encode
from blockrank_rerank.finetune.mining.progress import OnProgress


class Teacher:
    """An embedding model that scores pairs by cosine; every text is embedded once.

    Parameters
    ----------
    encode : Encode
        The model.
    on_progress : OnProgress, optional
        Told the texts embedded.
    """

    def __init__(self, encode: Encode, on_progress: OnProgress | None = None) -> None:
        self.queries = EmbeddingTable(encode, "query", on_progress)
        self.documents = EmbeddingTable(encode, "document", on_progress)

    def read(self, queries: Iterable[str], documents: Iterable[str]) -> None:
        """Embed what is to be scored, all at once, so that batches can be sorted by length."""
        self.queries.add(queries)
        self.documents.add(documents)

    def scores(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosines of a query and documents that were read."""
        return self.documents[documents] @ self.queries[[query]][0] if documents else np.zeros(0, np.float32)

    def scored(self, example: TrainingExample) -> TrainingExample:
        """Return the example with the teacher's scores."""
        scores = self.scores(example.query, [candidate.text for candidate in example.candidates])
        candidates = (
            replace(candidate, teacher_score=round(float(score), 6))
            for candidate, score in zip(example.candidates, scores, strict=True)
        )
        return replace(example, candidates=tuple(candidates))


def is_false_negative(
    negatives: NDArray[np.float32], positives: NDArray[np.float32], margin: float
) -> NDArray[np.bool_]:
    """Say which negatives a teacher scores so near to the best positive that they may well be relevant.

    A negative is refused from ``margin`` times the best positive's score on: the threshold relative to the
    positive (TopK-PercPos) of NV-Retriever (Moreira et al. 2024, arXiv 2407.15831), which took 0.95.
    Where the best positive scores below 0, the threshold lies as far below it, not above.

    Parameters
    ----------
    negatives, positives : array
        A teacher's scores of one query's documents, shape (documents,).
    margin : float
        Share of the best positive's score from which on a negative is refused.

    Returns
    -------
    array of bool
        One for each negative.
    """
    best = float(positives.max())
    threshold = best - (1 - margin) * abs(best)
    return np.asarray(negatives >= threshold)
