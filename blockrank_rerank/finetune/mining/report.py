"""The result of mining: examples, and what became of the candidates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from blockrank_rerank.finetune.data.example import TrainingExample


@dataclass(kw_only=True)
class MiningReport:
    """What became of the candidates for negatives, in numbers.

    Parameters
    ----------
    queries : int
        Queries written.
    positives, negatives : int
        Documents in their lists.
    given, mined, random : int
        Where the negatives come from: the data, the retrieval, or chance, because too few were found or kept.
    considered, refused_by_teacher : int
        Candidates that the teacher looked at, and those among them that it holds to be relevant.
    queries_without_mined : int
        Queries for which retrieval found nothing, or nothing that the teacher let pass.
    dropped : int
        Negatives of the data beyond those that a query keeps.
    queries_short : int
        Queries that still have fewer negatives than asked for, since the collection has no more documents.
    positives_below_best_negative : int
        Queries whose best positive the teacher scores below their best negative that was kept or refused: many
        of these, and the teacher does not fit the data.
    queries_without_their_scores : int
        Queries for which the data has teacher scores that were left out, since without a teacher some documents
        of their lists have none.
    queries_in_corpus : int
        Queries that are documents of the collection themselves, under their id, which are never negatives.
    queries_excluded, documents_excluded : int
        What is left out of the data as asked: queries that are named, or of which no relevant document is left, and
        documents with their copies.
    """

    queries: int = 0
    positives: int = 0
    negatives: int = 0
    given: int = 0
    mined: int = 0
    random: int = 0
    considered: int = 0
    refused_by_teacher: int = 0
    queries_without_mined: int = 0
    dropped: int = 0
    queries_short: int = 0
    positives_below_best_negative: int = 0
    queries_without_their_scores: int = 0
    queries_in_corpus: int = 0
    queries_excluded: int = 0
    documents_excluded: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class Mining:
    """Examples with mined negatives, hardest first, and the report of how they came about."""

    examples: list[TrainingExample]
    report: MiningReport = field(default_factory=MiningReport)
