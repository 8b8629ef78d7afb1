"""What a ranking gives, and which of it is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from blockrank_rerank.errors import check_real, check_whole
from blockrank_rerank.text.document import Source


@dataclass(frozen=True)
class RankedDocument:
    """One document of a ranking.

    Attributes
    ----------
    index : int
        Position of the document in the input list.
    score : float
        Attention share, or with ``method="decode"`` the id's share of the probability: relative to the list, sums to 1
        over it, and is 1.0 for a single document.
    raw_score : float
        Mean document log-sum-exp, in the log domain and not normalised over the list; with ``method="decode"`` the
        log-probability of the document's id. Of a ``pruned`` document see ``layers_read``.
    text : str
        The document's text as given, without its title.
    truncated : bool
        Whether the end of the document, or of its best passage, was cut off before scoring.
    probability : float or None
        Probability of relevance in 0–1, of models that were trained to abstain or with a calibration; else nothing.
        It does not depend on the other documents, unless the query block sees them below the scoring layer (see
        `BlockRankConfig`).
    passage : (int, int) or None
        Code points of the best passage, end exclusive, of a document that was too long for one block and was
        split: scores and probability are that passage's.
    unreadable : float
        Share of tokens, in 0–1, that stand for text which the model's tokenizer cannot read: the query's or the
        document's, whichever is larger. Above a quarter, the probability is lowered by that share.
    pruned : bool
        Whether the document was not read to the end (``prune``, ``deadline_ms``): then it comes after all that were,
        ``score`` is 0, and there is no probability.
    layers_read : int or None
        How many layers read all of a document that is ``pruned``: ``raw_score`` is of the last of them, and compares
        with that of documents which as many have read; of one that was split, it is that of the best passage which no
        further layer has read. 0 where a deadline came before any layer had read all of it: then ``raw_score`` is the
        least of the others' in the list, 0.0 where there are none. Nothing of documents that were read to the end.
    document : object
        What was given for the document: the text, mapping or object itself, or its copy of prepared documents.
    id : str or int or None
        Its ``id``, ``_id`` or ``doc_id``, where it had one; NumPy's and pandas' whole numbers as int, UUIDs as text.
    served_from : str
        Where its states came from: ``read`` where the model read the text for this ranking, else ``cached``,
        ``stored`` or ``prepared``; of a document that was split, those of the best passage.
    """

    index: int
    score: float
    raw_score: float
    text: str
    truncated: bool
    probability: float | None = None
    passage: tuple[int, int] | None = None
    pruned: bool = False
    unreadable: float = 0.0
    document: Any = field(default=None, repr=False, compare=False)
    id: Any = None
    served_from: Source = field(default="read", compare=False)
    layers_read: int | None = None


TRUNCATED = "truncated"
"""Key under which adapters write that the model read only the beginning; no other document has it."""


def truncation(ranked: RankedDocument) -> dict[str, bool]:
    """Return what adapters add to a document's metadata: that it was cut, of one that was."""
    return {TRUNCATED: True} if ranked.truncated else {}


ANSWERABLE = "answerable"
"""Key under which adapters and servers write how likely a list holds an answer, of lists of which it is known."""


def answerability(answerable: float | None) -> dict[str, float]:
    """Return what adapters and servers add of a list: that it holds an answer, where it is known how likely."""
    return {} if answerable is None else {ANSWERABLE: answerable}


class Ranking(list[RankedDocument]):
    """Documents of a list, best first, and what is known of the list as a whole. A list in every other way.

    Attributes
    ----------
    answerable : float or None
        Probability, in 0–1, that some document of the list answers the query, whatever limits have left of it. Of
        models for which it was learnt, as for the default one; None of others, of a search, with a tuning, and where
        not every document was read to the end.
    pruned : int
        How many documents were not read to the end (``prune``, ``deadline_ms``), whatever limits have left of them: as
        they have no probability, ``min_probability`` and a calibration leave them out.
    """

    def __init__(
        self,
        documents: Iterable[RankedDocument] = (),
        answerable: float | None = None,
        pruned: int | None = None,
    ) -> None:
        super().__init__(documents)
        self.answerable = answerable
        self.pruned = sum(document.pruned for document in self) if pruned is None else pruned


@dataclass(frozen=True)
class Limits:
    """Which documents of a ranking are wanted; see :meth:`BlockRankReranker.rank`.

    Raises
    ------
    ValueError
        Naming what is no number, or negative.
    """

    top_k: int | None = None
    threshold: float | None = None
    min_probability: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        if self.top_k is not None:
            check_whole("top_k", self.top_k, 0, ", or None for all")
        if self.threshold is not None:
            check_real("threshold", self.threshold, None, ", or None")
        if self.min_probability is not None:
            check_real("min_probability", self.min_probability, (0, 1), ", or None")

    def select(self, ranked: Ranking) -> Ranking:
        """Take the wanted documents of a ranking; limits on scores come before ``top_k``."""
        wanted = [
            document
            for document in ranked
            if (self.threshold is None or document.score >= self.threshold)
            and (self.min_probability is None or (document.probability or 0.0) >= self.min_probability)
        ]
        return Ranking(wanted[: self.top_k], ranked.answerable, ranked.pruned)
