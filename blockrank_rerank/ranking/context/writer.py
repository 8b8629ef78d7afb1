"""Sentences written as a context, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

from blockrank_rerank.ranking.context.piece import BETWEEN_PIECES, DroppedPiece, Piece, joined, near_duplicate_of
from blockrank_rerank.text.document import given_text

if TYPE_CHECKING:
    from blockrank_rerank.ranking.attended import AttendedList
    from blockrank_rerank.ranking.context.selection import Selection
    from blockrank_rerank.ranking.context.sentence import Sentence, Span
    from blockrank_rerank.ranking.context.settings import ContextSettings

BETWEEN_DOCUMENTS = "\n\n"
BELOW_THRESHOLD, BEYOND_TOP_K, PRUNED = "below threshold", "beyond top_k", "pruned"
"""Why a document is not in a context."""


class Writer:
    """Writes sentences of a ranked list as the settings say, and counts their tokens.

    Parameters
    ----------
    attended : AttendedList
        The list.
    settings : ContextSettings
        Name tokenizer and template.
    """

    def __init__(self, attended: AttendedList, settings: ContextSettings) -> None:
        self._plain, self._template = attended.request.plain, settings.written
        # Best first, which is the order of everything here.
        self._ranked = {ranked.index: ranked for ranked in attended.ranking}
        self._place = {index: place for place, index in enumerate(self._ranked)}
        self.count = settings.counter(attended.engine.prompt.count)

    def pieces(self, sentences: Sequence[Sentence]) -> list[Piece]:
        """Join neighbouring sentences; best document first, and each in the order of its text."""
        pieces: list[Piece] = []
        for sentence in sorted(sentences, key=lambda sentence: (self._place[sentence.index], sentence.start)):
            index, text = sentence.index, given_text(self._plain[sentence.index])
            start, score = sentence.start, sentence.score
            if pieces and pieces[-1].index == index and not text[pieces[-1].end : start].strip():
                before = pieces.pop()
                start, score = before.start, max(before.score or 0.0, score or 0.0)
            probability = self._ranked[index].probability
            pieces.append(Piece(index, start, sentence.end, text[start : sentence.end], score, probability))
        return pieces

    def text(self, sentences: Sequence[Sentence]) -> str:
        """The pieces of sentences as the template writes them."""
        texts = joined(self.pieces(sentences))
        return BETWEEN_DOCUMENTS.join(
            self._written(number, *pair) for number, pair in enumerate(texts.items(), start=1)
        )

    def cost(self, sentence: Sentence, is_first: bool) -> int:
        """Tokens by which a context grows with a sentence, the first of its document or another one."""
        if not is_first:
            return self.count(BETWEEN_PIECES + sentence.text)
        return self.count(BETWEEN_DOCUMENTS + self._written(len(self._ranked), sentence.index, sentence.text))

    def dropped(
        self, sentences: Sequence[Sentence], selection: Selection, likely: Set[int], within: Mapping[int, Span]
    ) -> list[DroppedPiece]:
        """Every sentence that was not taken, and every document that was not wanted, but for empty ones.

        ``likely`` are the documents that no threshold leaves out, and ``within`` what counts of a document's text.
        """
        dropped, taken = [], set(selection.taken)
        of_document: dict[int, list[Sentence]] = {}
        for sentence in sentences:
            of_document.setdefault(sentence.index, []).append(sentence)
        for index, ranked in self._ranked.items():
            start, end = within.get(index, (0, len(ranked.text)))
            if index not in of_document and (text := ranked.text[start:end]).strip():
                reason = PRUNED if ranked.pruned else BEYOND_TOP_K if index in likely else BELOW_THRESHOLD
                dropped.append(DroppedPiece(index, start, end, text, None, ranked.probability, reason))
            for one in of_document.get(index, ()):
                if one not in taken:
                    place = index, one.start, one.end, one.text, one.score, ranked.probability
                    other = selection.duplicates.get(one)
                    reason = selection.reasons[one] if other is None else near_duplicate_of(other)
                    dropped.append(DroppedPiece(*place, reason, other))
        return dropped

    def _written(self, number: int, index: int, text: str) -> str:
        document = self._plain[index]
        title = document.get("title") if isinstance(document, Mapping) else None
        identifier = self._ranked[index].id
        return self._template.render({"text": text, "title": title, "number": number, "index": index, "id": identifier})
