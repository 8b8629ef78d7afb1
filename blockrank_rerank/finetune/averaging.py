"""The mean of a run's last checkpoints, mixed with the weights that it started from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.checkpoint import Checkpoint


def check_average(settings: FinetuneSettings) -> None:
    """Refuse a mean of more checkpoints than a run will make.

    Raises
    ------
    ValueError
        Naming how many there will be.
    """
    count = math.ceil(settings.steps / settings.save_every) if settings.save_every else 0
    if settings.average_last > max(count, 1):
        raise ValueError(
            f"average_last={settings.average_last} needs as many checkpoints, and save_every={settings.save_every} of "
            f"{settings.steps} steps makes {count}: lower save_every or average_last"
        )


def averages(settings: FinetuneSettings) -> bool:
    """Say whether a run ends with other weights than those of its last step."""
    return settings.average_last > 1 or settings.base_share > 0


def averaged(model: TrainingModel, checkpoints: Sequence[Path], start: Checkpoint) -> TrainingModel:
    """Average the weights of the last checkpoints, and mix them with the starting weights.

    Parameters
    ----------
    model : TrainingModel
        The model as training left it; its settings say how many checkpoints, and the share of the start.
    checkpoints : sequence of Path
        Folders of the complete checkpoints, oldest first.
    start : Checkpoint
        The model that training began with.
    """
    settings = model.settings
    if 0 < len(checkpoints) < settings.average_last:
        warnings.warn(
            f"average_last={settings.average_last}, but {len(checkpoints)} checkpoints are whole: the result is their "
            "mean",
            stacklevel=2,
        )
    mean: dict[str, torch.Tensor] = {}
    for count, weights in enumerate(_last_weights(model, checkpoints[-settings.average_last :]), start=1):
        mean = {name: mean.get(name, tensor).lerp(tensor, 1 / count) for name, tensor in weights.items()}
    if share := settings.base_share:
        without_adapters = settings.with_changes(lora_rank=0)
        base = TrainingModel.load(start, model.blockrank, without_adapters).weights()
        mean = {name: share * base[name] + (1 - share) * tensor for name, tensor in mean.items()}
    result = model.merged()
    result.load_weights(mean)
    return result


def _last_weights(model: TrainingModel, checkpoints: Sequence[Path]) -> Iterator[dict[str, torch.Tensor]]:
    """Give the weights of checkpoints, or the current ones where there is none, on the CPU.

    Adapters are merged first: the mean of products is not the product of means.
    """
    for folder in checkpoints:
        weights = load_file(folder / "model.safetensors")
        if model.settings.lora_rank:
            model.load_weights(weights)
            weights = _on_cpu(model.merged().weights())
        yield weights
    if not checkpoints:
        yield _on_cpu(model.merged().weights())


def _on_cpu(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in weights.items()}
