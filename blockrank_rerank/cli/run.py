"""How a command line runs: its errors become one line and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

import typer

from blockrank_rerank.cli.console import guarded_streams, harden_streams, own_lines_only
from blockrank_rerank.cli.failures import INTERRUPTED, OK, debugging, report


def new_app(name: str) -> typer.Typer:
    """A command line of ours, without commands yet."""
    return typer.Typer(
        name=name,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one of our command lines.

    Parameters
    ----------
    app : typer.Typer
        Its commands.
    name : str
        What the program is called.
    arguments : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 ok, 2 arguments, 3 missing dependency, 4 missing file, 5 bad data, 6 run-time,
        130 interrupted; 1 where the reader of the output went away.
    """
    # No arguments is a question and not a mistake.
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    harden_streams()
    with guarded_streams(), own_lines_only(debugging(words)):
        return _run(app, name, words)


def _run(app: typer.Typer, name: str, arguments: list[str]) -> int:
    try:
        command = typer.main.get_command(app)
        # What was typed is the object of every command's context.
        code = command.main(arguments, prog_name=name, standalone_mode=False, obj=shlex.join([name, *arguments]))
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 1
    except (KeyboardInterrupt, typer.Abort) as error:
        # Typer takes the end of a file for that of a dialogue; no command has one.
        if isinstance(error.__cause__, EOFError):
            return report(error.__cause__, debugging(arguments))
        return INTERRUPTED
    except Exception as error:
        return report(error, debugging(arguments))
    return code or OK


def _discard_output() -> None:
    # Python flushes stdout once more when it ends, and would complain about the closed pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
