"""The key that clients must send, from where no list of processes shows it."""

from __future__ import annotations

import os
import re


def api_key(variable: str | None) -> str | None:
    """The key in an environment variable, or nothing where none is named.

    Raises
    ------
    ValueError
        For a variable without a key.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # What looks like no name of a variable may be the key itself.
        named = variable if re.fullmatch("[A-Z_][A-Z0-9_]*", variable) else "what it names"
        raise ValueError(f"--api-key-env must name an environment variable that holds a key, and {named} is empty")
    return key
