"""Everything that a tuning depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from blockrank_rerank.finetune.setting_kinds import check_types, require, require_at_most
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.settings_file import read_settings, to_yaml
from blockrank_rerank.finetune.sources import TrainingSource
from blockrank_rerank.model.names import DEFAULT_MODEL
from blockrank_rerank.system.files import UserPath, absolute

LARGEST = {"queries": (1 << 31) - 1, "query_rank": 4_096}
SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """All settings of a tuning, validated where they are built; those of :class:`FinetuneSettings` mean the same.

    Parameters
    ----------
    model, data, scoring_layer, long_queries, max_positives, device, seed
        As there.
    output : str
        File for the result, which ends in ``.safetensors``; replaced where there is one.
    config : str, optional
        JSON file of settings in place of the model's own: those that the tuning will be used with.
    queries : int
        So many queries to learn from, drawn by `seed`.
    held_out : int
        So many other queries to measure before and after on: at most every second one of each collection.
    documents_per_list : int
        Candidates per query; each query has one list.
    steps, lists_per_step : int
        Optimiser steps, and lists of each. A fifth of the lists chooses the step whose tuning is kept.
    learning_rate, weight_decay : float
        AdamW with cosine decay; the decay is towards the model as it is.
    temperature : float, optional
        Of InfoNCE; 1 where scores are shares of a mean log-sum-exp, and 0.05 on shares of attention, if not given.
    query_rank : int
        Rank of a change of the scoring layer's query projection, for models with an appended one; 0 for none.
    bf16 : bool
        Read documents in bf16: faster where the machine has units for it, and the tuning is for bf16 alone.
    cache : str
        Most memory for what the scoring layer reads of the lists; what does not fit is read again.

    Raises
    ------
    ValueError
        For a value of the wrong type or out of range, naming the setting.
    """

    model: str = DEFAULT_MODEL
    output: str
    data: tuple[TrainingSource, ...]
    queries: int = 200
    held_out: int = 200
    documents_per_list: int = 20
    max_positives: int = 4
    steps: int = 100
    lists_per_step: int = 16
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    temperature: float | None = None
    query_rank: int = 0
    config: str | None = None
    scoring_layer: int | None = None
    long_queries: str = "error"
    bf16: bool = False
    cache: str = "2GB"
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value, those of a training where they are checked."""
        lists = self.lists()
        for name in ("model", "output", "data"):
            object.__setattr__(self, name, getattr(lists, name))
        check_types(self)
        object.__setattr__(self, "config", self.config and str(absolute(self.config, "config")))
        require(self, "output", lambda value: Path(value).suffix == SUFFIX, f"a file that ends in {SUFFIX}")
        require(self, "queries", lambda value: value > 0, "positive")
        require(self, "held_out", lambda value: value > 0, "positive")
        require(self, "query_rank", lambda value: value >= 0, "0 or more")
        require_at_most(self, LARGEST)

    def lists(self) -> FinetuneSettings:
        """Settings of a training with the same lists."""
        known = {item.name for item in fields(FinetuneSettings)}
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name in known}
        return FinetuneSettings(**values | {"temperature": 1.0 if self.temperature is None else self.temperature})

    @classmethod
    def read(cls, path: UserPath | None, overrides: Mapping[str, Any]) -> TuneSettings:
        """Read settings from a YAML file, with some replaced; see :meth:`FinetuneSettings.read`.

        Raises
        ------
        ValueError
            For a file that is not UTF-8 or no YAML, unknown or missing settings and values out of range.
        """
        return cls(**read_settings(path, overrides, [item.name for item in fields(cls)]))

    def to_yaml(self) -> str:
        """Write the resolved settings as YAML, which :meth:`read` reads."""
        return to_yaml(asdict(self) | {"data": [dict(asdict(source)) for source in self.data]})
