"""Everything that a training run depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from blockrank_rerank.config import LONG_QUERIES
from blockrank_rerank.finetune.setting_kinds import check_types, require, require_at_most
from blockrank_rerank.finetune.settings_file import read_settings, to_yaml
from blockrank_rerank.finetune.sources import (
    EvaluationSource,
    TrainingSource,
    as_sources,
    check_weights,
    refuse_repeated,
)
from blockrank_rerank.model.names import DEFAULT_MODEL, model_name, settled_model
from blockrank_rerank.states.cache import parse_bytes
from blockrank_rerank.system.files import UserPath, absolute, path_text

SETTINGS_NAME = "finetune_settings.yaml"


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """All settings of a training run, validated where they are built and saved beside the result.

    Paths may begin with ``~``, and relative ones are relative to where the process is now; all are made absolute.

    Parameters
    ----------
    model : str
        Where to start: a folder, a Hub id, or ``default``.
    output : str
        Folder for the result; must not exist or be empty unless resuming.
    data : tuple of TrainingSource
        Collections to train on.
    evaluation : tuple of EvaluationSource
        Collections to choose the best checkpoint on, by mean nDCG@10; each differs in path or split.
    held_out : int
        Where there is no evaluation: so many training queries, drawn by `seed`, are not trained on, and the starting
        model and the result rank one list of each. At most one in ten of each collection's queries is held out, and
        none where fewer than 10 would be (or than asked for, if that is less); 0 trains on all.
    steps : int
        Optimiser steps.
    lists_per_step : int
        Queries in one forward pass, on each process.
    accumulation : int
        Forward passes per optimiser step.
    documents_per_list : int
        Candidates per query (paper: 30).
    max_positives : int
        Most relevant documents in one list.
    empty_share : float
        Share of lists from which every relevant document is left out.
    learning_rate, warmup_share, weight_decay, max_grad_norm : float
        AdamW with linear warm-up over a share of the steps, then cosine decay.
    head_learning_rate : float
        Of the temperatures and weights of an appended scoring layer, which are few and start at nothing.
    contrastive_weight : float
        Weight of InfoNCE on attention (paper: 0.1 beside a language-model loss of weight 1).
    temperature : float
        Of InfoNCE (paper: 0.05 on attention shares).
    language_model_weight : float
        Weight of the next-token loss on the answer; 0 trains attention alone and drops the later layers.
    distillation_weight, distillation_temperature : float
        Listwise KL from the data's teacher scores.
    abstention_weight : float
        Weight of the loss that calibrates probabilities; above 0 the result has them.
    query_free_share : float
        Share of lists whose instruction omits the query, so that one model serves both prompts.
    freeze_backbone : bool
        Train an appended scoring layer alone: what the encoder knows stays, and every document is read once, however
        many lists it is in.
    cache : str
        Most memory for what a frozen encoder has read, such as ``2GB``: about 0.8 MB per 1,000 tokens of an encoder
        of width 384. What does not fit is read again.
    frozen_layers : int
        So many of the model's first layers keep their weights, and so do the embeddings: a third of the time is
        saved where half of the layers do.
    lora_rank : int
        Rank of LoRA adapters on all linear layers; 0 trains every weight.
    scoring_layer : int, optional
        Instead of the model's.
    long_queries : str
        What becomes of queries that are longer than the model reads: ``error``, before training starts, or
        ``truncate``, which trains and measures on their beginnings.
    gradient_checkpointing, bf16 : bool
        Less memory for more time; bf16 autocast.
    evaluate_every, save_every : int
        Steps; 0 only at the end.
    average_last : int
        The result is the mean of the weights of this many last checkpoints. With ``evaluate_every`` the checkpoints
        that were measured compete with it, and the best wins; the run says which.
    base_share : float
        Share of the starting weights in that mean (weight-space ensembling, arXiv 2109.01903).
    device : str, optional
        ``cpu`` to train without a GPU that is there, ``cuda`` to refuse to train without one.
    save_dtype : str
        ``float32``, ``bfloat16`` or ``float16`` of the written weights.
    seed : int
        Of everything random.

    Raises
    ------
    ValueError
        For a value of the wrong type or out of range, or values that contradict each other, naming the setting.
    """

    model: str = DEFAULT_MODEL
    output: str
    data: tuple[TrainingSource, ...]
    evaluation: tuple[EvaluationSource, ...] = ()
    held_out: int = 40
    steps: int = 1000
    lists_per_step: int = 4
    accumulation: int = 1
    documents_per_list: int = 30
    max_positives: int = 4
    empty_share: float = 0.0
    learning_rate: float = 2e-5
    head_learning_rate: float = 1e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    contrastive_weight: float = 1.0
    temperature: float = 1.0
    language_model_weight: float = 0.0
    distillation_weight: float = 0.0
    distillation_temperature: float = 0.05
    abstention_weight: float = 0.0
    query_free_share: float = 0.0
    freeze_backbone: bool = False
    cache: str = "2GB"
    frozen_layers: int = 0
    lora_rank: int = 0
    scoring_layer: int | None = None
    long_queries: str = "error"
    gradient_checkpointing: bool = False
    bf16: bool = False
    evaluate_every: int = 0
    save_every: int = 200
    average_last: int = 1
    base_share: float = 0.0
    device: str | None = None
    save_dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Turn nested mappings into sources and check every value."""
        for name, text in (("model", model_name), ("output", path_text)):
            object.__setattr__(self, name, text(getattr(self, name)))
        check_types(self)
        object.__setattr__(self, "data", as_sources(TrainingSource, self.data, "data"))
        object.__setattr__(self, "evaluation", as_sources(EvaluationSource, self.evaluation, "evaluation"))
        _check(self)
        object.__setattr__(self, "output", str(absolute(self.output, "output")))
        if self.model != DEFAULT_MODEL:
            object.__setattr__(self, "model", settled_model(self.model))

    @classmethod
    def read(cls, path: UserPath | None, overrides: Mapping[str, Any]) -> FinetuneSettings:
        """Read settings from a YAML file, with some replaced.

        Parameters
        ----------
        path : str or Path, optional
            The file; without one all settings come from `overrides`.
        overrides : mapping
            Settings by name, which replace those of the file.

        Raises
        ------
        ValueError
            For a file that is not UTF-8 or no YAML, unknown or missing settings and values out of range.
        """
        return cls(**read_settings(path, overrides, [item.name for item in fields(cls)]))

    def to_yaml(self) -> str:
        """Write the resolved settings as YAML, which :meth:`read` reads."""
        values = asdict(self)
        values["data"] = [dict(source) for source in values["data"]]
        values["evaluation"] = [dict(source) for source in values["evaluation"]]
        return to_yaml(values)

    def with_changes(self, **changes: Any) -> FinetuneSettings:
        """Return a copy with some settings replaced."""
        return replace(self, **changes)


