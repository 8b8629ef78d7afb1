"""The kinds of values that settings declare, with the test of each."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def check_types(settings: Any) -> None:
    """Turn text that means a number into that number, and check the type of every value of a dataclass.

    Raises
    ------
    ValueError
        For the first value of the wrong type, or that is not finite, naming the setting.
    """
    for item in fields(settings):
        kind, _, optional = str(item.type).partition(" | ")
        value = _as_float(kind, getattr(settings, item.name))
        object.__setattr__(settings, item.name, value)
        if kind in _KINDS and not (optional and value is None):
            _check_type(item.name, kind, value)


def require(settings: Any, name: str, test: Callable[[Any], bool], wanted: str) -> None:
    """Refuse a setting whose value fails a test.

    Parameters
    ----------
    settings : dataclass
        Has the value.
    name : str
        The setting's name.
    test : callable
        Says of a value whether it is good.
    wanted : str
        What a good value is, for the message.

    Raises
    ------
    ValueError
        Naming the setting, what is wanted and what was found.
    """
    if not test(getattr(settings, name)):
        raise ValueError(f"{name} must be {wanted}, got {getattr(settings, name)}")


def _as_float(kind: str, value: Any) -> Any:
    """Turn text into a number: YAML takes 1e-5, without a point, for text, and everybody means a number."""
    if kind == "float" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_column_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for pair in value.items() for name in pair)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str) and bool(value.strip()), "a text that is not empty"),
    "int": (lambda value: _is_number(value) and isinstance(value, int), "int"),
    "float": (_is_number, "float"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "dict[str, str]": (_is_column_mapping, "a mapping such as {pos: answer} from known columns to the data's"),
}
"""Type as a setting declares it → its test and its name; the other types have checks of their own."""


def _check_type(name: str, kind: str, value: Any) -> None:
    test, wanted = _KINDS[kind]
    if not test(value):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if kind == "float" and not abs(value) < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
