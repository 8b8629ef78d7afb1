"""What of a ranked list goes into a generator's prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.ranking.context.piece import DroppedPiece, Piece, joined
from blockrank_rerank.ranking.context.selection import BUDGET, Selection, select
from blockrank_rerank.ranking.context.sentence import Sentence, Span, read_sentences
from blockrank_rerank.ranking.context.writer import Writer
from blockrank_rerank.ranking.results import RankedDocument, Ranking

if TYPE_CHECKING:
    from blockrank_rerank.ranking.attended import AttendedList
    from blockrank_rerank.ranking.context.settings import ContextSettings


@dataclass(frozen=True)
class Context:
    """What of ranked documents goes into a generator's prompt, and what was left out.

    Attributes
    ----------
    pieces : list of Piece
        Of the best document first, and within a document in the order of its text.
    dropped : list of DroppedPiece
        What else the documents hold, in the same order: sentences, and documents that were not wanted as a whole.
    ranking : Ranking
        All documents, best first.
    text : str
        The pieces as the template writes them: the prompt's context.
    num_tokens : int
        Of the text, by the tokenizer that was given.
    """

    pieces: list[Piece]
    dropped: list[DroppedPiece]
    ranking: Ranking
    text: str
    num_tokens: int

    @cached_property
    def texts(self) -> dict[int, str]:
        """What is left of each document that is in the context, by its index; best document first."""
        return joined(self.pieces)


def empty_context() -> Context:
    """The context of no documents."""
    return Context([], [], Ranking(), "", 0)


def build_context(
    attended: AttendedList,
    likely: Sequence[RankedDocument],
    settings: ContextSettings,
    top_k: int | None = None,
    within: Mapping[int, Span] | None = None,
) -> Context:
    """Cut the wanted documents of a ranked list to the sentences that fit the budget; warns where the best does not.

    Parameters
    ----------
    attended : AttendedList
        The list.
    likely : sequence of RankedDocument
        Those that no threshold leaves out, best first.
    settings : ContextSettings
        The budget, and how the context is written.
    top_k : int, optional
        How many of them may be in the context; all if not given.
    within : mapping of int to (int, int), optional
        Code points to which a document's text is narrowed, by index, where it has other text around it.
    """
    writer, within = Writer(attended, settings), within or {}
    with without_autocast():
        sentences = read_sentences(attended, [one.index for one in likely[:top_k] if not one.pruned], within)
        selection = select(sentences, settings.max_tokens, writer.cost, settings.diversity)
    # Joined, texts may have more tokens than by themselves.
    while (tokens := writer.count(text := writer.text(selection.taken))) > settings.max_tokens and selection.taken:
        selection.reasons[selection.taken.pop()] = BUDGET
    if BUDGET in selection.reasons.values() and (lack := _lack_of_room(selection, sentences, writer, settings)):
        warnings.warn(f"{lack} tokens with its template; raise max_tokens", stacklevel=3)  # whoever called context
    dropped = writer.dropped(sentences, selection, {one.index for one in likely}, within)
    return Context(writer.pieces(selection.taken), dropped, attended.ranking, text, tokens)


def _lack_of_room(
    selection: Selection, sentences: Sequence[Sentence], writer: Writer, settings: ContextSettings
) -> str | None:
    """What takes more than the budget: all sentences, or the best of them; nothing where the best has room."""
    if not selection.taken:
        costs = [writer.cost(sentence, True) for sentence in sentences]
        return (
            f"max_tokens={settings.max_tokens} leaves room for no sentence, so the context is empty: the shortest of "
            f"{len(costs)} takes {min(costs)}"
        )
    best = max((one for one in sentences if one.score is not None), key=lambda one: one.score or 0.0)
    if (cost := writer.cost(best, True)) <= settings.max_tokens:
        return None
    return f"max_tokens={settings.max_tokens} leaves no room for the best sentence, which takes {cost}"
