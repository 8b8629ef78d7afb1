"""Embedding models as teachers: their pooling, their prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from blockrank_rerank.finetune.mining.embeddings import Encode, sentence_transformer
from blockrank_rerank.model.devices import resolve_dtype

SETTINGS = Path(__file__).with_name("encoders.yaml")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How an encoder makes a vector of a text.

    Parameters
    ----------
    folder : str
        Of the model.
    pooling : str
        ``cls`` or ``mean``.
    query_prefix, document_prefix : str
        Put before queries and documents.
    """

    folder: str
    pooling: str
    query_prefix: str = ""
    document_prefix: str = ""

    def load(self) -> Encode:
        """Load the model, in bf16 where a CPU is faster with it."""
        return sentence_transformer(
            self.folder,
            device="cpu",
            dtype=str(resolve_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
            pooling=self.pooling,
            query_prefix=self.query_prefix,
            document_prefix=self.document_prefix,
        )


def read_encoders(folders: Mapping[str, str]) -> dict[str, EncoderSettings]:
    """Settings of the encoders whose folders are given.

    Raises
    ------
    ValueError
        For an encoder without settings.
    FileNotFoundError
        For a folder without a model.
    """
    known = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    for name, folder in folders.items():
        if name not in known:
            raise ValueError(f"encoder must be one of {', '.join(known)}, got {name!r}; add others to {SETTINGS.name}")
        if not (Path(folder) / "config.json").exists():
            raise FileNotFoundError(
                f"no model for {name} in {folder}: config.json is missing; {SETTINGS.name} says what it is"
            )
    return {name: EncoderSettings(folder=folder, **known[name]) for name, folder in folders.items()}
