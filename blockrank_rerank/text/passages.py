"""Cutting long texts into overlapping passages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from blockrank_rerank.text.document import Document, text_and_shift
from blockrank_rerank.text.sentences import sentence_spans
from blockrank_rerank.text.tokenizer import LocatedBlock

SLACK = 2
"""Tokens that are left free: a cut may make another token of a word."""

OVERLAP = 0.125
"""Share of a passage that the next one repeats at most, so that no thought is cut in two everywhere."""

LEAST = 0.5
"""A passage ends with a sentence if one ends in its second half; else in the middle of one."""


def cut_into_passages(document: Document, block: LocatedBlock, cap: int) -> list[tuple[int, int]]:
    """Cut a document whose block is longer than ``cap`` tokens, in code points of its text.

    The title and the template come with every passage. A title that leaves no room for the text is for truncation.
    """
    text, shift = text_and_shift(document)
    moved = [(start - block.data_start + shift, end - block.data_start + shift) for start, end in block.offsets]
    # A token may begin before the text, with the space of the template or of the title.
    clamped = [(max(start, 0), min(end, len(text))) for start, end in moved]
    tokens = [(start, end) for start, end in clamped if start < end]
    room = cap - (len(moved) - len(tokens)) - SLACK
    return passage_bounds(text, tokens, room) if room > cap // 4 else [(0, len(text))]


def passage_bounds(text: str, tokens: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """Cut a text into overlapping passages, at the borders of sentences where there are any.

    Parameters
    ----------
    text : str
        The text.
    tokens : sequence of (int, int)
        Code points of its tokens, ascending, end exclusive.
    room : int
        Most tokens of a passage.

    Returns
    -------
    list of (int, int)
        Code points of each passage; together they cover every token.
    """
    if len(tokens) <= room:
        return [(0, len(text))]
    # Numbers of the tokens with which sentences start: many tokenizers put the space before a word into its token.
    ends = [end for _, end in tokens]
    starts = [bisect_right(ends, start) for start, _ in sentence_spans(text)]
    bounds, first = [], 0
    while True:
        last = min(first + room, len(tokens))
        if last < len(tokens):
            last = _border(starts, first + int(room * LEAST), last, last)
            last = _between_characters(tokens, last, first + 1)
        bounds.append((tokens[first][0], tokens[last - 1][1]))
        if last == len(tokens):
            return bounds
        overlap = max(first + 1, last - int(room * OVERLAP))
        first = _between_characters(tokens, _first_border(starts, overlap, last), first + 1)


def _between_characters(tokens: Sequence[tuple[int, int]], index: int, least: int) -> int:
    """The nearest token at or before one, from ``least`` on, that begins a character: some have several tokens."""
    while index > least and tokens[index][0] < tokens[index - 1][1]:
        index -= 1
    return index


def _border(starts: Sequence[int], least: int, most: int, otherwise: int) -> int:
    """The last sentence start in ``(least, most]``."""
    last = bisect_right(starts, most) - 1
    return starts[last] if last >= 0 and starts[last] > least else otherwise


def _first_border(starts: Sequence[int], least: int, most: int) -> int:
    """The first sentence start in ``[least, most]``; without one, ``least``."""
    first = bisect_left(starts, least)
    return starts[first] if first < len(starts) and starts[first] <= most else least
