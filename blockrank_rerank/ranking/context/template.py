"""How what is left of a document is written into a context."""

from __future__ import annotations

import string
from typing import Any

FIELDS = ("text", "title", "number", "index", "id")
"""What a template may name; ``number`` counts the documents of the context from 1."""


class Template:
    """A format string for one document.

    Parameters
    ----------
    words : str
        With ``{text}``, and maybe other of `FIELDS`; literal braces are written twice.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """

    def __init__(self, words: str) -> None:
        if not isinstance(words, str):
            raise TypeError(f"template must be a str, got {type(words).__name__}")
        try:
            parts = [*string.Formatter().parse(words)]
        except ValueError as error:
            raise ValueError(f"template cannot be read: {error}; write literal braces twice") from error
        if any(specification or conversion for _, _, specification, conversion in parts):
            raise ValueError(f"template takes fields as they are, without ':' and '!' in the braces, got {words!r}")
        self._parts = [part[:2] for part in parts]
        named = {name for _, name in self._parts if name is not None}
        if "text" not in named or not named <= set(FIELDS):
            shown = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"template must have {{text}}, and no other fields than {shown}, got {words!r}")

    def render(self, fields: dict[str, Any]) -> str:
        """Fill the template; what is None is left empty."""
        filled = [literal + ("" if name is None else _shown(fields[name])) for literal, name in self._parts]
        return "".join(filled)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
