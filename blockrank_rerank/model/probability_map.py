"""How raw scores become probabilities where a model was calibrated on judged lists, in a file of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blockrank_rerank.system.files import check_readable, replacing

FORMAT, VERSION = "blockrank-calibration", 1
MOST_BYTES = 1 << 20
"""No file of ours is as long."""


@dataclass(frozen=True, kw_only=True)
class ProbabilityMap:
    """A rising map from raw score to probability, and the probability from which on documents are kept.

    Attributes
    ----------
    slope, intercept : float
        Log odds of relevance are ``slope · raw score + intercept``; the slope is above 0.
    threshold : float
        In 0-1: what ``min_probability`` is where nobody says.
    bases : mapping of str to str
        Fingerprint of the model by dtype, as :func:`blockrank_rerank.engine.tuned.bases` makes them.
    tuning : str or None
        Digest of the tuning with which queries read, if there was one.
    facts : mapping of str to object
        What is told of it, as JSON holds it: the model's name, the guarantee, measures on held-out lists.
    """

    slope: float
    intercept: float
    threshold: float
    bases: Mapping[str, str]
    tuning: str | None
    facts: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse numbers that make no probability."""
        if not all(math.isfinite(number) for number in (self.slope, self.intercept)) or self.slope <= 0:
            raise ValueError(f"slope must be above 0 and intercept finite, got {self.slope!r} and {self.intercept!r}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in 0..1, got {self.threshold!r}")

    def probabilities(self, raw: Sequence[float]) -> list[float]:
        """Probabilities of raw scores, by index."""
        # One by one: vectorised, the last bit would depend on the place, and a threshold is a document's own value.
        return [_sigmoid(self.slope * score + self.intercept) for score in raw]

    def save(self, path: Path) -> None:
        """Write a JSON file, whole or not at all."""
        with replacing(path) as file:
            file.write(json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1, allow_nan=False))
            file.write("\n")

    @classmethod
    def load(cls, path: Path) -> ProbabilityMap:
        """Read a calibration.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            Where there is no file.
        ValueError
            For a damaged file, and one of something else.
        """
        check_readable(path, "a calibration")
        try:
            # No more is read than shows that it is none.
            with path.open("rb") as file:
                values = json.loads(file.read(MOST_BYTES))
            if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
                raise ValueError(f'expected an object with "format": "{FORMAT}"')
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no calibration: {' '.join(str(error).split())[:200]}; {_ADVICE}") from error
        if values.pop("version", None) != VERSION:
            raise ValueError(f"{path} is a calibration of another release of blockrank-rerank; {_ADVICE} of this one")
        try:
            return cls(**_checked(values))
        except (TypeError, ValueError, OverflowError, KeyError) as error:
            raise ValueError(f"{path} is a damaged calibration: {error}; {_ADVICE}") from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file with their types, others left out."""
    for name in ("slope", "intercept", "threshold", "bases", "tuning", "facts"):
        if name not in values:
            raise ValueError(f"it has no {name!r}")
    numbers = {name: values[name] for name in ("slope", "intercept", "threshold")}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name} must be a number, got {type(number).__name__}")
    bases, tuning, facts = values["bases"], values["tuning"], values["facts"]
    if not isinstance(bases, dict) or not all(isinstance(digest, str) for digest in bases.values()):
        raise ValueError("bases must be texts by dtype")
    if not isinstance(tuning, str | None) or not isinstance(facts, dict):
        raise ValueError("tuning must be a text or null, and facts an object")
    floats = {name: float(number) for name, number in numbers.items()}
    return {**floats, "bases": bases, "tuning": tuning, "facts": facts}


def _sigmoid(log_odds: float) -> float:
    """Logistic function that no number overflows."""
    odds = math.exp(-abs(log_odds))
    return (1.0 if log_odds >= 0 else odds) / (1.0 + odds)


_ADVICE = "'blockrank calibrate' writes one"
