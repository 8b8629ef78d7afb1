"""Words of texts for BM25, in scripts with and without spaces."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaadf"  # Myanmar, Tai Viet
    "\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Khmer, Tai Le, New Tai Lue, Tai Tham
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u3005-\u3007\u3021-\u3029\u303b\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "\ua000-\ua4cf\uff66-\uff9f\U0001b000-\U0001b16f"  # Yi, half-width and old kana
)
"""Blocks of scripts that put no spaces between words."""

INDIC = "\u0900-\u0963\u0966-\u0dff"
"""Blocks of scripts whose vowel signs are no letters to Python, and would break words."""

PATTERN = rf"(?<!\S)[{UNSPACED}]+(?!\S)|[{INDIC}]{{2,}}|\b\w\w+\b"
"""What BM25 takes as a word of a text that :func:`spaced` prepared; bm25s' own default in all other scripts."""

_UNSPACED = re.compile(rf"[{UNSPACED}]+")


def spaced(text: str) -> str:
    """Write characters and pairs of neighbours as words of their own, where a script has no spaces.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The text; of ``重置密码`` the words ``重 置 密 码 重置 置密 密码``.
    """
    return _UNSPACED.sub(lambda run: f" {' '.join(_grams(run[0]))} ", text)


def _grams(run: str) -> list[str]:
    grams: list[str] = []
    for letters in _stretches(unicodedata.normalize("NFKC", run)):
        grams += [*letters, *map("".join, pairwise(letters))]
    return grams


def _stretches(run: str) -> list[list[str]]:
    """Letters with their marks, in stretches without punctuation."""
    stretches: list[list[str]] = [[]]
    for character in run:
        kind = unicodedata.category(character)[0]
        if kind == "M" and stretches[-1]:
            stretches[-1][-1] += character
        elif kind in "LN":
            stretches[-1].append(character)
        else:
            stretches.append([])
    return stretches
