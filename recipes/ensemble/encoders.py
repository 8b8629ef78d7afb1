"""Embedding models as teachers: their pooling, their prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from blockrank_rerank.model.checkpoint import Checkpoint

MAX_TOKENS, BATCH_TOKENS = 192, 1536
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
    eight_bits : bool
        Linear layers in 8 bits, for a model that comes from an 8-bit file: half the time on a CPU.
    """

    folder: str
    pooling: str
    query_prefix: str = ""
    document_prefix: str = ""
    eight_bits: bool = False


class Encoder:
    """A BERT encoder and its tokenizer."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings
        folder = str(Checkpoint(model=settings.folder, local_files_only=True).folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32).eval()
        if settings.eight_bits:
            self.model = torch.ao.quantization.quantize_dynamic(self.model, {torch.nn.Linear}, dtype=torch.qint8)

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str], *, queries: bool) -> NDArray[np.float32]:
        """``[texts, hidden]`` of length 1."""
        prefix = self.settings.query_prefix if queries else self.settings.document_prefix
        ids = self.tokenizer([prefix + text for text in texts], truncation=True, max_length=MAX_TOKENS)["input_ids"]
        vectors = torch.empty(len(texts), self.model.config.hidden_size)
        for batch in _batches([len(one) for one in ids]):
            padded = self.tokenizer.pad({"input_ids": [ids[place] for place in batch]}, return_tensors="pt")
            vectors[batch] = self._pooled(self.model(**padded).last_hidden_state, padded["attention_mask"])
        return F.normalize(vectors, dim=-1).numpy()

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.settings.pooling == "cls":
            return states[:, 0]
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


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


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
