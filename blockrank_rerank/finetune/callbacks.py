"""What is done between the steps of a run: checkpoints are kept, and weights measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from blockrank_rerank.finetune.checkpoint_mark import mark_complete
from blockrank_rerank.finetune.evaluation_sets import means
from blockrank_rerank.finetune.run_folder import RunFolder, read_history
from blockrank_rerank.ranking.terminal import print_line
from blockrank_rerank.system.files import replacing


class KeepCheckpoints(TrainerCallback):
    """Marks checkpoints after their last byte is written, and then deletes those that nothing needs any more.

    The trainer would delete by the time of a folder, which a copy of a run does not keep.

    Parameters
    ----------
    folder : RunFolder
        Where they are.
    most : int
        So many are kept, and two at least: the newest could be found damaged.
    """

    def __init__(self, folder: RunFolder, most: int) -> None:
        self._folder, self._most = folder, max(2, most)

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint that has just been written."""
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            self._folder.delete_old(self._most)


class Evaluate(TrainerCallback):
    """Measures the model every few steps and keeps the best weights.

    Parameters
    ----------
    measure : callable
        Returns measures by name, ``mean_ndcg@10`` among them.
    keep : callable
        Saves the weights as the best so far.
    every : int
        Steps between measurements; 0 only at the end.
    history : Path
        JSONL file with one line per measurement; read again when a run is resumed.
    """

    def __init__(
        self, measure: Callable[[], dict[str, float]], keep: Callable[[], None], every: int, history: Path
    ) -> None:
        self._measure, self._keep, self._every, self._history = measure, keep, every, history

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the weights where so many steps have passed."""
        if self._every and state.global_step % self._every == 0 and state.is_world_process_zero:
            self.record(state.global_step, f"step {state.global_step}")

    def record(self, step: int, name: str) -> dict[str, float]:
        """Measure the weights, write it down, and keep them where they are the best so far."""
        earlier = read_history(self._history, before=step)
        best = max((line["mean_ndcg@10"] for line in earlier), default=-math.inf)
        measures = {"step": step, **self._measure()}
        with replacing(self._history) as file:
            file.writelines(json.dumps(line) + "\n" for line in [*earlier, measures])
        print_line(f"{name}: {means(measures)}")
        if measures["mean_ndcg@10"] > best:
            self._keep()
        return measures
