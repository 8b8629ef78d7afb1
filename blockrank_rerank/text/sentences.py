"""Where the sentences of a text are."""

from __future__ import annotations

import re
from itertools import pairwise

# A sentence ends with its punctuation and closing quotes before white space, or with a line.
_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s)|[。！？]|\n+")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Sentences of a text as ``(start, end)`` in code points, without the white space around them."""
    borders = [0, *[found.end() for found in _END.finditer(text)], len(text)]
    spans = []
    for start, end in pairwise(borders):
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            first = start + len(sentence) - len(sentence.lstrip())
            spans.append((first, first + len(stripped)))
    return spans
