"""The kinds of values that settings declare, with the test of each."""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from blockrank_rerank.errors import is_whole

_PRINTED_BITS = 4096
"""Of an integer; Python refuses to print those of more than 4300 digits."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 4


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
        raise ValueError(f"{name} must be {wanted}, got {_number_text(getattr(settings, name))}")


def require_at_most(settings: Any, largest: Mapping[str, int]) -> None:
    """Refuse numbers that are larger than anybody means, before anything of that size is made.

    Parameters
    ----------
    settings : dataclass
        Has the values.
    largest : mapping
        Name of a setting → its largest value.

    Raises
    ------
    ValueError
        Naming the first setting that is too large.
    """
    for name, most in largest.items():
        value = getattr(settings, name)
        if value is not None and value > most:
            raise ValueError(f"{name} must be at most {most:,}, got {_number_text(value)}")


def check_count(name: str, value: Any, most: int, least: int | None = 1) -> None:
    """Refuse an argument that is no whole number, or one that nobody means, before anything of that size is made.

    ``most`` is the largest one that is believed; without ``least`` the caller sees to the smallest. The rest is as for
    :func:`~blockrank_rerank.errors.check_whole`, which believes any number.
    """
    wanted = f"at most {most:,}" if least is None else f"in {least:,}..{most:,}"
    if not is_whole(value) or value > most or (least is not None and value < least):
        found = _number_text(value) if isinstance(value, int) else shown(value)
        raise ValueError(f"{name} must be a whole number, {wanted}, got {found}")


def shown(value: Any) -> str:
    """Return a value as messages show it: of what is large or deeply nested, the beginning."""
    return _SHORT.repr(value)


def _number_text(value: Any) -> str:
    """Return a number as text; of an integer that Python does not print, its length."""
    if isinstance(value, int) and value.bit_length() > _PRINTED_BITS:
        return f"an integer of {value.bit_length():,} bits"
    return str(value)


def _as_float(kind: str, value: Any) -> Any:
    """Turn text into a number: YAML takes 1e-5, without a point, for text, and everybody means a number."""
    if kind == "float" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if kind == "float" and isinstance(value, int) and value.bit_length() > 1023:
        return math.copysign(math.inf, value > 0 or -1)
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
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    if kind == "float" and not abs(value) < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")
