"""The files of settings, and what a teacher's opinion weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockrank_rerank.finetune.settings_file import read_yaml

HERE = Path(__file__).parent
COLLECTIONS, ENSEMBLE = "collections.yaml", "ensemble.yaml"
NUMBERS, LIMITS = {"train", "development", "documents"}, {"words", "characters"}


def settings_file(folder: Path, name: str) -> Path:
    """A file of a folder of settings, or the one beside this script where the folder has none."""
    return folder / name if (folder / name).exists() else HERE / name


def read_settings(folder: Path, name: str) -> Mapping[str, Any]:
    """What such a file holds."""
    return read_yaml(settings_file(folder, name))


def read_collections(folder: Path) -> dict[str, dict[str, Any]]:
    """What each collection lends, by collections.yaml of a folder of settings.

    Raises
    ------
    ValueError
        For a file that does not say it.
    """
    settings = read_settings(folder, COLLECTIONS)
    cut, asked = settings.get("cut"), settings.get("collections")
    named = isinstance(asked, dict) and all(isinstance(one, dict) and one.keys() >= NUMBERS for one in asked.values())
    if not named or not isinstance(cut, dict) or cut.keys() != LIMITS:
        raise ValueError(
            f"{settings_file(folder, COLLECTIONS)} must hold cut with {' and '.join(sorted(LIMITS))}, and collections, "
            f"each with {', '.join(sorted(NUMBERS))}, got {dict(settings)}"
        )
    return dict(asked)


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """Weights of the teachers by kind of collection; see ensemble.yaml."""

    web: dict[str, float]
    other: dict[str, float]
    collections_of_web_questions: list[str]

    @classmethod
    def read(cls, settings: Path = HERE) -> EnsembleSettings:
        """Read ensemble.yaml of a folder of settings.

        Raises
        ------
        ValueError
            For settings that are missing or unknown.
        """
        try:
            return cls(**read_settings(settings, ENSEMBLE))
        except TypeError as error:
            raise ValueError(f"{settings_file(settings, ENSEMBLE)}: {error}") from error

    def weights(self, collection: str) -> dict[str, float]:
        """Weights of a collection's teachers."""
        return self.web if collection in self.collections_of_web_questions else self.other

    def encoders(self, collection: str) -> list[str]:
        """Teachers that are embedding models."""
        return [name for name in self.weights(collection) if name not in ("student", "bm25")]
