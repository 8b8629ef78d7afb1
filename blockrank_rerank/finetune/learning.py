"""How a tuning is learnt from lists that were read once."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat

import torch
from torch import Tensor

from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.finetune.frozen_lists import FrozenLists
from blockrank_rerank.finetune.losses import contrastive, list_logits
from blockrank_rerank.finetune.tune_settings import TuneSettings
from blockrank_rerank.model.frozen_scoring import untuned
from blockrank_rerank.model.scores import Lse, raw_score
from blockrank_rerank.model.tuning import Tuning

ONE_CHOOSES = 5
"""Of so many lists one chooses the step whose tuning is kept, and is not learnt from."""

LOOKS = 20
"""Times that a tuning is tried on those, beside the first one, which changes nothing."""

SHARE_TEMPERATURE = 0.05
"""Of InfoNCE on shares of attention (arXiv 2510.05396)."""

ODDS = ("nothing", "log_sharpness")
"""What of a tuning is not learnt but fitted, so that probabilities stay on the model's scale."""


class Learning:
    """A tuning on its way.

    Parameters
    ----------
    engine : Engine
        Whose queries are tuned.
    lists : FrozenLists
        To learn from.
    settings : TuneSettings
        How.
    """

    def __init__(self, engine: Engine, lists: FrozenLists, settings: TuneSettings) -> None:
        torch.manual_seed(settings.seed)
        self._engine, self._lists, self._settings = engine, lists, settings
        self._start = untuned(engine.backbone, settings.query_rank).to(engine.device)
        queries = [*lists.queries]
        random.Random(f"{settings.seed}:learning").shuffle(queries)
        self._choosing, self._learnt = queries[::ONE_CHOOSES], [q for n, q in enumerate(queries) if n % ONE_CHOOSES]
        of_shares = engine.config.reduction == "mean_of_softmax"
        self._temperature = settings.temperature or (SHARE_TEMPERATURE if of_shares else 1.0)

    def result(self) -> tuple[Tuning, int]:
        """Learn; return the tuning of the step that the choosing lists like best, and that step: 0 changes nothing.

        Raises
        ------
        FloatingPointError
            Where the loss becomes NaN, with what to do.
        """
        steps = self._settings.steps
        best, kept, least = self._start, 0, self._mean_loss(self._start)
        for step, tuning in self._steps():
            if step % max(steps // LOOKS, 1) == 0 or step == steps:
                loss = self._mean_loss(tuning)
                if loss < least:
                    best, kept, least = _copied(tuning), step, loss
        return self._with_odds(best), kept

    def _steps(self) -> Iterator[tuple[int, Tuning]]:
        """Take optimiser steps, and give the tuning after each: one that goes on changing."""
        settings, tuning = self._settings, _copied(self._start)
        groups = [
            {"params": [tensor.requires_grad_()], "lr": settings.learning_rate * _step_share(name, tensor)}
            for name, tensor in tuning.tensors.items()
            if name not in ODDS
        ]
        optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
        order = self._order()
        for step in range(1, settings.steps + 1):
            loss = torch.stack([self._loss(q, tuning) for q in islice(order, settings.lists_per_step)]).mean()
            if not math.isfinite(value := loss.item()):
                raise FloatingPointError(f"the loss became {value} in step {step}; lower learning_rate")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            yield step, tuning

    def _order(self) -> Iterator[str]:
        """Go through the lists in one random order after the other, without end."""
        generator = random.Random(f"{self._settings.seed}:order")
        return chain.from_iterable(generator.sample(some, len(some)) for some in repeat(self._learnt))

    def _loss(self, query: str, tuning: Tuning) -> Tensor:
        logits = list_logits(self._lists.lse(query, tuning).documents, self._engine.config.reduction, self._temperature)
        return contrastive(logits, self._lists.grades(query))

    @torch.no_grad()
    def _mean_loss(self, tuning: Tuning) -> float:
        return sum(float(self._loss(query, tuning)) for query in self._choosing) / len(self._choosing)

    @torch.no_grad()
    def _with_odds(self, tuning: Tuning) -> Tuning:
        """Let log odds over all documents have the mean and spread that they have without the tuning."""
        before, after = self._odds(self._start), self._odds(tuning)
        if before is None or after is None or not float(before.std()) or not float(after.std()):
            return tuning
        scale = before.std() / after.std()
        # "None of these" goes where the mean of what is left goes.
        odds = {"nothing": after.mean() - before.mean() / scale, "log_sharpness": scale.log()}
        return Tuning({**tuning.tensors, **odds}, tuning.facts)

    def _odds(self, tuning: Tuning) -> Tensor | None:
        """Raw scores of all documents less that of "none of these"; nothing for a model that never abstains."""
        found = [self._lists.lse(query, tuning) for query in self._lists.queries]
        return torch.cat([raw_score(lse.documents) - _of_nothing(lse) for lse in found]) if _abstain(found) else None


def _step_share(name: str, tensor: Tensor) -> float:
    """Share of the learning rate: AdamW moves all numbers alike, and a signal's weight is a sum over many of them."""
    return float(tensor.shape[-1] ** -0.5) if name == "signal_weight" else 1.0


def _abstain(found: Sequence[Lse]) -> bool:
    return all(lse.nothing is not None for lse in found)


def _of_nothing(lse: Lse) -> Tensor:
    return torch.zeros((), device="cpu") if lse.nothing is None else raw_score(lse.nothing[..., None])


def _copied(tuning: Tuning) -> Tuning:
    return Tuning({name: tensor.detach().clone() for name, tensor in tuning.tensors.items()}, tuning.facts)
