"""The collections that a run is told to train and to evaluate on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from blockrank_rerank.config import refuse_unknown_names
from blockrank_rerank.finetune.data.reader import FORMATS, absolute_source, check_negatives
from blockrank_rerank.finetune.setting_kinds import check_types, require, require_at_most, shown
from blockrank_rerank.system.files import absolute, path_text


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """One collection that a run trains on.

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
        _take_texts(self, "path")
        check_types(self)
        require(self, "weight", lambda value: value is None or value >= 0, "0 or more")
        require(self, "limit", lambda value: value is None or value > 0, "positive")
        require(self, "format", lambda value: value in FORMATS, f"one of {', '.join(FORMATS)}")
        check_negatives(self.negatives)
        object.__setattr__(self, "path", absolute_source(self.path, self.format))


@dataclass(frozen=True, kw_only=True)
class EvaluationSource:
    """One BEIR folder that a run is measured on.

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
        _take_texts(self, "path", "run")
        check_types(self)
        for name in ("depth", "queries"):
            require(self, name, lambda value: value > 0, "positive")
        require_at_most(self, {"depth": 1_000_000, "queries": 1 << 31})
        object.__setattr__(self, "path", str(absolute(self.path, "path")))
        object.__setattr__(self, "run", self.run and str(absolute(self.run, "run")))


Source = TypeVar("Source", TrainingSource, EvaluationSource)


def as_sources(cls: type[Source], values: Any, name: str) -> tuple[Source, ...]:
    """Turn a path, a mapping with a path, or a list of these into sources.

    Parameters
    ----------
    cls : type
        `TrainingSource` or `EvaluationSource`.
    values : object
        What a settings file holds.
    name : str
        The setting's name, for messages.

    Raises
    ------
    ValueError
        For anything else, naming the setting and the number of the source.
    """
    if isinstance(values, str | os.PathLike | Mapping | cls):
        values = (values,)
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a path, a mapping with a path, or a list of these, got {shown(values)}")
    return tuple(_source(cls, value, f"{name}[{number}]") for number, value in enumerate(values))


def check_weights(data: Sequence[TrainingSource]) -> None:
    """Refuse weights that some collections have and others lack, or that are all 0.

    Raises
    ------
    ValueError
        Naming the first collection without a weight.
    """
    weights = [source.weight for source in data]
    if None in weights and set(weights) != {None}:
        number = weights.index(None)
        raise ValueError(
            f"data[{number}] needs a weight, since others have one, got {_told(data[number].path)!r} without; "
            "give every collection a weight, or none"
        )
    if set(weights) == {0}:
        raise ValueError("data needs a collection of weight above 0, got 0 for all of them")


def refuse_repeated(evaluation: Sequence[EvaluationSource]) -> None:
    """Refuse two evaluation collections of one path and split.

    Raises
    ------
    ValueError
        Naming both.
    """
    numbers: dict[tuple[Path, str], int] = {}
    for number, source in enumerate(evaluation):
        first = numbers.setdefault((Path(source.path), source.split), number)
        if first != number:
            raise ValueError(
                f"evaluation[{number}] must differ from evaluation[{first}] in path or split, "
                f"got {_told(source.path)!r} with split {source.split!r} in both; remove one"
            )


def _told(path: str) -> str:
    """A path as from where the process is, as a user writes it."""
    return path.removeprefix(f"{os.getcwd()}{os.sep}")


def _take_texts(settings: Any, *names: str) -> None:
    """Turn paths of any type into text, which settings are written as."""
    for name in names:
        object.__setattr__(settings, name, path_text(getattr(settings, name)))


def _source(cls: type[Source], value: Any, where: str) -> Source:
    if isinstance(value, cls):
        return value
    if isinstance(value, str | os.PathLike):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a path or a mapping with a path, got {shown(value)}")
    refuse_unknown_names(value, [item.name for item in fields(cls)], where)
    if "path" not in value:
        raise ValueError(f"{where} needs a path, which says where the collection is, got {shown(dict(value))}")
    try:
        return cls(**value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
