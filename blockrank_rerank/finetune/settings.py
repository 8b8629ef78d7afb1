from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from blockrank_rerank.config import refuse_unknown_names
from blockrank_rerank.finetune.data.reader import FORMATS, check_negatives
from blockrank_rerank.model.checkpoint import DEFAULT_MODEL

SETTINGS_NAME = "finetune_settings.yaml"


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """One collection to train on.

    Parameters
    ----------
    path : str
        A JSONL file, a BEIR folder, or a Hub dataset id; see ``blockrank-finetune validate-data``.
    split : str
        Split of a BEIR folder or Hub dataset.
    weight : float, optional
        Share of the lists drawn from this collection, relative to the others'; either every collection has one
        or none has. If none has, shares are by the square root of the collections' sizes.
    limit : int, optional
        Use this many examples, drawn at random.
    format : str
        ``auto``, ``pos-neg``, ``blockrank``, ``beir`` or ``hub``.
    columns : dict, optional
        Names of the data's columns for ours.
    negatives : str, optional
        Where negatives come from that the data lacks: ``bm25``, ``random`` or ``none``.

    Raises
    ------
    ValueError
        For a value of the wrong type or out of range, naming the setting.
    """

    path: str
    split: str = "train"
    weight: float | None = None
    limit: int | None = None
    format: str = "auto"
    columns: dict[str, str] | None = None
    negatives: Literal["bm25", "random", "none"] | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        _check_types(self)
        _require(self, "weight", lambda value: value is None or value >= 0, "0 or more")
        _require(self, "limit", lambda value: value is None or value > 0, "positive")
        _require(self, "format", lambda value: value in FORMATS, f"one of {', '.join(FORMATS)}")
        check_negatives(self.negatives)


@dataclass(frozen=True, kw_only=True)
class EvaluationSource:
    """One BEIR folder to evaluate on during training.

    Parameters
    ----------
    path : str
        BEIR folder.
    split : str
        Name of the judgements: not of those that are to judge the result.
    run : str, optional
        First-stage TREC run; BM25 over the collection if not given.
    depth : int
        Candidates per query.
    queries : int
        Queries, drawn at random.

    Raises
    ------
    ValueError
        For a value of the wrong type or out of range, naming the setting.
    """

    path: str
    split: str = "dev"
    run: str | None = None
    depth: int = 50
    queries: int = 100

    def __post_init__(self) -> None:
        """Check every value."""
        _check_types(self)
        for name in ("depth", "queries"):
            _require(self, name, lambda value: value > 0, "positive")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Everything that a training run depends on; validated where it is built, saved beside the result.

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
        Train an appended scoring layer alone; three times as fast, and what the encoder knows stays.
    lora_rank : int
        Rank of LoRA adapters on all linear layers; 0 trains every weight.
    scoring_layer : int, optional
        Instead of the model's.
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
    lora_rank: int = 0
    scoring_layer: int | None = None
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
        _check_types(self)
        object.__setattr__(self, "data", _sources(TrainingSource, self.data, "data"))
        object.__setattr__(self, "evaluation", _sources(EvaluationSource, self.evaluation, "evaluation"))
        _check(self)

    @classmethod
    def read(cls, path: str | Path | None, overrides: Mapping[str, Any]) -> FinetuneSettings:
        """Settings of a YAML file with some replaced.

        Raises
        ------
        ValueError
            For a file that is not UTF-8 or no YAML, unknown or missing settings and values out of range.
        """
        values = dict(_read_yaml(Path(path)) if path else {}) | dict(overrides)
        refuse_unknown_names(values, [item.name for item in fields(cls)], str(path or "the command line"))
        missing = {"output", "data"} - set(values)
        if missing:
            raise ValueError(f"settings need {' and '.join(sorted(missing))}")
        return cls(**values)

    def to_yaml(self) -> str:
        """The resolved settings, readable by :meth:`read`."""
        import yaml

        values = asdict(self)
        values["data"] = [dict(source) for source in values["data"]]
        values["evaluation"] = [dict(source) for source in values["evaluation"]]
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def with_changes(self, **changes: Any) -> FinetuneSettings:
        """A copy with some settings replaced."""
        return replace(self, **changes)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML text.

    Raises
    ------
    ValueError
        For what is no YAML, and a key that comes twice.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError("blockrank-finetune needs its extra: pip install 'blockrank-rerank[train]'") from error

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if repeated := [key for place, key in enumerate(keys) if key in keys[:place]]:
                raise ValueError(f"{name}: {repeated[0]!r} is given twice; keep one")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise ValueError(f"{path} must be UTF-8 text, got {found}; convert the file to UTF-8") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings as key: value, got {type(values).__name__}")
    return values


def _sources(cls: Any, values: Any, name: str) -> tuple[Any, ...]:
    if isinstance(values, str | Mapping | cls):
        values = (values,)
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a path, a mapping with a path, or a list of these, got {values!r}")
    return tuple(_source(cls, value, f"{name}[{number}]") for number, value in enumerate(values))


