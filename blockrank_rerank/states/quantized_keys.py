"""Keys of many documents in 8 bits, side by side, with how far off they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blockrank_rerank.states.document_states import HEAD_KEY, SCALE, compress
from blockrank_rerank.states.pack import StatePack

PART_TOKENS = 1 << 13
"""Keys that a query is multiplied with at one time: they and the products stay in a core's caches."""


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
        keys = pack.get(HEAD_KEY, torch.empty(0))
        quantized = compress({HEAD_KEY: keys}, torch.int8)
        codes, scales = quantized[HEAD_KEY], quantized[HEAD_KEY + SCALE].float()
        standing = codes.float() * scales[..., None]
        unknown = torch.empty(0, dtype=torch.bool) if unknown_id is None else pack.tokens_equal(unknown_id)
        return cls(
            codes.transpose(0, 1).contiguous(),
            scales.T.contiguous(),
            _largest((keys - standing).norm(dim=-1).T.contiguous(), pack.offsets),
            pack.offsets,
            float(standing.norm(dim=-1).max()),
            unknown.nonzero()[:, 0],
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


def _largest(values: Tensor, offsets: Tensor) -> Tensor:
    return torch.from_numpy(np.maximum.reduceat(values.numpy(), offsets[:-1].numpy(), -1))
