"""The command line ``blockrank-finetune``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blockrank_rerank.cli.console import print_line, print_note
from blockrank_rerank.cli.failures import DEBUG_VARIABLE
from blockrank_rerank.cli.finetune_data import mine_negatives_command, validate_data
from blockrank_rerank.cli.finetune_init import init
from blockrank_rerank.cli.run import new_app, run_app
from blockrank_rerank.model.names import DEFAULT_MODEL

if TYPE_CHECKING:
    from blockrank_rerank.finetune.tune_settings import TuneSettings

app = new_app("blockrank-finetune")
app.command("init")(init)
app.command("validate-data")(validate_data)
app.command("mine-negatives")(mine_negatives_command)


@app.callback()
def blockrank_finetune(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Print tracebacks and other libraries' notes; so does {DEBUG_VARIABLE}=1.")
    ] = False,
) -> None:
    """Fine-tune BlockRank models on your own queries and documents.

    For example: blockrank-finetune train settings.yaml output=my-model steps=500

    Exit codes: 0 ok, 2 arguments, 3 missing dependency, 4 missing file, 5 bad data, 6 run-time.
    """


Settings = Annotated[
    str, typer.Argument(metavar="[SETTINGS.yaml]", show_default=False, help="YAML file, or the first KEY=VALUE.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...",
        show_default=False,
        help="Settings that replace those of the file; values are YAML, so data=[a.jsonl,b.jsonl] is a list.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]


@app.command()
def train(
    settings: Settings,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of a cut-off run.")] = False,
    dry_run: DryRun = False,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="The same as steps=N.")] = None,
) -> None:
    """Train a model: full weights or LoRA, decoders and encoders.

    For example:

    blockrank-finetune train output=my-model data=train.jsonl steps=300

    torchrun --nproc_per_node 2 -m blockrank_rerank.cli.finetune train settings.yaml
    """
    from blockrank_rerank.finetune.settings import FinetuneSettings

    pairs = list(overrides or [])
    path, changes = _parse(settings, pairs)
    if max_steps is not None:
        changes["steps"] = max_steps
    resolved = FinetuneSettings.read(path, changes)
    # Of several processes one speaks.
    first = os.environ.get("RANK", "0") == "0"
    if first:
        print_line(resolved.to_yaml().rstrip())
    if dry_run:
        return
    from blockrank_rerank.finetune.evaluation_sets import means
    from blockrank_rerank.finetune.training_run import finetune

    try:
        result = finetune(resolved, resume=resume)
    except KeyboardInterrupt:
        if first:
            steps = [] if max_steps is None else [f"--max-steps={max_steps}"]
            again = shlex.join(["blockrank-finetune", "train", settings, *pairs, *steps, "--resume"])
            print_note(f"interrupted; go on from the last checkpoint with: {again}")
        raise
    if not first:
        return
    if result.after:
        print_line(f"before: {means(result.before)}")
        print_line(f"after: {means(result.after)}")
    if result.held_out:
        print_line(result.held_out.line())
    print_line(f"written to {result.folder}")


@app.command()
def tune(settings: Settings, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Learn how queries read documents, from a few hundred of them; the model and prepared documents stay as they are.

    The result is a file of a few KB for --tuning. Documents are read once, so that it takes minutes on a CPU.

    For example:

    blockrank-finetune tune output=legal.safetensors data=train.jsonl

    blockrank rerank "what is a tort" documents.jsonl --tuning legal.safetensors
    """
    from blockrank_rerank.finetune.tune_settings import TuneSettings

    resolved = TuneSettings.read(*_parse(settings, list(overrides or [])))
    print_line(resolved.to_yaml().rstrip())
    if dry_run:
        return
    from blockrank_rerank.finetune.tuning_run import tune as run

    result = run(resolved)
    asked = f" ({resolved.queries} asked)" if result.learnt < resolved.queries else ""
    print_line(f"learnt from {result.learnt} queries{asked}")
    print_line(result.held_out.line())
    print_line(result.verdict())
    print_line(f"written to {result.file}: use it with {_tuned_model(resolved, result.file)}")


def _tuned_model(settings: TuneSettings, file: Path) -> str:
    """The options of a model that takes a tuning: with others than it was learnt with, it is refused."""
    options = {
        "--model": None if settings.model == DEFAULT_MODEL else settings.model,
        "--config": settings.config,
        "--scoring-layer": settings.scoring_layer,
        "--dtype": "bfloat16" if settings.bf16 else None,
        "--tuning": file,
    }
    return shlex.join(word for name, value in options.items() if value is not None for word in (name, str(value)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see :func:`blockrank_rerank.cli.run.run_app`."""
    return run_app(app, "blockrank-finetune", arguments)


def _parse(settings: str, pairs: list[str]) -> tuple[Path | None, dict[str, Any]]:
    """The file of settings, if one is named, and those of the command line."""
    from blockrank_rerank.finetune.settings_file import parse_yaml

    path = None if "=" in settings else Path(settings)
    changes: dict[str, Any] = {}
    for pair in [settings, *pairs] if path is None else pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"settings on the command line must be KEY=VALUE, got {pair!r}")
        if name in changes:
            raise ValueError(f"{name} is given twice; several values are a list: {name}=[a,b]")
        changes[name] = parse_yaml(value, pair)
    return path, changes


if __name__ == "__main__":
    raise SystemExit(main())
