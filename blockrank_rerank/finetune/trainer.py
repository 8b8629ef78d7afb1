from __future__ import annotations

import errno
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from blockrank_rerank.files import replacing, system_errors
from blockrank_rerank.finetune.evaluation_sets import means
from blockrank_rerank.finetune.settings import FinetuneSettings

COMPLETE = "complete"
"""Marks a checkpoint that was written to its end; one without it is never resumed from."""

FULL_DISK = 16 << 20
"""Free bytes below which a write that failed is taken to have failed for want of room."""

COLLAPSE_STEPS = 25
COLLAPSE_SPREAD = 1e-4
"""Logits of a list that differ by less than this, this many steps in a row, rank nothing any more."""

PARTS = ("spread", "contrastive", "language_model", "distillation", "abstention")
"""What a model may report beside its loss."""


class ListTrainer(Trainer):
    """The Transformers trainer over lists: keeps their order, guards the losses, counts tokens.

    Parameters
    ----------
    head_learning_rate : float
        Of the scoring head's temperatures and weights.
    *args, **kwargs
        Of :class:`transformers.Trainer`.
    """

    def __init__(self, *args: Any, head_learning_rate: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_learning_rate = head_learning_rate
        # Tokens, packs, and the sum over packs of every part; one that a pack lacks is 0 there, as it is in the loss.
        self._sums = torch.zeros(2 + len(PARTS), dtype=torch.float64)
        self._named: set[str] = set()
        self._since, self._flat_passes = time.perf_counter(), 0

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int]:
        # List i is random already; another order would make a resumed run another run.
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's optimiser, with a learning rate of its own for the scoring head's vectors."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        head = self.accelerator.unwrap_model(self.model).head
        if created and head is not None:
            vectors = {id(parameter) for parameter in head.vectors}
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in vectors]
            optimizer.add_param_group({"params": head.vectors, "lr": self._head_learning_rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted loss of one pack, refused where it is NaN or the scores collapsed."""
        parts = model(**inputs)
        values = {name: float(value.detach()) for name, value in parts.items()}
        self._guard(values)
        self._named.update(values)
        counts = (inputs["layout"].num_tokens, 1)
        self._sums += torch.tensor([*counts, *(values.get(name, 0.0) for name in PARTS)], dtype=torch.float64)
        return (parts["loss"], parts) if return_outputs else parts["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the parts of the loss and the throughput to what is logged."""
        if "loss" in logs:
            # Of all processes, as the trainer's loss is.
            total: torch.Tensor = self.accelerator.reduce(self._sums.to(self.args.device, torch.float32), "sum")
            tokens, packs, *parts = total.tolist()
            logs |= {name: part / packs for name, part in zip(PARTS, parts, strict=True) if name in self._named}
            now = time.perf_counter()
            logs["tokens_per_second"] = round(tokens / (now - self._since))
            self._sums, self._since = torch.zeros_like(self._sums), now
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, self.accelerator.unwrap_model(self.model).weights())

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.accelerator.unwrap_model(self.model).refuse_nonfinite()
        folder = Path(self.args.output_dir)
        try:
            with system_errors(folder):
                super()._save_checkpoint(*args, **kwargs)
        except (RuntimeError, OSError, SafetensorError) as error:
            _explain_full_disk(folder, error)
            raise

    def _guard(self, values: dict[str, float]) -> None:
        step = self.state.global_step + 1
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the loss became {values['loss']} at step {step}")
        self._flat_passes = self._flat_passes + 1 if values["spread"] < COLLAPSE_SPREAD else 0
        if self._flat_passes >= COLLAPSE_STEPS * self.args.gradient_accumulation_steps:
            raise FloatingPointError(
                f"the scores collapsed: at step {step} all documents of a list have scored the same for "
                f"{COLLAPSE_STEPS} steps"
            )


def _explain_full_disk(folder: Path, error: Exception) -> None:
    """Torch has words of its own for it; and where the system told of it, what was written may be gone again."""
    told = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if told or shutil.disk_usage(folder).free < FULL_DISK:
        raise OSError(
            f"the disk of {folder} is full, so the checkpoint was not written; make room and go on with --resume"
        ) from error


class MarkComplete(TrainerCallback):
    """Marks checkpoints after their last byte is written."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the mark."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


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
        """Measure when it is time to."""
        if self._every and state.global_step % self._every == 0 and state.is_world_process_zero:
            self.record(state.global_step, f"step {state.global_step}")

    def record(self, step: int, name: str) -> dict[str, float]:
        """Measure now, write it down, and keep the weights where they are the best so far."""
        earlier = read_history(self._history, before=step)
        best = max((line["mean_ndcg@10"] for line in earlier), default=-math.inf)
        measures = {"step": step, **self._measure()}
        with replacing(self._history) as file:
            file.writelines(json.dumps(line) + "\n" for line in [*earlier, measures])
        print(f"{name}: {means(measures)}", flush=True)
        if measures["mean_ndcg@10"] > best:
            self._keep()
        return measures


def read_history(path: Path, before: int) -> list[dict[str, float]]:
    """Measurements of earlier steps; later ones belong to a run that was cut off and is being repeated."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["step"] < before]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def remove_incomplete(folder: Path) -> None:
    """Delete checkpoints whose writing was interrupted."""
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path, ignore_errors=True)  # another process may be at it


def training_arguments(settings: FinetuneSettings, folder: Path) -> TrainingArguments:
    """Our settings in the trainer's words."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.lists_per_step,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_share * settings.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        use_cpu=settings.device == "cpu" or not torch.cuda.is_available(),
        save_strategy="steps" if settings.save_every else "no",
        save_steps=settings.save_every or settings.steps,
        save_total_limit=max(2, settings.average_last),
        logging_steps=min(10, settings.steps),
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=True,
    )
    # Several GPUs in one process would be torch's DataParallel, which cannot take packs: torchrun uses them all.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
