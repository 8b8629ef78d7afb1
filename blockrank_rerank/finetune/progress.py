"""What a training run shows while it trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainingArguments

from blockrank_rerank.ranking.progress import progress_bar
from blockrank_rerank.ranking.terminal import GuardedConsole, print_line

_HIDDEN = ("epoch", "grad_norm", "learning_rate", "tokens_per_second", "spread")


class ShowProgress(TrainerCallback):
    """Prints losses, learning rate and throughput every few steps on stderr, and on a terminal a bar below."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._advance: Callable[[int, int], None] = lambda items, tokens: None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the bar on a terminal, and say how many processes there are."""
        if state.is_world_process_zero and args.world_size > 1:
            _print(f"{args.world_size} processes")
        if state.is_world_process_zero and GuardedConsole(stderr=True).is_terminal:
            self._advance = self._bar.enter_context(progress_bar("training", "steps", state.max_steps))
            self._advance(state.global_step, 0)  # a resumed run is that far

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar by a step."""
        self._advance(1, 0)

    def on_log(
        self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print the latest losses."""
        if logs and "loss" in logs and state.is_world_process_zero:
            _print(f"step {state.global_step}/{state.max_steps}  {summary(logs)}")

    def close(self) -> None:
        """Leave the terminal as it was, however training ended."""
        self._bar.close()


def summary(logs: dict[str, Any]) -> str:
    """Put into one line what a training step reports."""
    losses = [f"{name} {float(value):.4f}" for name, value in logs.items() if name not in _HIDDEN]
    rate = f"learning rate {float(logs['learning_rate']):.2e}"
    return "  ".join([*losses, rate, f"{logs['tokens_per_second']:,} tokens/s"])


def _print(line: str) -> None:
    # A bar, where there is one, has taken over stderr and shows what is printed there above itself: beside it,
    # losses would push it off a narrow terminal.
    print_line(line, error=True)
