"""Where the sentences of a text are."""

from __future__ import annotations

import re
from itertools import pairwise

# Abbreviations are read first, so that their point ends nothing. Some do so everywhere; some before a number, as "No."
# is an answer too; and some where the text goes on in small letters, as they stand at the end of sentences too.
_ABBREVIATION = (
    r"\b(?:(?:Dr|Mr|Mrs|Ms|Prof|St)\.(?: [A-Z]\.)*|(?:vs|cf|[Ee]\.g|[Ii]\.e)\."
    r"|(?:Nos?|Figs?|Eqs?|Vol|pp?)\.(?=\s+\d)"
    r"|(?:etc|et al|Inc|Ltd|Co|Corp|Jr|Sr|Ph\.D|approx|[A-Za-z](?:\.[A-Za-z]){1,3})\.(?=\s+[(a-z]))"
)
# A sentence ends with its punctuation and closing quotes before white space, or with a line.
_END = re.compile(_ABBREVIATION + r"|([.!?…。！？؟۔।][\"'”’)\]]*(?=\s)|[。！？]|\n+)")

_LETTERED = re.compile(r"\W*[A-Za-z][.)]\s*")
"""The letter of a list, such as ``a)``, which is no more a sentence than its number is."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Sentences of a text as ``(start, end)`` in code points, in order and without the white space around them.

    All other characters are in one of them. Numbers of lists, bullets, and what else has no letters belong to the
    sentence after them, or to the last one; common English abbreviations end none.
    """
    ends = [found.end() for found in _END.finditer(text) if found[1]]
    borders = [0]
    for start, end in pairwise([0, *ends, len(text)]):
        if _has_words(text[start:end]):
            borders.append(end)
    borders[len(borders) - 1 or 1 :] = [len(text)]
    spans = []
    for start, end in pairwise(borders):
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            first = start + len(sentence) - len(sentence.lstrip())
            spans.append((first, first + len(stripped)))
    return spans


def _has_words(part: str) -> bool:
    return any(map(str.isalpha, part)) and not _LETTERED.fullmatch(part)
