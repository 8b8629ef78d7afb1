"""What a tuning changes of the way in which queries read documents, in a file of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blockrank_kernels.gpu import upload
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from blockrank_rerank.errors import shown_ids
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.system.files import check_readable, replace_with

FORMAT = "blockrank-tuning"
FORMAT_VERSION = "1"

PER_HEAD = ("log_temperature", "length_weight", "head_weight")
QUERY_DOWN, QUERY_UP = "query_down", "query_up"
REQUIRED = {*PER_HEAD, "signal_weight", "nothing", "log_sharpness"}


@dataclass(frozen=True, eq=False)
class Tuning:
    """A change of a scoring layer's query side, for a scoring head and for a decoder's own layer alike.

    What it holds is added to what the model has, so that zeros change nothing beyond rounding. No state of a document
    depends on it.

    Attributes
    ----------
    tensors : mapping of str to Tensor
        In fp32. ``log_temperature``, ``length_weight`` and ``head_weight`` ``[H]``; ``signal_weight`` ``[H, W]``, where
        ``W`` is the width of what tells signals apart: the final state where there is a scoring head, and in a decoder
        the head's query. Numbers of the probability: ``nothing`` and ``log_sharpness``. For a scoring head perhaps a
        low-rank change of its query projection: ``query_down`` ``[r, hidden]`` and ``query_up`` ``[hidden, r]``.
    facts : mapping of str to object
        What is told of it, as JSON holds it: ``name``, ``bases`` (fingerprint of the model by dtype), measures.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    @classmethod
    def start(cls, num_heads: int, width: int, query_rank: int = 0) -> Tuning:
        """A tuning that changes nothing yet."""
        zeros = {name: torch.zeros(num_heads, device="cpu") for name in PER_HEAD}
        zeros |= {"signal_weight": torch.zeros(num_heads, width, device="cpu")}
        zeros |= {"nothing": torch.zeros((), device="cpu"), "log_sharpness": torch.zeros((), device="cpu")}
        if query_rank:
            # As in LoRA (arXiv 2106.09685): one factor at random, so that the other has a gradient.
            zeros[QUERY_DOWN] = torch.randn(query_rank, width, device="cpu") / width**0.5
            zeros[QUERY_UP] = torch.zeros(width, query_rank, device="cpu")
        return cls(zeros, {})

    def to(self, device: torch.device) -> Tuning:
        """Move it to a device."""
        return Tuning({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.facts)

    def query_change(self, states: Tensor) -> Tensor | float:
        """``[S, hidden]`` to add to a scoring head's projected signals."""
        if QUERY_DOWN not in self.tensors:
            return 0.0
        change = states.float() @ self.tensors[QUERY_DOWN].T @ self.tensors[QUERY_UP].T
        return change.to(states.dtype)

    def scaled(self, queries: Tensor) -> Tensor:
        """Signals' queries ``[S, H, D]`` at their temperature."""
        return (queries.float() / self.tensors["log_temperature"].exp()[:, None]).to(queries.dtype)

    def weights(self, signals: Tensor, logits: Tensor | float = 0.0) -> Tensor:
        """Weights ``[S, H]`` that average 1 over signals and heads.

        ``signals`` are ``[S, H, W]``, or ``[S, 1, W]`` where heads share them; ``logits`` ``[S, H]`` the model's own.
        """
        logits = logits + (signals.float() * self.tensors["signal_weight"]).sum(-1)
        of_heads = self.tensors["head_weight"].softmax(0) * len(self.tensors["head_weight"])
        return logits.softmax(0) * len(signals) * of_heads

    def weighed(self, lse: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Log-sum-exps ``[S, H, N]`` of blocks, corrected for their lengths and weighed; ``offsets`` is ``[N + 1]``."""
        lengths = upload(offsets.diff().to(lse.dtype), lse.device)
        return weights[..., None] * (lse + self.tensors["length_weight"][:, None] * lengths.log())

    def shifted(self, lse: Lse, weights: Tensor) -> Lse:
        """Log-sum-exps with that of "none of these" moved, of a model that may abstain."""
        if lse.nothing is None:
            return lse
        return lse._replace(nothing=lse.nothing + weights.detach() * self.tensors["nothing"])

    @property
    def sharpness(self) -> Tensor:
        """By which the model's log odds per unit of raw score are multiplied; a scalar above 0."""
        return self.tensors["log_sharpness"].exp()

    @property
    def query_rank(self) -> int:
        """Rank of the change of the query projection; 0 for none."""
        return self.tensors[QUERY_DOWN].shape[:1].numel() if QUERY_DOWN in self.tensors else 0

    def fits(self, other: Tuning) -> bool:
        """Whether it has the heads and widths of another."""
        return {n: t.shape for n, t in self.tensors.items()} == {n: t.shape for n, t in other.tensors.items()}

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        metadata = {"format": FORMAT, "version": FORMAT_VERSION, "facts": json.dumps(dict(self.facts))}
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.tensors.items()}
        replace_with(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Tuning:
        """Read a tuning.

        Raises
        ------
        FileNotFoundError, IsADirectoryError
            Where there is no file.
        ValueError
            For a damaged file, one of another format, and numbers that are not finite.
        """
        check_readable(path, "a tuning")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            facts = json.loads(metadata.get("facts", "null"))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no tuning: {' '.join(str(error).split())[:200]}; {_ADVICE}") from error
        if metadata.get("format") != FORMAT or not isinstance(facts, dict) or not tensors.keys() >= REQUIRED:
            raise ValueError(f"{path} is no tuning: it holds {shown_ids([*tensors])}; {_ADVICE}")
        if metadata.get("version") != FORMAT_VERSION:
            raise ValueError(f"{path} is a tuning of another release of blockrank-rerank; tune again with this one")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError(f"{path} holds numbers that are not finite; tune again with a lower learning_rate")
        return cls(tensors, facts)


_ADVICE = "'blockrank-finetune tune' writes one"
