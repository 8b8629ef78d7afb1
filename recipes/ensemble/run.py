"""From a base, BEIR folders and embedding models to a finished model: the commands of README.md, one after the other.

    python -m recipes.ensemble.run DATA --encoder arctic=FOLDER --encoder e5=FOLDER [--base MODEL] [--settings FOLDER]

What is missing is named before anything is computed. Everything goes into build/, where the settings of training look
for it; what is there already is left as it is, so a second call goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockrank_rerank.finetune.data import write_examples
from blockrank_rerank.finetune.data.hub import require
from blockrank_rerank.finetune.run_folder import RunFolder
from blockrank_rerank.finetune.settings import SETTINGS_NAME, FinetuneSettings
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.names import DEFAULT_MODEL, model_folder
from recipes.ensemble.settings import ENSEMBLE, HERE, EnsembleSettings, read_collections, settings_file

BUILD = Path("build")
START, POOLS, VECTORS, LISTS, VARIED = (BUILD / name for name in ("start", "pools", "vectors", "lists", "varied"))
PACKAGES = ("accelerate", "bm25s", "ir_measures", "sentence_transformers")
"""What the steps import: these are imported after the check alone."""
TRAININGS = ("train.yaml", "calibrate.yaml")
PASSAGES, OPPOSITES = LISTS / "passages.jsonl", LISTS / "opposites.jsonl"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run is made of.

    Parameters
    ----------
    data : Path
        The folder of collections.
    encoder : list of str
        Embedding models, as NAME=FOLDER.
    base : str
        Folder or Hub id of the model to start from.
    student : str, optional
        The model among the teachers; the one to start from if not given.
    temperature, length_weight : float, optional
        Of the scoring layer at the start; the base's own if not given.
    settings : Path
        Folder; files that it lacks are those of the recipe.
    """

    data: Path
    encoder: list[str]
    base: str
    student: str | None
    temperature: float | None
    length_weight: float | None
    settings: Path


def check(asked: Asked) -> None:
    """See that everything is there that any step needs.

    Raises
    ------
    FileNotFoundError
        With one line for each thing that is missing or cannot be used.
    """
    if not asked.settings.is_dir():
        raise FileNotFoundError(f"no folder of settings {asked.settings}")
    faults: dict[str, None] = {}  # a file that is wrong is found by several
    for look in _checks(asked):
        try:
            look()
        except (ImportError, OSError, ValueError) as error:
            faults[str(error)] = None
    if faults:
        raise FileNotFoundError("\n".join(faults))


def _checks(asked: Asked) -> Iterator[Callable[[], Any]]:
    yield from (partial(require, package, "the recipe") for package in PACKAGES)
    yield from (partial(_check_model, model) for model in (asked.base, asked.student) if model)
    yield partial(_check_sources, asked)
    yield partial(_check_encoders, asked)
    yield from (partial(_check_training, asked.settings, name) for name in TRAININGS)


def _check_model(model: str) -> None:
    if Checkpoint(model=model_folder(model)).file("config.json") is None:
        raise FileNotFoundError(f"no model in {model}: config.json is missing")


def _check_sources(asked: Asked) -> None:
    from recipes.ensemble.pools import source_folders

    source_folders(asked.data, asked.settings)


def _check_encoders(asked: Asked) -> None:
    from recipes.ensemble.encoders import read_encoders

    given, ensembles = read_encoders(asked.encoder, asked.settings), EnsembleSettings.read(asked.settings)
    wanted = {name: None for pool in read_collections(asked.settings) for name in ensembles.encoders(pool)}
    if missing := [name for name in wanted if name not in given]:
        raise FileNotFoundError(
            f"no model for {', '.join(missing)}, by {settings_file(asked.settings, ENSEMBLE)}: give --encoder "
            "NAME=FOLDER; README.md beside the recipe says where each comes from"
        )


def _check_training(settings: Path, name: str) -> None:
    path, collections = settings_file(settings, name), read_collections(settings)
    made = {folder / f"{collection}.jsonl" for folder in (LISTS, VARIED) for collection in collections}
    made |= {OPPOSITES} | ({PASSAGES} if _passages(settings) else set())
    known = {str(Path.cwd() / one) for one in made}
    wanted = [source.path for source in FinetuneSettings.read(path, {}).data]
    if missing := [one for one in wanted if one not in known and not Path(one).exists()]:
        raise FileNotFoundError(f"{path} trains on {', '.join(missing)}, which collections.yaml does not make")


def _passages(settings: Path) -> bool:
    return any(numbers.get("passages") for numbers in read_collections(settings).values())


def steps(asked: Asked) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done, in order; what is done already is left out, or does nothing."""
    from recipes.ensemble import lists, opposites, passages, pools, variants, vectors
    from recipes.ensemble.start import write_start

    student, settings = asked.student or str(START), asked.settings
    if not START.exists():
        yield "start", partial(write_start, START, asked.base, asked.temperature, asked.length_weight)
    yield "pools", partial(pools.main, asked.data, POOLS, settings)
    yield "vectors", partial(vectors.main, POOLS, VECTORS, asked.encoder, settings)
    yield "lists", partial(lists.main, POOLS, VECTORS, LISTS, student, settings)
    if _passages(settings) and not PASSAGES.exists():
        yield "passages", partial(passages.main, POOLS, VECTORS, PASSAGES, student, settings)
    yield "opposites", lambda: write_examples(OPPOSITES, opposites.training_lists())
    yield "variants", partial(variants.main, LISTS, VARIED)
    for name in TRAININGS:
        yield name, partial(train, settings_file(settings, name))


def train(path: Path) -> None:
    """Train by a file of settings, from the last checkpoint of a run that was cut off."""
    from blockrank_rerank.finetune import finetune

    settings = FinetuneSettings.read(path, {})
    if not Path(settings.output).exists():
        finetune(settings, resume=(RunFolder(settings.output).work / SETTINGS_NAME).exists())


def main(asked: Asked) -> None:
    """Run every step, and say how long each took."""
    check(asked)
    BUILD.mkdir(exist_ok=True)
    for name, step in steps(asked):
        begun = time.monotonic()
        step()
        print(f"{name}: {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", action="append", default=[], metavar="NAME=FOLDER", help="or NAME=HUB_ID")
    parser.add_argument("--base", default=DEFAULT_MODEL, help="to start from: folder or Hub id; the default model")
    parser.add_argument("--student", help="the model among the teachers; the one that training starts from by default")
    parser.add_argument("--temperature", type=float, help="of the scoring layer at the start")
    parser.add_argument("--length-weight", type=float, help="the same")
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    try:
        main(Asked(**vars(parser.parse_args())))
    except FileNotFoundError as error:
        sys.exit(str(error))
