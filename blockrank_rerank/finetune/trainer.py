"""The trainer of lists, built on that of Transformers."""

from __future__ import annotations

import errno
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.system.files import system_errors

MOST_WAITING = 24 * 3600
"""Seconds that GPUs wait for one that measures; by torch's own half hour a long evaluation would end the run."""
FULL_DISK = 16 << 20
"""Free bytes below which a write that failed is taken to have failed for want of room."""

COLLAPSE_STEPS = 25
COLLAPSE_SPREAD = 1e-4
"""Logits of a list that differ by less than this, this many steps in a row, rank nothing any more."""

PARTS = ("spread", "contrastive", "language_model", "distillation", "abstention")
"""What a model may report beside its loss."""


class ListTrainer(Trainer):
    """The Transformers trainer over lists, which keeps their order, guards the losses and counts tokens.

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
        self._sums = torch.zeros(2 + len(PARTS), dtype=torch.float64, device="cpu")
        self._named: set[str] = set()
        self._since, self._flat_passes = time.perf_counter(), 0

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler[int]:
        # List i is random already; another order would make a resumed run another run.
        return SequentialSampler(self.train_dataset)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the trainer's optimiser, with another learning rate for the scoring head's vectors."""
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
        """Return the weighted loss of one pack, and refuse one that is NaN or of collapsed scores."""
        parts = model(**inputs)
        values = {name: float(value.detach()) for name, value in parts.items()}
        self._guard(values)
        self._named.update(values)
        counts = (inputs["layout"].num_tokens, 1)
        self._sums += torch.tensor(
            [*counts, *(values.get(name, 0.0) for name in PARTS)], dtype=torch.float64, device="cpu"
        )
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
        # Each process writes its own random state, and the mark that comes next is about all of them.
        self.accelerator.wait_for_everyone()

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
    """Name a full disk: torch has words of its own for it, and what was written may be gone again."""
    told = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if told or shutil.disk_usage(folder).free < FULL_DISK:
        raise OSError(
            f"the disk of {folder} is full, so the checkpoint was not written; make room and go on with --resume"
        ) from error


def training_arguments(settings: FinetuneSettings, folder: Path) -> TrainingArguments:
    """Return our settings in the trainer's words."""
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
        logging_steps=min(10, settings.steps),
        report_to="none",
        seed=settings.seed,
        data_seed=settings.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        ddp_find_unused_parameters=True,
        ddp_timeout=MOST_WAITING,
    )
    # Several GPUs in one process would be torch's DataParallel, which cannot take packs: torchrun uses them all.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
