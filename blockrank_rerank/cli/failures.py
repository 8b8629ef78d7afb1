"""Exit codes, and the one line that tells of an error."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress

import typer

from blockrank_rerank.cli.console import print_error
from blockrank_rerank.formats import DataError

OK, ARGUMENTS, MISSING_DEPENDENCY, MISSING_FILE, BAD_DATA, RUN_TIME, INTERRUPTED = 0, 2, 3, 4, 5, 6, 130
DEBUG_VARIABLE = "BLOCKRANK_DEBUG"

# Old releases of typer use click's classes, new ones carry a copy. Only BadParameter is public in both.
UsageError = typer.BadParameter.__mro__[1]

# The first row that fits decides: DataError and UnicodeError are ValueErrors, the file errors are OSErrors.
CODES: tuple[tuple[type | tuple[type, ...], int], ...] = (
    (UsageError, ARGUMENTS),
    ((FileNotFoundError, IsADirectoryError, NotADirectoryError), MISSING_FILE),
    (DataError, BAD_DATA),
    (ImportError, MISSING_DEPENDENCY),
    (UnicodeError, RUN_TIME),
    (ValueError, ARGUMENTS),
)


def report(error: Exception, debug: bool) -> int:
    """Print an error as one line on stderr.

    Parameters
    ----------
    error : Exception
        Whatever a command raised.
    debug : bool
        Whether to print the traceback first.

    Returns
    -------
    int
        Exit code.
    """
    code = exit_code(error)
    hint = "" if debug or code != RUN_TIME else f" ({DEBUG_VARIABLE}=1 shows the traceback)"
    with suppress(OSError):  # where nothing can be told, the code still tells
        if debug:
            traceback.print_exception(error)
        print_error(message(error) + hint)
    return code


def exit_code(error: Exception) -> int:
    """Exit code of an exception."""
    return next((code for kinds, code in CODES if isinstance(error, kinds)), RUN_TIME)


def message(error: Exception) -> str:
    """What to tell the user about an exception."""
    if isinstance(error, UsageError):
        return _usage_message(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, EOFError):
        return f"a file ended before its content did, so it is empty or torn: {error}"
    return str(error) or type(error).__name__


def debugging(arguments: list[str]) -> bool:
    """Whether tracebacks are wanted."""
    return "--debug" in arguments or os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}


def _usage_message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "blockrank"
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{text.rstrip('.')}; see: {command} --help"
