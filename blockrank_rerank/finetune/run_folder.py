"""The folder that a run works in: checkpoints, measures, the best weights, and marks of what is whole."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path

from filelock import FileLock, Timeout

from blockrank_rerank.finetune.checkpoint_mark import COMPLETE, damage
from blockrank_rerank.finetune.run_records import read_records
from blockrank_rerank.finetune.settings import SETTINGS_NAME, FinetuneSettings
from blockrank_rerank.system.files import check_lock, replacing, sync, sync_all

FINISHED = "finished"
"""Marks the working folder of a run whose result is where it belongs."""

BEFORE, HISTORY, HELD_OUT, INPUTS, BEST = "before.json", "evaluations.jsonl", "held_out.json", "inputs.json", "best"

LOCK = "lock"
"""Locked by the run that works in the folder."""

OURS = frozenset((SETTINGS_NAME, FINISHED, BEFORE, HISTORY, HELD_OUT, INPUTS, BEST, f"{BEST}.unfinished", LOCK))
"""Names that a run gives; a folder that holds others and no settings belongs to somebody else."""


class RunFolder:
    """The folder ``<output>.training`` that a run works in, beside the output that appears when it is whole.

    Parameters
    ----------
    output : str
        Folder for the result, as the settings name it.

    Attributes
    ----------
    output, work : Path
        Folder for the result, and the one for everything on the way to it.
    best : Path
        The best weights so far, a folder.
    first : bool
        Whether this is the first of a run's processes, which writes for all.
    before, history, held_out, inputs : Path
        Files of the starting model's measures, of all measurements, of those on held-out queries, and of what the run
        began with.
    """

    def __init__(self, output: str) -> None:
        # A link is followed, so that the result takes its target's place and not the link's.
        self.output = Path(output).resolve() if Path(output).is_symlink() else Path(output)
        self.work = self.output.with_name(self.output.name + ".training")
        self.best, self.before = self.work / BEST, self.work / BEFORE
        self.history, self.held_out, self.inputs = self.work / HISTORY, self.work / HELD_OUT, self.work / INPUTS
        # Of several processes the first writes, and holds the lock for all.
        self.first = os.environ.get("RANK", "0") == "0"
        self._lock = FileLock(self.work / LOCK, timeout=0, thread_local=False)

    def prepare(self, settings: FinetuneSettings, resume: bool) -> str | None:
        """Refuse to overwrite anything, and return the checkpoint to go on from, if there is one.

        Every process of a run comes here. None trains before all have been: the trainer, made later, joins them first.

        Parameters
        ----------
        settings : FinetuneSettings
            Written down for a new run, compared with those of a resumed one.
        resume : bool
            Whether an interrupted run is to go on.

        Raises
        ------
        FileExistsError
            Where the output has something in it, a run has finished here, one was interrupted and is not resumed,
            another is running here, or the working folder is somebody else's.
        FileNotFoundError
            Where there is no run to resume.
        NotADirectoryError
            Where the output is a file.
        ValueError
            Where the settings are not those of the run to resume.
        """
        self._refuse_output(resume)
        self._refuse_foreign()
        if resume and not (self.work / SETTINGS_NAME).exists() and not (self.work / FINISHED).exists():
            raise FileNotFoundError(f"nothing to resume: {self.work} holds no run")
        self._acquire()
        complete = self.checkpoints()
        self._refuse_other_runs(bool(complete), resume)
        if resume:
            self._check_same(settings)
        elif self.first:
            self._begin(settings)
        complete = self._set_damaged_aside(complete)
        if self.first:
            self._remove_incomplete()
        if self.first and not complete:
            self._forget()
        return str(complete[-1]) if complete else None

    def release(self) -> None:
        """Let other runs have the folder."""
        self._lock.release()

    def checkpoints(self) -> list[Path]:
        """List the complete checkpoints, oldest first."""
        complete = [path for path in self.work.glob("checkpoint-*") if (path / COMPLETE).exists()]
        return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))

    def delete_old(self, most: int) -> None:
        """Delete all but the newest complete checkpoints, by their steps."""
        for path in self.checkpoints()[:-most]:
            (path / COMPLETE).unlink()  # first: what is half deleted is no damage to tell of
            shutil.rmtree(path, ignore_errors=True)

    def best_measures(self) -> dict[str, float]:
        """Return the measures of the best weights, with their ``step``."""
        lines = read_records(self.history)
        return dict(max(lines, key=lambda line: line["mean_ndcg@10"]))

    def deliver(self) -> None:
        """Move the best weights to the output, and mark the run as finished."""
        if self.output.exists():
            self.output.rmdir()
        sync_all(self.best)
        self.best.rename(self.output)
        sync(self.output.parent)
        (self.work / FINISHED).touch()
        sync(self.work)

    def _acquire(self) -> None:
        """Lock the folder, which the run makes if it is not there."""
        self.work.mkdir(parents=True, exist_ok=True)
        if not self.first:
            return
        check_lock(self.work / LOCK)
        try:
            self._lock.acquire()
        except Timeout:
            raise FileExistsError(
                f"another run is working in {self.work}: wait until it ends, or choose another output"
            ) from None

    def _refuse_foreign(self) -> None:
        """Refuse a working folder that no run has begun: what is in it is not ours to delete."""
        if self.work.exists() and not self.work.is_dir():
            raise NotADirectoryError(f"the run needs the folder {self.work}, got a file; choose another output")
        if not self.work.exists() or (self.work / SETTINGS_NAME).exists():
            return
        foreign = sorted(
            path.name for path in self.work.iterdir() if path.name not in OURS and not _is_temporary(path.name)
        )
        if foreign:
            raise FileExistsError(
                f"the run needs the folder {self.work}, which holds something else ({foreign[0]}) and no "
                f"{SETTINGS_NAME} of a run; choose another output, or move that folder away"
            )

    def _set_damaged_aside(self, complete: list[Path]) -> list[Path]:
        """Rename checkpoints that are not what was written, and say so; return those that are whole."""
        faults = {path: damage(path) for path in complete}
        whole = [path for path in complete if faults[path] is None]
        for path in complete if self.first else ():
            if fault := faults[path]:
                aside = _unused(path.with_name(f"damaged-{path.name}"))
                path.rename(aside)
                use = f"the newest whole one is {whole[-1].name}" if whole else "none before it is whole"
                warnings.warn(
                    f"checkpoint {path} is damaged: {fault}; it is not used and is now {aside.name}; {use}",
                    stacklevel=2,
                )
        return whole

    def _refuse_output(self, resume: bool) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise NotADirectoryError(f"output is to be a folder, got the file {self.output}; choose another")
        if resume and self.output.exists() and (self.work / FINISHED).exists():
            raise FileExistsError(f"nothing to resume: the run has finished, and its result is in {self.output}")
        if self.output.exists() and any(self.output.iterdir()):
            raise FileExistsError(f"output folder {self.output} is not empty; choose another or remove it")

    def _refuse_other_runs(self, has_checkpoints: bool, resume: bool) -> None:
        if has_checkpoints and (self.work / FINISHED).exists():
            raise FileExistsError(
                f"{self.work} holds the checkpoints of a run that has finished; remove it or choose another output"
            )
        if not resume and (has_checkpoints or self.best.exists()):
            raise FileExistsError(f"an interrupted run is in {self.work}; go on with --resume, or remove it")

    def _begin(self, settings: FinetuneSettings) -> None:
        """Write the settings down."""
        self.work.mkdir(parents=True, exist_ok=True)
        with replacing(self.work / SETTINGS_NAME) as file:
            file.write(settings.to_yaml())

    def _forget(self) -> None:
        """Delete measures of a run that never came to a checkpoint: what begins now may be of other data."""
        for path in (self.before, self.history, self.held_out, self.work / FINISHED):
            path.unlink(missing_ok=True)

    def _check_same(self, settings: FinetuneSettings) -> None:
        saved = self.work / SETTINGS_NAME
        earlier = asdict(FinetuneSettings.read(saved, {}))
        differing = [name for name, value in asdict(settings).items() if earlier[name] != value]
        if differing:
            raise ValueError(
                f"settings differ from those of the interrupted run in {saved}: {', '.join(differing)}; resume with "
                "the same"
            )

    def _remove_incomplete(self) -> None:
        """Delete checkpoints whose writing was interrupted."""
        for path in self.work.glob("checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)  # another process may be at it


def read_history(path: Path, before: int) -> list[dict[str, float]]:
    """Read the measurements of earlier steps; later ones belong to a run that was cut off and is being repeated."""
    if not path.exists():
        return []
    return [line for line in read_records(path) if line["step"] < before]


def _is_temporary(name: str) -> bool:
    """Say whether a file was being written when a run was cut off."""
    return name.endswith(".tmp") and any(name.startswith(f".{ours}.") for ours in OURS)


def _unused(path: Path) -> Path:
    names = (path.with_name(f"{path.name}-{number}") for number in count(2))
    return next(name for name in chain([path], names) if not name.exists())
