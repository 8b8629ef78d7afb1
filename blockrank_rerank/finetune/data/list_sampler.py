"""The list of one training step, drawn from an example."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from blockrank_rerank.finetune.data.example import Candidate, TrainingExample

# Draws per missing document before a pool is taken to hold nothing new.
PATIENCE = 20


class ListSampler:
    """Draws the list of one training step from an example.

    Parameters
    ----------
    max_positives : int
        Most relevant documents in a list.
    """

    def __init__(self, max_positives: int = 1) -> None:
        if max_positives < 1:
            raise ValueError(f"max_positives must be at least 1, got {max_positives}")
        self._max_positives = max_positives

    def sample(
        self,
        example: TrainingExample,
        size: int,
        rng: random.Random,
        pool: Sequence[TrainingExample | str] = (),
        *,
        without_positives: bool = False,
        relevant: Collection[str] = (),
    ) -> list[Candidate]:
        """Draw the list of one step from an example, and from a pool where that is too short.

        Parameters
        ----------
        example : TrainingExample
            Its relevant documents are drawn first, its others afterwards, all without replacement. A text that
            appears twice counts once, and as relevant if it is relevant once.
        size : int
            Length of the list.
        rng : random.Random
            Source of chance.
        pool : sequence of TrainingExample or str
            Where random documents come from when the example has too few: texts, or examples of the same
            collection, one of whose documents is taken. Documents of the example itself are never taken.
        without_positives : bool
            Draw a list in which nothing is relevant.
        relevant : collection of str
            Texts that are known to be relevant to the query, from other examples: never drawn as irrelevant.

        Returns
        -------
        list of Candidate
            In random order; shorter than `size` only if the pool holds too few other documents.

        Raises
        ------
        ValueError
            For a list too short to hold a relevant document and another.
        """
        least = 1 if without_positives else 2
        if size < least:
            raise ValueError(f"size must be at least {least}, got {size}")
        positives = _unique(example.positives)
        negatives = [
            found
            for text, found in _unique(example.negatives).items()
            if text not in positives and text not in relevant
        ]
        count = 0 if without_positives else min(self._max_positives, len(positives), size - 1)
        drawn = rng.sample(list(positives.values()), count)
        drawn += rng.sample(negatives, min(len(negatives), size - count))
        taken = {candidate.text for candidate in example.candidates}.union(relevant)
        drawn += _fill(taken, size - len(drawn), rng, pool)
        rng.shuffle(drawn)
        return drawn


def _unique(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    unique: dict[str, Candidate] = {}
    for candidate in candidates:
        unique.setdefault(candidate.text, candidate)
    return unique


def _fill(taken: set[str], missing: int, rng: random.Random, pool: Sequence[TrainingExample | str]) -> list[Candidate]:
    if missing < 1 or not pool:
        return []
    filled: list[Candidate] = []
    for _ in range(missing * PATIENCE):
        text = _text(pool[rng.randrange(len(pool))], rng)
        if text not in taken:
            taken.add(text)
            filled.append(Candidate(text, 0.0))
            if len(filled) == missing:
                break
    return filled


def _text(source: TrainingExample | str, rng: random.Random) -> str:
    return source if isinstance(source, str) else rng.choice(source.candidates).text
