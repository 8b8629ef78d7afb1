from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from blockrank_rerank.cli.console import harden_streams, show_warnings_as_lines
from blockrank_rerank.cli.doctor import doctor
from blockrank_rerank.cli.evaluate import evaluate
from blockrank_rerank.cli.failures import DEBUG_VARIABLE, INTERRUPTED, OK, debugging, report
from blockrank_rerank.cli.rerank import rerank

app = typer.Typer(name="blockrank", no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
app.command()(rerank)
app.command()(evaluate)
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"blockrank-rerank {version('blockrank-rerank')}")
        raise typer.Exit


@app.callback()
def blockrank(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help=f"Print tracebacks; so does {DEBUG_VARIABLE}=1.")] = False,
) -> None:
    r"""Rerank retrieved documents with block-sparse in-context attention (BlockRank, arXiv 2510.05396).

    For example: printf 'Fleas live for weeks.\nConcrete is cheap.\n' | blockrank rerank "flea life" -

    Exit codes: 0 ok, 2 arguments, 3 missing dependency, 4 missing file, 5 bad data, 6 run-time.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 ok, 2 arguments, 3 missing dependency, 4 missing file, 5 bad data, 6 run-time,
        130 interrupted; 1 where the reader of the output went away.
    """
    # No arguments is a question and not a mistake.
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    harden_streams()
    with warnings.catch_warnings():
        show_warnings_as_lines()
        return _run(given)


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="blockrank", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        return report(error, debugging(arguments))
    return code or OK


def _discard_output() -> None:
    # Python flushes stdout once more when it ends, and would complain about the closed pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