def _source(cls: Any, value: Any, where: str) -> Any:
    if isinstance(value, cls):
        return value
    if isinstance(value, str):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a path or a mapping with a path, got {value!r}")
    refuse_unknown_names(value, [item.name for item in fields(cls)], where)
    if "path" not in value:
        raise ValueError(f"{where} needs a path, which says where the collection is, got {dict(value)!r}")
    try:
        return cls(**value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


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
    "lora_rank",
    "evaluate_every",
    "save_every",
)
_DEVICES = (None, "auto", "cpu", "cuda")
_DTYPES = ("float32", "bfloat16", "float16")
_SHARES = ("empty_share", "warmup_share", "query_free_share", "base_share")
_WEIGHTS = ("contrastive_weight", "language_model_weight", "distillation_weight", "abstention_weight")


def _check(settings: FinetuneSettings) -> None:
    for name in _POSITIVE:
        _require(settings, name, lambda value: value > 0, "positive")
    for name in _NOT_NEGATIVE:
        _require(settings, name, lambda value: value >= 0, "0 or more")
    for name in _SHARES:
        _require(settings, name, lambda value: 0 <= value <= 1, "in 0..1")
    _require(settings, "documents_per_list", lambda value: value >= 2, "at least 2: a list of one teaches nothing")
    _require(settings, "seed", lambda value: 0 <= value < 1 << 32, "in 0..4294967295")
    _require(settings, "steps", lambda value: value < 1 << 31, "below 2147483648")
    _require(settings, "distillation_temperature", lambda value: value > 0, "positive")
    _require(settings, "save_dtype", lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}")
    _require(settings, "output", lambda value: Path(value).name not in ("", ".."), "a folder with a name of its own")
    _check_device(settings.device)
    if not settings.data:
        raise ValueError("data must name at least one collection to train on")
    _check_weights(settings.data)
    _refuse_repeated(settings.evaluation)
    if settings.evaluate_every and not settings.evaluation:
        raise ValueError("evaluate_every needs evaluation, the collections to measure on: name some, or set it to 0")
    if not any(getattr(settings, name) for name in _WEIGHTS):
        raise ValueError(f"at least one of {', '.join(_WEIGHTS)} must be above 0: there is nothing to train")
    if settings.freeze_backbone and (settings.lora_rank or settings.language_model_weight):
        raise ValueError("freeze_backbone trains the scoring layer alone: set lora_rank and language_model_weight to 0")
    if settings.empty_share > 0 and not settings.abstention_weight and not settings.distillation_weight:
        raise ValueError("empty_share needs abstention_weight or distillation_weight: an empty list has no other loss")


def _as_float(kind: str, value: Any) -> Any:
    """YAML takes 1e-5, without a point, for text; everybody means a number."""
    if kind == "float" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_column_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for pair in value.items() for name in pair)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str) and bool(value.strip()), "a text that is not empty"),
    "int": (lambda value: _is_number(value) and isinstance(value, int), "int"),
    "float": (_is_number, "float"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "dict[str, str]": (_is_column_mapping, "a mapping such as {pos: answer} from known columns to the data's"),
}
"""Type as a setting declares it → its test and its name; the other types have checks of their own."""


def _check_types(settings: Any) -> None:
    """Turn text that means a number into that number, and check the type of every value."""
    for item in fields(settings):
        kind, _, optional = str(item.type).partition(" | ")
        value = _as_float(kind, getattr(settings, item.name))
        object.__setattr__(settings, item.name, value)
        if kind in _KINDS and not (optional and value is None):
            _check_type(item.name, kind, value)


def _check_type(name: str, kind: str, value: Any) -> None:
    test, wanted = _KINDS[kind]
    if not test(value):
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if kind == "float" and not abs(value) < math.inf:
        raise ValueError(f"{name} must be finite, got {value}")


def _check_device(device: str | None) -> None:
    # A device that the trainer cannot take would silently be another one.
    if device not in _DEVICES:
        raise ValueError(
            f"device must be cpu, cuda or auto, got {device!r}; CUDA_VISIBLE_DEVICES says which GPUs are used"
        )


def _check_weights(data: tuple[TrainingSource, ...]) -> None:
    weights = [source.weight for source in data]
    if None in weights and set(weights) != {None}:
        number = weights.index(None)
        raise ValueError(
            f"data[{number}] needs a weight, since others have one, got {data[number].path!r} without; "
            "give every collection a weight, or none"
        )
    if set(weights) == {0}:
        raise ValueError("data needs a collection of weight above 0, got 0 for all of them")


def _refuse_repeated(evaluation: tuple[EvaluationSource, ...]) -> None:
    places: dict[tuple[Path, str], int] = {}
    for number, source in enumerate(evaluation):
        first = places.setdefault((Path(source.path), source.split), number)
        if first != number:
            raise ValueError(
                f"evaluation[{number}] must differ from evaluation[{first}] in path or split, "
                f"got {source.path!r} with split {source.split!r} in both; remove one"
            )


def _require(settings: Any, name: str, test: Any, wanted: str) -> None:
    if not test(getattr(settings, name)):
        raise ValueError(f"{name} must be {wanted}, got {getattr(settings, name)}")
