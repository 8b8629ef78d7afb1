"""The files of settings, and what a teacher's opinion weighs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def settings_file(folder: Path, name: str) -> Path:
    """A file of a folder of settings, or the one beside this script where the folder has none."""
    return folder / name if (folder / name).exists() else HERE / name


def read_settings(folder: Path, name: str) -> Any:
    """What such a file holds."""
    return yaml.safe_load(settings_file(folder, name).read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """Weights of the teachers by kind of collection; see ensemble.yaml."""

    web: dict[str, float]
    other: dict[str, float]
    collections_of_web_questions: list[str]
    spread: float

    @classmethod
    def read(cls, settings: Path = HERE) -> EnsembleSettings:
        """Read ensemble.yaml of a folder of settings."""
        return cls(**read_settings(settings, "ensemble.yaml"))

    def weights(self, collection: str) -> dict[str, float]:
        """Weights of a collection's teachers."""
        return self.web if collection in self.collections_of_web_questions else self.other

    def encoders(self, collection: str) -> list[str]:
        """Teachers that are embedding models."""
        return [name for name in self.weights(collection) if name not in ("student", "bm25")]
