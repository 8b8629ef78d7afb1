"""Keys of many documents in 8 bits, side by side, with how far off they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from blockrank_rerank.states.document_states import HEAD_KEY, SCALE, compress
from blockrank_rerank.states.pack import StatePack

PART_TOKENS = 1 << 13
"""Keys that a query is multiplied with at one time: they and the products stay in a core's caches."""


POOLED_TOKENS = 8
"""Neighbours that are one key in a first look: an eighth of the work, with which few of the best are missed."""


@dataclass(frozen=True, eq=False)
class QuantizedKeys:
    """Keys of some blocks in 8 bits, and how far those that are kept may be from what stands for them here.

    Attributes
    ----------
    codes : Tensor
        ``[H, T, D]`` int8.
    scales : Tensor
        ``[H, T]`` fp32: a key is about its code times its scale.
    distance : Tensor
        ``[H, N]`` fp32: of each block's keys the largest distance from that.
    offsets : Tensor
        ``[N + 1]`` int64: block ``n`` has the keys ``offsets[n] … offsets[n + 1] - 1``, at least one.
    norm : float
        Length of the longest code times its scale.
    unknown : Tensor
        ``[U]`` int64: which of the tokens stand for text that the tokenizer cannot read.
    """

    codes: Tensor
    scales: Tensor
    distance: Tensor
    offsets: Tensor
    norm: float
    unknown: Tensor

    @classmethod
    def of(cls, pack: StatePack, unknown_id: int | None) -> QuantizedKeys:
        """Quantise the keys of a scoring head, in whatever dtype they are kept."""
        unknown = (
            torch.empty(0, dtype=torch.bool, device="cpu") if unknown_id is None else pack.tokens_equal(unknown_id)
        )
        return _quantized(
            pack.get(HEAD_KEY, torch.empty(0, dtype=torch.float32, device="cpu")), pack.offsets, unknown.nonzero()[:, 0]
        )

    def pooled(self) -> QuantizedKeys:
        """One key for some neighbouring tokens of a block: what is like their mean."""
        counts = -(-self.lengths // POOLED_TOKENS)
        offsets = _offsets(counts)
        inside = torch.arange(int(offsets[-1]), device="cpu") - offsets[:-1].repeat_interleave(counts)
        starts = self.offsets[:-1].repeat_interleave(counts) + inside * POOLED_TOKENS
        keys = self.codes.float() * self.scales[..., None]
        sums = torch.from_numpy(np.add.reduceat(keys.numpy(), starts.numpy(), 1))
        return _quantized(
            functional.normalize(sums, dim=-1).transpose(0, 1), offsets, torch.empty(0, dtype=torch.int64, device="cpu")
        )

    def select(self, blocks: Tensor) -> QuantizedKeys:
        """Copy the keys of some blocks, in this order."""
        lengths = self.lengths[blocks]
        offsets = _offsets(lengths)
        tokens = torch.arange(int(offsets[-1]), device="cpu") + (self.offsets[blocks] - offsets[:-1]).repeat_interleave(
            lengths
        )
        return QuantizedKeys(
            self.codes[:, tokens],
            self.scales[:, tokens],
            self.distance[:, blocks],
            offsets,
            self.norm,
            torch.isin(tokens, self.unknown).nonzero()[:, 0],
        )

    @property
    def lengths(self) -> Tensor:
        """``[N]`` int64: tokens of every block."""
        return self.offsets.diff()

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def sums(self, values: Tensor) -> Tensor:
        """Sum ``[S, T]`` over the tokens of every block: ``[S, N]``."""
        return torch.from_numpy(np.add.reduceat(values.numpy(), self.offsets[:-1].numpy(), -1))


def _quantized(keys: Tensor, offsets: Tensor, unknown: Tensor) -> QuantizedKeys:
    """Keys ``[T, H, D]`` of blocks in 8 bits."""
    quantized = compress({HEAD_KEY: keys}, torch.int8)
    codes, scales = quantized[HEAD_KEY], quantized[HEAD_KEY + SCALE].float()
    standing = codes.float() * scales[..., None]
    return QuantizedKeys(
        codes.transpose(0, 1).contiguous(),
        scales.T.contiguous(),
        _largest((keys - standing).norm(dim=-1).T.contiguous(), offsets),
        offsets,
        float(standing.norm(dim=-1).max()),
        unknown,
    )


def joined(parts: Sequence[QuantizedKeys]) -> QuantizedKeys:
    """Put keys side by side."""
    before = _offsets(torch.tensor([int(part.offsets[-1]) for part in parts], device="cpu"))[:-1].tolist()
    return QuantizedKeys(
        torch.cat([part.codes for part in parts], 1),
        torch.cat([part.scales for part in parts], 1),
        torch.cat([part.distance for part in parts], 1),
        _offsets(torch.cat([part.lengths for part in parts])),
        max(part.norm for part in parts),
        torch.cat([part.unknown + first for part, first in zip(parts, before, strict=True)]),
    )


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), lengths.cumsum(0)])


def _largest(values: Tensor, offsets: Tensor) -> Tensor:
    return torch.from_numpy(np.maximum.reduceat(values.numpy(), offsets[:-1].numpy(), -1))
