"""A query in integers, and the bounds of raw scores that its products with keys in 8 bits give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockrank_rerank.states.quantized_keys import QuantizedKeys

STEPS = 127
FINER = 254
"""Steps of the second 8 bits in one of the first."""

LEAST_SUM = 1e-30
"""Of exponentials: below it too many may have vanished for a lower bound."""

NO_BOUND = 1e6
"""Error of a log-sum-exp that has no lower bound."""

ROUNDING = 1e-4
"""Error of a logit for each unit of its query's length: far above what fp32 makes of some hundred products."""


@dataclass(frozen=True, eq=False)
class QuantizedQuery:
    """The signals of a query for a scoring head, each number in two times 8 bits.

    Attributes
    ----------
    codes : Tensor
        ``[H, 2 * S, D]`` int8: the first 8 bits of all signals, then the second.
    scales : Tensor
        ``[H, S, 1]`` fp32: a signal is about (first + second / FINER) times its scale.
    distance, norm : Tensor
        ``[H, S, 1]`` fp32: how far it is from that, and its length.
    weights : Tensor
        ``[H, S, 1]`` fp32, not below 0: of the log-sum-exps in the raw score.
    length_weights : Tensor
        ``[H]`` fp32: of the logarithm of a document's length.
    apart : Tensor
        ``[S, 1]`` fp32: what is added to a logit with a token that stands for unknown text.
    """

    codes: Tensor
    scales: Tensor
    distance: Tensor
    norm: Tensor
    weights: Tensor
    length_weights: Tensor
    apart: Tensor

    @classmethod
    def of(cls, queries: Tensor, weights: Tensor, length_weights: Tensor, apart: Tensor) -> QuantizedQuery:
        """Quantise signals ``[S, H, D]`` with weights ``[S, H]`` that average 1 over the signals."""
        signals = queries.transpose(0, 1).float()
        scales = signals.abs().amax(-1, keepdim=True).clamp_min(1e-12) / STEPS
        first = (signals / scales).round()
        second = ((signals / scales - first) * FINER).round()
        standing = (first + second / FINER) * scales
        return cls(
            torch.cat([first, second], 1).to(torch.int8),
            scales,
            (signals - standing).norm(dim=-1, keepdim=True),
            signals.norm(dim=-1, keepdim=True),
            weights.T[..., None] / weights.numel(),
            length_weights,
            apart[:, None],
        )

    def raw_scores(self, keys: QuantizedKeys) -> Tensor:
        """Bound the raw score of every block: ``[2, N]``, the middle and how far the score may be from it.

        A logit is a product of vectors, ``q·k``, and here one of what stands for them, ``q'·k'``. They differ by
        ``q·(k - k') + (q - q')·k'``, at most ``|q||k - k'| + |q - q'||k'|``; a log-sum-exp differs by no more than its
        logits do, and a weighted mean of them by no more than the weighted mean of that.
        """
        heads = [self._head(head, keys) for head in range(len(self.codes))]
        return torch.stack(heads).sum(0)

    def _head(self, head: int, keys: QuantizedKeys) -> Tensor:
        products = torch._int_mm(self.codes[head], keys.codes[head].T).float()
        first, second = products.chunk(2)
        logits = first.add_(second, alpha=1 / FINER).mul_(self.scales[head]).mul_(keys.scales[head])
        logits[:, keys.unknown] += self.apart
        # No logit is larger, so that none overflows; those that vanish beside it have no share in the sum.
        norm, distance, weights = self.norm[head], self.distance[head], self.weights[head]
        peak = norm * keys.norm
        sums = keys.sums(logits.sub_(peak).exp_())
        lse = sums.clamp_min(LEAST_SUM).log() + peak + self.length_weights[head] * keys.lengths.log()
        error = norm * (keys.distance[head] + ROUNDING) + distance * keys.norm
        error = error.where(sums >= LEAST_SUM, NO_BOUND)
        return torch.stack([(weights * lse).sum(0), (weights * error).sum(0)])
