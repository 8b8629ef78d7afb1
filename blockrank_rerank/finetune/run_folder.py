"""The folder that a run works in: checkpoints, measures, the best weights, and marks of what is whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from blockrank_rerank.files import replacing
from blockrank_rerank.finetune.settings import SETTINGS_NAME, FinetuneSettings

COMPLETE = "complete"
"""Marks a checkpoint that was written to its end; one without it is never resumed from."""

FINISHED = "finished"
"""Marks the working folder of a run whose result is where it belongs."""

BEFORE, HISTORY, INPUTS, BEST = "before.json", "evaluations.jsonl", "inputs.json", "best"


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
    before, history, inputs : Path
        Files of the starting model's measures, of all measurements, and of what the run began with.
    """

    def __init__(self, output: str) -> None:
        # A link is followed, so that the result takes its target's place and not the link's.
        self.output = Path(output).resolve() if Path(output).is_symlink() else Path(output)
        self.work = self.output.with_name(self.output.name + ".training")
        self.best, self.before = self.work / BEST, self.work / BEFORE
        self.history, self.inputs = self.work / HISTORY, self.work / INPUTS

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
            Where the output has something in it, a run has finished here, or one was interrupted and is not resumed.
        FileNotFoundError
            Where there is no run to resume.
        NotADirectoryError
            Where the output is a file.
        ValueError
            Where the settings are not those of the run to resume.
        """
        complete = self.checkpoints()
        self._refuse_output(resume)
        self._refuse_other_runs(bool(complete), resume)
        if resume:
            self._check_same(settings)
        else:
            self._begin(settings)
        self._remove_incomplete()
        return str(complete[-1]) if complete else None

    def checkpoints(self) -> list[Path]:
        """List the complete checkpoints, oldest first."""
        complete = [path for path in self.work.glob("checkpoint-*") if (path / COMPLETE).exists()]
        return sorted(complete, key=lambda path: int(path.name.rpartition("-")[2]))

    def best_measures(self) -> dict[str, float]:
        """Return the measures of the best weights, with their ``step``."""
        lines = [json.loads(line) for line in self.history.read_text(encoding="utf-8").splitlines()]
        return dict(max(lines, key=lambda line: line["mean_ndcg@10"]))

    def deliver(self) -> None:
        """Move the best weights to the output, and mark the run as finished."""
        if self.output.exists():
            self.output.rmdir()
        self.best.rename(self.output)
        (self.work / FINISHED).touch()

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
        """Make a folder without measures of another run, one that never came to weights."""
        self.work.mkdir(parents=True, exist_ok=True)
        for path in (self.before, self.history, self.work / FINISHED):
            path.unlink(missing_ok=True)
        with replacing(self.work / SETTINGS_NAME) as file:
            file.write(settings.to_yaml())

    def _check_same(self, settings: FinetuneSettings) -> None:
        saved = self.work / SETTINGS_NAME
        if not saved.exists():
            raise FileNotFoundError(f"nothing to resume: {saved.parent} holds no run")
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
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["step"] < before]
