"""What training data holds, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from blockrank_rerank.finetune.data.example import Candidate, TrainingExample

CountTokens = Callable[[Sequence[str]], Sequence[int]]
# Texts per call of a tokenizer: enough for its threads, little enough memory.
TOKENIZED_AT_ONCE = 1000


@dataclass(frozen=True)
class Spread:
    """The least, the median and the greatest of some numbers, and their mean."""

    min: float
    median: float
    max: float
    mean: float

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Spread | None:
        """Return the spread of some numbers, or None for none at all."""
        if not numbers:
            return None
        values = np.asarray(numbers)
        return cls(float(values.min()), float(np.median(values)), float(values.max()), float(values.mean()))


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What training data holds; documents count once per list unless said otherwise.

    Parameters
    ----------
    examples : int
        Lists without a fault.
    unique_documents : int
        Different texts, those of a BEIR folder's corpus included.
    documents_per_query, positives_per_query, negatives_per_query : Spread, optional
        Over the examples; negatives that reading would fill in are not counted.
    query_words, document_words : Spread, optional
        White-space separated words, of different documents.
    truncated_share : float, optional
        Share of the different documents that are longer than the token cap.
    without_negatives : int
        Examples that name no document as not relevant.
    duplicated_documents : int
        Documents that stand in their own list already.
    positives_also_negative : int
        Texts that one list has as relevant and as not relevant.
    duplicate_queries : int
        Examples whose query another one has, character for character.
    empty_documents : int
        Documents without text.
    truncated_queries : int
        Examples whose query the model cuts, where it is known and may cut.
    copied_documents : int
        Documents of a BEIR folder whose text another document has as well.
    graded, teacher_scored : int
        Examples with grades other than 1, and with a teacher's score for every document.
    """

    examples: int
    unique_documents: int
    documents_per_query: Spread | None
    positives_per_query: Spread | None
    negatives_per_query: Spread | None
    query_words: Spread | None
    document_words: Spread | None
    truncated_share: float | None
    without_negatives: int
    duplicated_documents: int
    positives_also_negative: int
    duplicate_queries: int
    empty_documents: int
    truncated_queries: int
    copied_documents: int
    graded: int
    teacher_scored: int


class StatisticsCounter:
    """Counts what examples hold, which it takes in one by one.

    Parameters
    ----------
    count_tokens : CountTokens, optional
        Lengths of texts in tokens.
    token_cap : int, optional
        Length from which on a document is truncated.
    """

    def __init__(self, count_tokens: CountTokens | None = None, token_cap: int | None = None) -> None:
        self._count_tokens, self._token_cap = count_tokens, token_cap
        self._documents: dict[str, None] = {}
        self._queries: Counter[str] = Counter()
        self._lengths: dict[str, list[int]] = {"all": [], "positives": [], "negatives": []}
        self._totals: Counter[str] = Counter()

    def add(self, example: TrainingExample, truncated_query: bool = False) -> None:
        """Count what one example holds."""
        positives, negatives = example.positives, example.negatives
        for name, candidates in (("all", example.candidates), ("positives", positives), ("negatives", negatives)):
            self._lengths[name].append(len(candidates))
        self._queries[example.query] += 1
        self._totals["truncated_queries"] += truncated_query
        self._totals += Counter(_oddities(example.candidates, positives, negatives))
        self.add_documents(candidate.text for candidate in example.candidates)

    def add_documents(self, texts: Iterable[str], copied: int = 0) -> None:
        """Count documents outside lists, and copies among them."""
        self._documents |= dict.fromkeys(texts)
        self._totals["copied_documents"] += copied

    def statistics(self) -> Statistics:
        """Return the statistics of everything counted so far."""
        return Statistics(
            examples=self._queries.total(),
            unique_documents=len(self._documents),
            documents_per_query=Spread.of(self._lengths["all"]),
            positives_per_query=Spread.of(self._lengths["positives"]),
            negatives_per_query=Spread.of(self._lengths["negatives"]),
            query_words=Spread.of([len(query.split()) for query in self._queries.elements()]),
            document_words=Spread.of([len(text.split()) for text in self._documents]),
            truncated_share=self._truncated_share(),
            without_negatives=self._totals["without_negatives"],
            duplicated_documents=self._totals["duplicated_documents"],
            positives_also_negative=self._totals["positives_also_negative"],
            duplicate_queries=self._queries.total() - len(self._queries),
            empty_documents=self._totals["empty_documents"],
            truncated_queries=self._totals["truncated_queries"],
            copied_documents=self._totals["copied_documents"],
            graded=self._totals["graded"],
            teacher_scored=self._totals["teacher_scored"],
        )

    def _truncated_share(self) -> float | None:
        if self._count_tokens is None or self._token_cap is None or not self._documents:
            return None
        texts, longer = iter(self._documents), 0
        while batch := list(islice(texts, TOKENIZED_AT_ONCE)):
            longer += sum(length > self._token_cap for length in self._count_tokens(batch))
        return longer / len(self._documents)


def _oddities(
    candidates: Sequence[Candidate], positives: Sequence[Candidate], negatives: Sequence[Candidate]
) -> dict[str, int]:
    relevant, other = ({found.text for found in group} for group in (positives, negatives))
    return {
        "without_negatives": not negatives,
        "duplicated_documents": len(positives) + len(negatives) - len(relevant) - len(other),
        "positives_also_negative": len(relevant & other),
        "empty_documents": sum(not found.text.strip() for found in candidates),
        "graded": any(found.grade != 1 for found in positives),
        "teacher_scored": all(found.teacher_score is not None for found in candidates),
    }
