"""What of a ranked list goes into a generator's prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from blockrank_rerank.ranking.context.piece import DroppedPiece, Piece, joined
from blockrank_rerank.ranking.context.selection import BUDGET, select
from blockrank_rerank.ranking.context.sentence import Span, read_sentences
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
    wanted: Sequence[RankedDocument],
    settings: ContextSettings,
    within: Mapping[int, Span] | None = None,
) -> Context:
    """Cut the wanted documents of a ranked list to the sentences that fit the budget; warns where none does.

    Parameters
    ----------
    attended : AttendedList
        The list.
    wanted : sequence of RankedDocument
        Those that may be in the context.
    settings : ContextSettings
        The budget, and how the context is written.
    within : mapping of int to (int, int), optional
        Code points to which a document's text is narrowed, by index, where it has other text around it.
    """
    writer = Writer(attended, settings)
    sentences = read_sentences(attended, [ranked.index for ranked in wanted if not ranked.pruned], within or {})
    selection = select(sentences, settings.max_tokens, writer.cost, settings.diversity)
    # Joined, texts may have more tokens than by themselves.
    while (tokens := writer.count(text := writer.text(selection.taken))) > settings.max_tokens and selection.taken:
        selection.reasons[selection.taken.pop()] = BUDGET
    if not selection.taken and BUDGET in selection.reasons.values():
        _warn_of_no_room(settings.max_tokens, [writer.cost(sentence, True) for sentence in sentences])
    return Context(writer.pieces(selection.taken), writer.dropped(sentences, selection), attended.ranking, text, tokens)


def _warn_of_no_room(max_tokens: int, costs: Sequence[int]) -> None:
    warnings.warn(
        f"max_tokens={max_tokens} leaves room for no sentence, so the context is empty: the shortest of {len(costs)} "
        f"takes {min(costs)} tokens with its template; raise max_tokens",
        stacklevel=4,  # whoever called context
    )
