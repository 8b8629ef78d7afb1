"""Parts of documents that are in a context, or were left out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BETWEEN_PIECES = "\n"


@dataclass(frozen=True)
class Piece:
    """A part of a document's text: one sentence, or several that follow each other.

    Attributes
    ----------
    index : int
        Position of the document in the input list.
    start, end : int
        Code points of the text as given, end exclusive.
    text : str
        The part itself.
    score : float or None
        By which sentences are chosen (:class:`.sentence.Sentence`); of several, the highest. It does not depend on the
        rest of the list. None of what was not scored.
    probability : float or None
        That its document is relevant, of models that give one.
    """

    index: int
    start: int
    end: int
    text: str
    score: float | None
    probability: float | None


@dataclass(frozen=True)
class DroppedPiece(Piece):
    """A sentence that is not in a context, or a document.

    Attributes
    ----------
    reason : str
        Of a sentence: ``budget``; ``near-duplicate of N``, the index of the document that has the other one; or
        ``not read``, as the end of its document was cut off. Of a whole document: ``below threshold``, of score or
        probability; ``beyond top_k``; or ``pruned`` by early layers.
    duplicate_of : int or None
        The index that a ``near-duplicate of`` names; None with every other reason.
    """

    reason: str
    duplicate_of: int | None = None


def near_duplicate_of(document: object) -> str:
    """The reason of a sentence that another document has, which its reader knows by this index or name."""
    return f"near-duplicate of {document}"


def joined(pieces: Sequence[Piece]) -> dict[int, str]:
    """The pieces of each document as one text, by its index."""
    texts: dict[int, list[str]] = {}
    for piece in pieces:
        texts.setdefault(piece.index, []).append(piece.text)
    return {index: BETWEEN_PIECES.join(parts) for index, parts in texts.items()}
