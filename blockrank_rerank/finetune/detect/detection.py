"""Layers and heads found on one half of the lists and measured on the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.evaluation.paired import Difference, Interval, mean_interval, paired_difference
from blockrank_rerank.finetune.detect.choice import Choice, best, candidates, head_ndcg
from blockrank_rerank.finetune.detect.readings import Array, ListReading, check_lists

IN_USE, FIRST_STAGE = "layer and heads in use", "first stage"
"""Rows by which the verdict goes."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a choice, measured on the reporting half.

    Attributes
    ----------
    name : str
        What it is.
    choice : Choice or None
        Nothing for the first stage.
    ndcg : Interval
        Mean nDCG@10.
    gain : Difference or None
        Of the final choice over this one; nothing for that itself.
    """

    name: str
    choice: Choice | None
    ndcg: Interval
    gain: Difference | None


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What was found.

    Attributes
    ----------
    choice : Choice
        Best on the choosing half.
    rows : list of Row
        Measured on the reporting half.
    heat : dict
        Layer → ``[2, H]`` mean nDCG@10 of each head alone, plain and corrected, over all lists.
    choosing, reporting : int
        Lists in each half.
    """

    choice: Choice
    rows: list[Row]
    heat: dict[int, Array]
    choosing: int
    reporting: int

    def config(self, corrected: BlockRankConfig) -> BlockRankConfig:
        """The settings of the choice, made of those with which the lists were read."""
        every = self.choice.heads == tuple(range(self.heat[self.choice.layer].shape[1]))
        return replace(
            corrected,
            scoring_layer=self.choice.layer,
            heads=None if every else self.choice.heads,
            reduction=self.choice.reduction,
            content_free_query=corrected.content_free_query if self.choice.corrected else None,
        )

    def verdict(self) -> str:
        """Say in one line what the differences tell."""
        gains = {row.name: row.gain for row in self.rows}
        first_stage = gains[FIRST_STAGE]
        if first_stage is not None and first_stage.high < 0:
            return f"the {FIRST_STAGE} is better, beyond chance: do not use what was found"
        told = _told(first_stage, FIRST_STAGE)
        if IN_USE not in gains:
            return told
        gain = gains[IN_USE]
        if gain is None:
            return f"the {IN_USE} are the best that was found; {told}"
        return f"{_told(gain, IN_USE)}{'' if gain.low > 0 else ': keep those'}; {told}"

    def numbers(self) -> dict[str, Any]:
        """What JSON holds of it."""
        return {
            "verdict": self.verdict(),
            "choice": asdict(self.choice),
            "choosing": self.choosing,
            "reporting": self.reporting,
            "rows": [asdict(row) for row in self.rows],
            "heat": {str(layer): values.tolist() for layer, values in self.heat.items()},
        }


def find_heads(readings: Sequence[ListReading], today: Choice | None, criterion: str, seed: int) -> Detection:
    """Choose on half of the lists, drawn at random, and measure on the others.

    Parameters
    ----------
    readings : sequence of ListReading
        At least 20, all of the same layers.
    today : Choice, optional
        Where the score is read now; nothing where that layer was not read.
    criterion : str
        Of :data:`CRITERIA`, by which heads of a layer are put in order.
    seed : int
        Of the halves.

    Raises
    ------
    DataError
        For fewer lists.
    """
    check_lists(len(readings))
    mixed = random.Random(seed).sample([*readings], len(readings))
    choosing, reporting = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    found = candidates(choosing, criterion)
    choice = best(choosing, found)
    other = best(reporting, candidates(reporting, criterion))
    named = {"chosen": choice} | ({} if today is None else {IN_USE: today})
    for corrected, name in ((False, "best layer, plain"), (True, "best layer, corrected")):
        named[name] = best(choosing, [each for each in _whole(found) if each.corrected is corrected])
    named["this half's choice"] = other
    return Detection(
        choice=choice,
        rows=[*_rows(named, choice, reporting), _first_stage(choice, reporting)],
        heat={layer: head_ndcg(readings, layer)[-2:] for layer in readings[0].heads},
        choosing=len(choosing),
        reporting=len(reporting),
    )


def _whole(choices: Sequence[Choice]) -> list[Choice]:
    most: dict[int, int] = {}
    for choice in choices:
        most[choice.layer] = max(most.get(choice.layer, 0), len(choice.heads))
    return [choice for choice in choices if len(choice.heads) == most[choice.layer]]


def _rows(named: dict[str, Choice], choice: Choice, readings: Sequence[ListReading]) -> list[Row]:
    chosen = choice.ndcg(readings)
    values = {name: each.ndcg(readings) for name, each in named.items()}
    return [
        Row(
            name=name,
            choice=each,
            ndcg=mean_interval(values[name]),
            gain=None if each == choice else paired_difference(chosen, values[name]),
        )
        for name, each in named.items()
    ]


def _first_stage(choice: Choice, readings: Sequence[ListReading]) -> Row:
    values = [reading.first_stage for reading in readings]
    gain = paired_difference(choice.ndcg(readings), values)
    return Row(name=FIRST_STAGE, choice=None, ndcg=mean_interval(values), gain=gain)


def _told(gain: Difference | None, other: str) -> str:
    """What the choice is beside another, as far as the queries tell."""
    if gain is not None and gain.low > 0:
        return f"better than the {other}, beyond chance"
    if gain is not None and gain.high < 0:
        return f"worse than the {other}, beyond chance"
    return f"these queries cannot tell it from the {other} (the interval holds 0)"
