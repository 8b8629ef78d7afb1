"""Errors that say in which request, document, file or line something was found, checks of numbers, what to install."""

from __future__ import annotations

import copyreg
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any


def install_line(extra: str = "") -> str:
    """What installs the package with one of its extras: the package is on no index, so a clone is what there is.

    Parameters
    ----------
    extra : str
        A name under ``project.optional-dependencies`` in ``pyproject.toml``; none for the package alone.
    """
    return f"in a clone of blockrank-rerank: pip install {repr(f'.[{extra}]') if extra else '.'}"


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number: those of numpy have an index, as Python's do, and floats have none."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a number: of Python or numpy, and neither NaN nor True."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def check_whole(name: str, value: Any, least: int | None = None, otherwise: str = "") -> int:
    """Return the whole number that an argument is, as one of Python's.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    value : object
        What was given.
    least : int, optional
        The smallest one that can be used.
    otherwise : str
        What else the argument may be, which the caller sees to, as the message ends: ``, or None for all``.

    Raises
    ------
    ValueError
        Naming the argument, what is wanted and what was given.
    """
    if not is_whole(value) or (least is not None and value < least):
        floor = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{floor}{otherwise}, got {value!r}")
    return operator.index(value)


def check_real(name: str, value: Any, within: tuple[float, float] | None = None, otherwise: str = "") -> None:
    """Refuse an argument that is no number, or none from the first to the second of ``within``.

    The rest is as for :func:`check_whole`.
    """
    if not is_real(value) or (within is not None and not within[0] <= value <= within[1]):
        span = "" if within is None else f" in {within[0]}..{within[1]}"
        raise ValueError(f"{name} must be a number{span}{otherwise}, got {value!r}")


class Transferable(BaseException):
    """An error that reaches another process, or a copy, with its message and attributes.

    Python would make it anew from its message alone, which takes other arguments than the error itself does.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is pickled: its arguments and attributes are restored, and nothing is computed again."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class RequestError(Transferable, ValueError):
    """One of several requests cannot be ranked.

    Attributes
    ----------
    number : int or str
        Its index, or the id of its query.
    reason : str
        The message of the fault.
    """

    def __init__(self, number: int | str, reason: str) -> None:
        super().__init__(f"{request_name(number)}: {reason}")
        self.number, self.reason = number, reason


def request_name(number: int | str) -> str:
    """What messages call a request, by its index or by the id of its query."""
    return f"requests[{number}]" if isinstance(number, int) else f"query {number!r}"


class SettingsError(ValueError):
    """Settings with which a model ranks nothing; the message has no text of a query or document, so that logs may."""


class DocumentError(Transferable, ValueError):
    """One document of a request cannot be ranked.

    Attributes
    ----------
    index : int
        Its index in the request.
    reason : str
        What is wrong with it.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"documents[{index}] {reason}")
        self.index, self.reason = index, reason


class UnknownIdsError(Transferable, ValueError):
    """A store has no documents of some ids.

    Parameters
    ----------
    ids : sequence of str
        Those that it does not have.
    asked : int
        How many were asked for.
    folder : str
        Of the store.
    has_ids : bool
        Whether it has any.

    Attributes
    ----------
    ids : list of str
        As given.
    """

    def __init__(self, ids: Sequence[str], asked: int, folder: str, has_ids: bool) -> None:
        known = (
            "those of the documents that were prepared into it, StoredDocuments(folder).ids in Python"
            if has_ids
            else "none, as it was made by an earlier release or of documents without ids; prepare them again with ids, "
            "for which none is read again"
        )
        super().__init__(
            f"{len(ids)} of {asked} ids are not in the store {folder}: {shown_ids(ids)}; its ids are {known}"
        )
        self.ids = [*ids]


def shown_ids(ids: Sequence[str]) -> str:
    """The first of some ids as messages show them: the beginning of a long one, with control characters spelled out."""
    shown = [repr(name if len(name) <= _MOST_CHARACTERS else f"{name[:_MOST_CHARACTERS]}…") for name in ids[:_MOST_IDS]]
    return ", ".join(shown) + (", …" if len(ids) > _MOST_IDS else "")


_MOST_IDS, _MOST_CHARACTERS = 5, 80


class DataError(Transferable, ValueError):
    """Data that cannot be used, with the place where it was found.

    Parameters
    ----------
    message : str
        What was expected and what was found.
    path : str, optional
        The file as the user named it.
    line : int, optional
        1-based line number in that file.

    Attributes
    ----------
    reason : str
        The message without the place.
    """

    def __init__(self, message: str, path: str | None = None, line: int | None = None) -> None:
        location = ":".join(str(part) for part in (path, line) if part is not None)
        super().__init__(f"{location}: {message}" if location else message)
        self.reason, self.path, self.line = message, path, line
