from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainingArguments

_HIDDEN = ("epoch", "grad_norm", "learning_rate", "tokens_per_second", "spread")


class ShowProgress(TrainerCallback):
    """Losses, learning rate and throughput: a bar on a terminal, a line every few steps elsewhere; on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar."""
        if state.is_world_process_zero and self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step)
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Show the latest losses."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        line = summary(logs)
        if self._bar:
            self._bar.update(self._task, description=line)
        else:
            self._console.print(f"step {state.global_step}/{state.max_steps}  {line}")

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the terminal as it was."""
        if self._bar:
            self._bar.stop()


def summary(logs: dict[str, Any]) -> str:
    """One line of what a training step reports."""
    losses = [f"{name} {float(value):.4f}" for name, value in logs.items() if name not in _HIDDEN]
    rate = f"learning rate {float(logs['learning_rate']):.2e}"
    return "  ".join([*losses, rate, f"{logs['tokens_per_second']:,} tokens/s"])
