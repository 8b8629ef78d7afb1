"""Where in each document the query looked: words and sentences with their attention."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

from blockrank_rerank.ranking.results import RankedDocument, Ranking
from blockrank_rerank.text.sentences import sentence_spans

if TYPE_CHECKING:
    from blockrank_rerank.ranking.attended import AttendedList

SENTENCES = 2
"""Shown of a document before its whole text; they mostly hold more than half of its attention."""

SHADED = 0.2
"""Weight, over that of the strongest word, from which a word is shaded."""

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Span:
    """A part of a document's text.

    Attributes
    ----------
    start, end : int
        Code points of the text as given, end exclusive.
    weight : float
        Share of the attention inside the document that this part receives.
    text : str
        The part itself.
    """

    start: int
    end: int
    weight: float
    text: str


@dataclass(frozen=True)
class ExplainedDocument:
    """A ranked document with the attention that its words received.

    Attributes
    ----------
    ranked : RankedDocument
        Its place in the ranking.
    words : list of Span
        Words in the order of the text; weights sum to 1 over the document, less what its title, the
        template and what was cut off received.
    """

    ranked: RankedDocument
    words: list[Span]

    @cached_property
    def sentences(self) -> list[Span]:
        """Sentences in the order of the text, each with the weights of its words."""
        text, starts = self.ranked.text, [word.start for word in self.words]
        found = []
        for start, end in sentence_spans(text):
            inside = self.words[bisect_left(starts, start) : bisect_left(starts, end)]
            found.append(Span(start, end, sum(word.weight for word in inside), text[start:end]))
        return found

    @cached_property
    def sentences_by_attention(self) -> list[Span]:
        """The sentences, most attention first."""
        return sorted(self.sentences, key=lambda sentence: -sentence.weight)

    @property
    def best_sentence(self) -> Span | None:
        """The sentence with the most attention; nothing for an empty text."""
        return next(iter(self.sentences_by_attention), None)

    @cached_property
    def strongest(self) -> float:
        """Weight of the word with the most attention."""
        return max((word.weight for word in self.words), default=0.0)

    def within(self, start: int, end: int) -> ExplainedDocument:
        """Explain a part of the text alone, such as the content between embedded metadata."""
        words = [
            replace(word, start=word.start - start, end=word.end - start)
            for word in self.words
            if start <= word.start and word.end <= end
        ]
        return ExplainedDocument(replace(self.ranked, text=self.ranked.text[start:end]), words)

    @property
    def highlights(self) -> list[dict[str, Any]]:
        """The sentences as plain data, most attention first, for metadata and JSON."""
        return [asdict(sentence) for sentence in self.sentences_by_attention]


@dataclass(frozen=True)
class Explanation:
    """A ranking with highlights; renders itself in notebooks.

    Attributes
    ----------
    query : str
        What was asked.
    documents : list of ExplainedDocument
        Best first.
    ranking : Ranking
        The same documents as :meth:`BlockRankReranker.rank` returns them, with what it says of the whole list.
    """

    query: str
    documents: list[ExplainedDocument]
    ranking: Ranking = field(default_factory=Ranking)

    def __iter__(self) -> Iterator[ExplainedDocument]:
        return iter(self.documents)

    def _repr_html_(self) -> str:
        """The documents, each with its best sentences first, and words shaded by weight."""
        rows = "".join(_html(document) for document in self.documents)
        return f"<p><b>{escape(self.query)}</b></p><ol>{rows}</ol>"


def explained(attended: AttendedList, ranking: Sequence[RankedDocument]) -> list[ExplainedDocument]:
    """Show where in each of the wanted documents of a ranked list the query looked, in their order.

    Of a document that was split, the passage that won is shown.
    """
    blocks = [attended.block_of(ranked) for ranked in ranking]
    attention = attended.token_attention()
    return [
        ExplainedDocument(ranked, _words(ranked, spans, attention[block].tolist()))
        for ranked, block, spans in zip(ranking, blocks, attended.token_spans(blocks), strict=True)
    ]


def _words(ranked: RankedDocument, spans: Sequence[tuple[int, int]], weights: Sequence[float]) -> list[Span]:
    first, last = ranked.passage or (0, len(ranked.text))
    # Title and template stand before and after a passage where the document has other words.
    read = [pair for pair in zip(spans, weights, strict=True) if first < pair[0][1] <= last]
    return word_spans(ranked.text, [token for token, _ in read], [weight for _, weight in read])


def word_spans(text: str, tokens: Sequence[tuple[int, int]], weights: Sequence[float]) -> list[Span]:
    """Give words of a text the weights of their tokens, and 0 where they were not read.

    Parameters
    ----------
    text : str
        The document's text as given.
    tokens : sequence of (int, int)
        Code points of each token in the text; those of title and template lie outside it.
    weights : sequence of float
        Of the tokens.
    """
    found = [(match.start(), match.end()) for match in _WORD.finditer(text)]
    totals = [0.0] * len(found)
    word = 0
    for (start, end), weight in zip(tokens, weights, strict=True):
        while word < len(found) and found[word][1] <= start:
            word += 1
        # A token may begin with the space before its word; one that ends before the text belongs to the title.
        if word < len(found) and end > found[word][0]:
            totals[word] += weight
    return [Span(start, end, total, text[start:end]) for (start, end), total in zip(found, totals, strict=True)]


def _html(document: ExplainedDocument) -> str:
    """The best sentences with their shares, and the whole text behind a line that opens it."""
    whole = _shaded(document, 0, len(document.ranked.text))
    if len(document.sentences) > SENTENCES:
        best = document.sentences_by_attention[:SENTENCES]
        shown = "".join(f"<div>{s.weight:.0%} {_shaded(document, s.start, s.end)}</div>" for s in best)
        whole = f"{shown}<details><summary>whole text</summary>{whole}</details>"
    return f"<li><b>{document.ranked.score:.3f}</b> {whole}</li>"


def _shaded(document: ExplainedDocument, start: int, end: int) -> str:
    """A part of the text, with the words shaded that drew much of the attention."""
    text, parts, shown = document.ranked.text, [], start
    for word in document.words:
        strength = word.weight / (document.strongest or 1.0)
        if start <= word.start and word.end <= end and strength >= SHADED:
            # Opaque, and with a colour for the letters: a page may be light or dark.
            colour = f"rgb(255, {240 - 40 * strength:.0f}, {190 * (1 - strength):.0f})"
            parts += [
                escape(text[shown : word.start]),
                f'<span style="background: {colour}; color: #111">{escape(word.text)}</span>',
            ]
            shown = word.end
    return f"{''.join(parts)}{escape(text[shown:end])}"
