"""Fine-tune BlockRank models on ranked lists (arXiv 2510.05396, section 3.3)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockrank_rerank.finetune.settings import FinetuneSettings
    from blockrank_rerank.finetune.sources import EvaluationSource, TrainingSource
    from blockrank_rerank.finetune.training_run import FinetuneResult, finetune
    from blockrank_rerank.finetune.tune_settings import TuneSettings
    from blockrank_rerank.finetune.tuning_run import TuneResult, tune

_HOMES = {
    "EvaluationSource": "sources",
    "FinetuneResult": "training_run",
    "FinetuneSettings": "settings",
    "TrainingSource": "sources",
    "TuneResult": "tuning_run",
    "TuneSettings": "tune_settings",
    "finetune": "training_run",
    "tune": "tuning_run",
}

__all__ = [
    "EvaluationSource",
    "FinetuneResult",
    "FinetuneSettings",
    "TrainingSource",
    "TuneResult",
    "TuneSettings",
    "finetune",
    "tune",
]


def __getattr__(name: str) -> Any:
    # The settings can be read and checked without the training libraries.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
