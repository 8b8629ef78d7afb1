from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from transformers import TrainerCallback, TrainingArguments

_HIDDEN = ("epoch", "grad_norm", "learning_rate", "tokens_per_second", "spread")


class ShowProgress(TrainerCallback):
    """A line every few steps with losses, learning rate and throughput, and on a terminal a bar below; on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar, and say how many processes there are."""
        if state.is_world_process_zero and args.world_size > 1:
            self._console.print(f"{args.world_size} processes")
        if state.is_world_process_zero and self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
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
        """Print the latest losses."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        # Above the bar, where there is one: beside it, losses would push it off a narrow terminal.
        self._console.print(f"step {state.global_step}/{state.max_steps}  {summary(logs)}")

    def close(self) -> None:
        """Leave the terminal as it was, however training ended."""
        if self._bar:
            self._bar.stop()


def summary(logs: dict[str, Any]) -> str:
    """One line of what a training step reports."""
    losses = [f"{name} {float(value):.4f}" for name, value in logs.items() if name not in _HIDDEN]
    rate = f"learning rate {float(logs['learning_rate']):.2e}"
    return "  ".join([*losses, rate, f"{logs['tokens_per_second']:,} tokens/s"])
