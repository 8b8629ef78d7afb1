"""The command line ``blockrank``: its commands, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from blockrank_rerank.cli.bench import bench
from blockrank_rerank.cli.calibrate import calibrate
from blockrank_rerank.cli.context import context
from blockrank_rerank.cli.detect import detect
from blockrank_rerank.cli.doctor import doctor
from blockrank_rerank.cli.evaluate import evaluate
from blockrank_rerank.cli.export import export
from blockrank_rerank.cli.failures import DEBUG_VARIABLE
from blockrank_rerank.cli.mcp import mcp
from blockrank_rerank.cli.prepare import prepare
from blockrank_rerank.cli.report import report
from blockrank_rerank.cli.rerank import rerank
from blockrank_rerank.cli.run import new_app, run_app
from blockrank_rerank.cli.search import search
from blockrank_rerank.cli.serve import serve

app = new_app("blockrank")
app.command()(rerank)
app.command()(context)
app.command()(evaluate)
app.command()(report)
app.command()(detect)
app.command()(calibrate)
app.command()(prepare)
app.command()(search)
app.command()(serve)
app.command()(mcp)
app.command()(export)
app.command()(bench)
app.command()(doctor)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def finetune(context: typer.Context) -> None:
    """Fine-tune models on your own data; the same as blockrank-finetune."""
    # Its imports would slow every other command down.
    from blockrank_rerank.cli.finetune import main

    debug = ["--debug"] if context.parent and context.parent.params.get("debug") else []
    raise typer.Exit(main([*debug, *(context.args or ["--help"])]))


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
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Print tracebacks and other libraries' notes; so does {DEBUG_VARIABLE}=1.")
    ] = False,
) -> None:
    r"""Rerank retrieved documents with block-sparse in-context attention (BlockRank, arXiv 2510.05396).

    For example: printf 'Fleas live for weeks.\nConcrete is cheap.\n' | blockrank rerank "flea life"

    Exit codes: 0 ok, 2 arguments, 3 missing dependency, 4 missing file, 5 bad data, 6 run-time.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see :func:`blockrank_rerank.cli.run.run_app`."""
    return run_app(app, "blockrank", arguments)
