"""Digests of what a run reads, so that it is resumed with the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from blockrank_rerank.finetune.data import TrainingExample
from blockrank_rerank.finetune.evaluation_sets import EvaluationSet
from blockrank_rerank.finetune.run_records import read_record
from blockrank_rerank.system.files import replacing

SMALL_FILE = 1 << 20
"""Bytes of a file of settings at most; of larger ones the size counts."""


@dataclass(frozen=True)
class Inputs:
    """Digests of what settings only name: a resumed run must find it as it was.

    Attributes
    ----------
    data : str
        Digest of the training lists.
    evaluation : str
        Digest of the queries that are measured on, with their judgements and candidates.
    model : str
        Digest of the files of the starting model, where it is a folder.
    processes : int
        Among which lists are shared out.
    """

    data: str
    evaluation: str
    model: str
    processes: int

    @classmethod
    def of(
        cls, model: str, collections: Sequence[Sequence[TrainingExample]], evaluation_sets: Sequence[EvaluationSet]
    ) -> Inputs:
        """Digest the model's files, all training lists, and what is measured on."""
        return cls(
            data=_digest((example.query, example.candidates) for example in chain.from_iterable(collections)),
            evaluation=_digest(map(_measured_on, evaluation_sets)),
            model=_digest_of_files(Path(model)),
            processes=int(os.environ.get("WORLD_SIZE", "1")),
        )

    def save(self, path: Path) -> None:
        """Write the digests to a file."""
        with replacing(path) as file:
            json.dump(asdict(self), file)

    def check_against(self, path: Path) -> None:
        """Refuse to go on where the digests are not those that were written to a file.

        Raises
        ------
        ValueError
            Naming what has changed.
        """
        earlier = read_record(path) if path.exists() else {}
        differing = [name for name, value in asdict(self).items() if earlier.get(name, value) != value]
        if differing:
            raise ValueError(
                f"since the interrupted run in {path.parent} began, this has changed: {', '.join(differing)}; put it "
                "back, or begin anew"
            )


def _measured_on(measured: EvaluationSet) -> object:
    # Without the first stage's scores, which may round otherwise on another machine.
    order = {query: [*ranking] for query, ranking in measured.run.items()}
    return measured.collection, order, measured.corpus


def _digest(values: Iterable[object]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _digest_of_files(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode("utf-8", "surrogateescape"))
            digest.update(path.read_bytes() if size < SMALL_FILE else b"")
    return digest.hexdigest()
