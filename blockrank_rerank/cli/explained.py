"""What ``blockrank rerank --explain`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from blockrank_rerank.cli.console import literal, print_table
from blockrank_rerank.ranking.explanation import SENTENCES

if TYPE_CHECKING:
    from blockrank_rerank.ranking.explanation import ExplainedDocument, Span

WORDS = 60
"""Shown of a sentence: text without full stops is one sentence."""

LETTERS = 40
"""Shown of a word: neither do all scripts have spaces."""


def print_explained(documents: Sequence[ExplainedDocument]) -> None:
    """Print the sentences of each document that the query looked at most, strong words emphasised."""
    for rank, document in enumerate(documents, start=1):
        print_table(Text(f"\n{rank}", style="bold"))
        for sentence in document.sentences_by_attention[:SENTENCES]:
            print_table(Padding(_line(sentence, document), (0, 0, 0, 2)))


def _line(sentence: Span, document: ExplainedDocument) -> Text:
    line = Text(f"{sentence.weight:4.0%}  ")
    words = [word for word in document.words if sentence.start <= word.start < sentence.end]
    first, last = _window([word.weight for word in words])
    line.append("... " if first else "")
    for word in words[first:last]:
        shown = literal(word.text if len(word.text) <= LETTERS else word.text[:LETTERS] + "...")
        # No colour: it would be unreadable on one of a light and a dark ground.
        if word.weight > document.strongest / 2:
            shown.stylize("bold underline")
        elif word.weight > document.strongest / 5:
            shown.stylize("bold")
        line.append_text(shown).append(" ")
    return line.append("..." if last < len(words) else "")


def _window(weights: Sequence[float]) -> tuple[int, int]:
    """The words to show of a long sentence: some before and after the one with the most attention."""
    if len(weights) <= WORDS:
        return 0, len(weights)
    strongest = max(range(len(weights)), key=weights.__getitem__)
    first = min(max(0, strongest - WORDS // 2), len(weights) - WORDS)
    return first, first + WORDS
