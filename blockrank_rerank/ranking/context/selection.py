"""Which sentences are taken, within a budget."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from blockrank_rerank.ranking.context.sentence import Sentence

NEAR_DUPLICATE = 0.95
"""Cosine of mean keys from which sentences of two documents say the same: between those of lightly edited documents and
those of the closest others, on a training collection (dev/LOG.md)."""

BUDGET, NOT_READ = "budget", "not read"
"""Why a sentence is not in a context."""

_WORD = re.compile(r"\w+")


class Selection(NamedTuple):
    """Sentences that were taken, best first, and why the others were not: a reason, or who has a near-duplicate."""

    taken: list[Sentence]
    reasons: dict[Sentence, str]
    duplicates: dict[Sentence, int]


def select(
    sentences: Sequence[Sentence], budget: int, cost: Callable[[Sentence, bool], int], diversity: float
) -> Selection:
    """Take the best sentences that fit, and none that says what one before says.

    Parameters
    ----------
    sentences : sequence of Sentence
        The candidates.
    budget : int
        Tokens.
    cost : callable
        A sentence, and whether it is the first of its document, to tokens.
    diversity : float
        In 0–1: what the likeness to the sentences taken before weighs against the score (maximal marginal relevance,
        Carbonell and Goldstein 1998). With 0 the score alone counts.
    """
    selection = Selection([], {sentence: NOT_READ for sentence in sentences if sentence.key is None}, {})
    read = [sentence for sentence in sentences if sentence.key is not None]
    if not read:
        return selection
    relevance, taken = _between_0_and_1([sentence.score or 0.0 for sentence in read]), _Taken(read)
    waiting = torch.ones(len(read), dtype=torch.bool, device="cpu")
    for _ in read:
        utility = (1 - diversity) * relevance - diversity * taken.likeness
        number = int(utility.masked_fill(~waiting, -torch.inf).argmax())
        waiting[number] = False
        sentence = read[number]
        is_first = all(other.index != sentence.index for other in selection.taken)
        if taken.likeness[number] >= NEAR_DUPLICATE:
            selection.duplicates[sentence] = read[int(taken.nearest[number])].index
        elif (price := cost(sentence, is_first)) > budget:
            selection.reasons[sentence] = BUDGET
        else:
            budget -= price
            selection.taken.append(sentence)
            taken.add(number)
    return selection


class _Taken:
    """How like each sentence is to those that were taken: ``[n]``, and the number of the most like.

    Keys know their context, so that neighbours in a document are alike whatever they say: there, words alone count.
    """

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        self._keys = torch.stack([sentence.key for sentence in sentences if sentence.key is not None])
        # Of what has none, such as emoji, the text itself.
        self._words = [_WORD.findall(sentence.text.casefold()) or sentence.text for sentence in sentences]
        self._documents = torch.tensor([sentence.index for sentence in sentences], device="cpu")
        self.likeness = torch.zeros(len(sentences), dtype=torch.float32, device="cpu")
        self.nearest = torch.zeros(len(sentences), dtype=torch.int64, device="cpu")

    def add(self, number: int) -> None:
        """Take one more."""
        neighbours = self._documents == self._documents[number]
        same = torch.tensor([words == self._words[number] for words in self._words], device="cpu")
        likeness = (self._keys @ self._keys[number]).masked_fill(neighbours, 0.0).masked_fill(same, 1.0)
        self.nearest = torch.where(likeness > self.likeness, number, self.nearest)
        self.likeness = torch.maximum(self.likeness, likeness)


def _between_0_and_1(scores: Sequence[float]) -> Tensor:
    values = torch.tensor(scores, dtype=torch.float32, device="cpu")
    return (values - values.min()) / (values.max() - values.min()).clamp_min(torch.finfo(values.dtype).tiny)
