"""A layer, its heads, and whether they are corrected: chosen on some lists, measured on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blockrank_rerank.finetune.detect.readings import WAYS, Array, ListReading

TEMPERATURE = 0.05
"""Of the contrast between documents, in parts of the span from the worst to the best."""


@dataclass(frozen=True)
class Choice:
    """What a config says of where the score is read.

    Attributes
    ----------
    layer : int
        From 0.
    heads : tuple of int
        Ascending; of all, every one.
    reduction : str
        How the score is made of log-sum-exps, as a config names it.
    corrected : bool
        Whether a content-free query's log-sum-exps are subtracted.
    """

    layer: int
    heads: tuple[int, ...]
    reduction: str
    corrected: bool

    @property
    def way(self) -> int:
        """Its number among the ways to make a score."""
        return WAYS.index((self.reduction, self.corrected))

    def scores(self, reading: ListReading) -> Array:
        """``[N]``, of one list."""
        return np.asarray(reading.heads[self.layer][self.way, list(self.heads)].mean(0))

    def ndcg(self, readings: Sequence[ListReading]) -> list[float]:
        """NDCG@10 of every list."""
        return [float(reading.ndcg(self.scores(reading))) for reading in readings]


def head_ndcg(readings: Sequence[ListReading], layer: int) -> Array:
    """``[V, H]`` mean nDCG@10 of each head of a layer alone, in each way."""
    return np.asarray(np.mean([reading.ndcg(reading.heads[layer]) for reading in readings], axis=0))


def _contrast(readings: Sequence[ListReading], layer: int) -> Array:
    """How far relevant documents stand out, as CoRe selects heads (arXiv 2510.02219)."""
    worth = []
    for reading in readings:
        scores = reading.heads[layer]
        # Shares and log-sum-exps are of another size.
        scores = scores / (TEMPERATURE * np.ptp(scores, axis=-1, keepdims=True).clip(1e-9))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        relevant, others = shares[..., reading.grades > 0], shares[..., reading.grades == 0].sum(-1, keepdims=True)
        worth.append((relevant / (relevant + others)).mean(-1))
    return np.asarray(np.mean(worth, axis=0))


def _relevant_mass(readings: Sequence[ListReading], layer: int) -> Array:
    """How much of its attention a head gives to relevant documents, as QRHead selects heads (arXiv 2506.09944)."""
    mass = np.mean([reading.mass[layer][:, reading.grades > 0].sum(-1) for reading in readings], axis=0)
    return np.stack([mass] * len(WAYS))


CRITERIA: dict[str, Callable[[Sequence[ListReading], int], Array]] = {
    "ndcg": head_ndcg,
    "contrastive": _contrast,
    "mass": _relevant_mass,
}
"""By name: ``[V, H]`` of what makes one head of a layer better than another, in each way."""


def candidates(readings: Sequence[ListReading], criterion: str) -> list[Choice]:
    """Every layer with all of its heads, and with its best 1, 2, 4, … by a criterion."""
    found = []
    for layer in readings[0].heads:
        worth = CRITERIA[criterion](readings, layer)
        count = worth.shape[1]
        sizes = [count, *(1 << power for power in reversed(range(count.bit_length())) if 1 << power < count)]
        for way, (reduction, corrected) in enumerate(WAYS):
            order = np.argsort(-worth[way], kind="stable")
            for size in sizes:
                heads = tuple(sorted(int(head) for head in order[:size]))
                found.append(Choice(layer, heads, reduction, corrected))
    return found


def best(readings: Sequence[ListReading], choices: Sequence[Choice]) -> Choice:
    """The choice of the highest mean nDCG@10; of equals the first, which has more heads."""
    return max(choices, key=lambda choice: float(np.mean(choice.ndcg(readings))))
