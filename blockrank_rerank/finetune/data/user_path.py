"""Paths as users write them: with ``~``, or relative to where the command runs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from blockrank_rerank.errors import DataError

_STREAMS = ("/dev/", "/proc/")
"""Where pipes have a writer: ``<(…)`` of a shell, and standard input."""
_ENDLESS_EXCEPT = ("/dev/null", "/dev/stdin")


def expanded(path: str | Path, name: str) -> Path:
    """Return a path with the home folder in place of ``~``.

    Parameters
    ----------
    path : str or Path
        As a user gave it.
    name : str
        Of the argument or setting, for the message.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} names a home folder that is not known, got {str(path)!r}; write it out") from error


def absolute(path: str | Path, name: str) -> str:
    """Return a path that stays the same wherever the process goes.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    return os.path.abspath(expanded(path, name))


def expanded_source(source: str | Path) -> str | Path:
    """Return the path or the Hub id of a collection, with the home folder in place of ``~``."""
    return expanded(source, "the data") if str(source).startswith("~") else source


def check_readable(path: Path, noun: str) -> None:
    """Refuse what is no file to read from, before reading it waits for ever or never ends.

    Parameters
    ----------
    path : Path
        Of the file.
    noun : str
        What the file is to hold, for the message.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    DataError
        If it is a pipe, a socket or a device; pipes of a shell are read.
    """
    if not path.exists():
        return  # opening it says so
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of {noun}, got the folder {path}; name a file in it")
    mode, name = path.stat().st_mode, str(path)
    piped = stat.S_ISFIFO(mode) and name.startswith(_STREAMS)
    if not (stat.S_ISREG(mode) or piped or name in _ENDLESS_EXCEPT):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(f"expected a file of {noun}, got a {kind}; write its content to a file first", name)
