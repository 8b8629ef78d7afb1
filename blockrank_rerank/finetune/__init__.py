"""Fine-tune BlockRank models on ranked lists (arXiv 2510.05396, section 3.3)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockrank_rerank.finetune.run import finetune
    from blockrank_rerank.finetune.settings import FinetuneSettings

_HOMES = {"FinetuneSettings": "settings", "finetune": "run"}

__all__ = ["FinetuneSettings", "finetune"]


def __getattr__(name: str) -> Any:
    # The settings can be read and checked without the training libraries.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
