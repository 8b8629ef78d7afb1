"""Embedding models as teachers: their pooling, their prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from blockrank_rerank.finetune.mining.embeddings import Encode, sentence_transformer
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.devices import resolve_dtype
from blockrank_rerank.model.names import model_folder
from recipes.ensemble.settings import HERE, read_settings

SETTINGS = "encoders.yaml"


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How an encoder makes a vector of a text.

    Parameters
    ----------
    folder : str
        Of the model, or its Hub id.
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


def read_encoders(given: Sequence[str], settings: Path = HERE) -> dict[str, EncoderSettings]:
    """Settings of the encoders that are given as NAME=FOLDER or NAME=HUB_ID.

    Raises
    ------
    ValueError
        For an encoder without settings, and for what is not of this form.
    FileNotFoundError
        For a folder without a model, or an id that is not found.
    """
    known = read_settings(settings, SETTINGS)
    encoders = {}
    for one in given:
        name, _, folder = one.partition("=")
        if name not in known or not folder:
            raise ValueError(
                f"encoder must be NAME=FOLDER with one of {', '.join(known)}, got {one!r}; add others to {SETTINGS}"
            )
        if Checkpoint(model=model_folder(folder)).file("config.json") is None:
            raise FileNotFoundError(
                f"no model for {name} in {folder}: config.json is missing; {SETTINGS} says what it is"
            )
        encoders[name] = EncoderSettings(folder=folder, **known[name])
    return encoders
