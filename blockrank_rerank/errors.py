"""Errors that say where something was found: in which request, document, file or line; and what installs the rest."""

from __future__ import annotations


def install_line(extra: str = "") -> str:
    """What installs the package with one of its extras: the package is on no index, so a clone is what there is.

    Parameters
    ----------
    extra : str
        A name under ``project.optional-dependencies`` in ``pyproject.toml``; none for the package alone.
    """
    return f"in a clone of blockrank-rerank: pip install {repr(f'.[{extra}]') if extra else '.'}"


class RequestError(ValueError):
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


class DocumentError(ValueError):
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


class DataError(ValueError):
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