_POSITIVE = ("steps", "lists_per_step", "accumulation", "max_positives", "average_last", "temperature")
_NOT_NEGATIVE = (
    "learning_rate",
    "head_learning_rate",
    "weight_decay",
    "max_grad_norm",
    "contrastive_weight",
    "language_model_weight",
    "distillation_weight",
    "abstention_weight",
    "frozen_layers",
    "held_out",
    "lora_rank",
    "evaluate_every",
    "save_every",
)
LARGEST = {
    "lists_per_step": 65_536,
    "accumulation": 65_536,
    "documents_per_list": 10_000,
    "max_positives": 10_000,
    "average_last": 10_000,
    "lora_rank": 4_096,
    "scoring_layer": 10_000,
    "held_out": (1 << 31) - 1,
    "evaluate_every": (1 << 31) - 1,
    "save_every": (1 << 31) - 1,
}
"""Setting → the largest number that is believed: a larger one is a mistake, and would be found out by memory."""

_DEVICES = (None, "auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
_SHARES = ("empty_share", "warmup_share", "query_free_share", "base_share")
_WEIGHTS = ("contrastive_weight", "language_model_weight", "distillation_weight", "abstention_weight")


def _check(settings: FinetuneSettings) -> None:
    for name in _POSITIVE:
        require(settings, name, lambda value: value > 0, "positive")
    for name in _NOT_NEGATIVE:
        require(settings, name, lambda value: value >= 0, "0 or more")
    for name in _SHARES:
        require(settings, name, lambda value: 0 <= value <= 1, "in 0..1")
    require(settings, "documents_per_list", lambda value: value >= 2, "at least 2: a list of one teaches nothing")
    require(settings, "seed", lambda value: 0 <= value < 1 << 32, "in 0..4294967295")
    require(settings, "steps", lambda value: value < 1 << 31, "below 2147483648")
    require(settings, "distillation_temperature", lambda value: value > 0, "positive")
    require_at_most(settings, LARGEST)
    require(settings, "save_dtype", lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}")
    require(settings, "long_queries", lambda value: value in LONG_QUERIES, f"one of {', '.join(LONG_QUERIES)}")
    require(settings, "output", lambda value: Path(value).name not in ("", ".."), "a folder with a name of its own")
    _check_device(settings.device)
    parse_bytes("cache", settings.cache)
    if not settings.data:
        raise ValueError("data must name at least one collection to train on")
    check_weights(settings.data)
    refuse_repeated(settings.evaluation)
    if settings.evaluate_every and not settings.evaluation:
        raise ValueError("evaluate_every needs evaluation, the collections to measure on: name some, or set it to 0")
    if not any(getattr(settings, name) for name in _WEIGHTS):
        raise ValueError(f"at least one of {', '.join(_WEIGHTS)} must be above 0: there is nothing to train")
    if settings.freeze_backbone and (settings.lora_rank or settings.language_model_weight):
        raise ValueError("freeze_backbone trains the scoring layer alone: set lora_rank and language_model_weight to 0")
    if settings.frozen_layers and (settings.freeze_backbone or settings.lora_rank):
        raise ValueError(
            "frozen_layers chooses among weights that are all trained: set freeze_backbone and lora_rank to 0"
        )
    if settings.empty_share > 0 and not settings.abstention_weight and not settings.distillation_weight:
        raise ValueError("empty_share needs abstention_weight or distillation_weight: an empty list has no other loss")


def _check_device(device: str | None) -> None:
    # A device that the trainer cannot take would silently be another one.
    if device not in _DEVICES:
        raise ValueError(
            f"device must be cpu, cuda or auto, got {device!r}; CUDA_VISIBLE_DEVICES says which GPUs are used"
        )
