"""The lists of a run, drawn one by one and encoded into packs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch.utils.data import Dataset

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.finetune.data import Candidate, ListSampler, MixtureSampler, TrainingExample
from blockrank_rerank.finetune.data.joined_rows import joined, query_key, relevant_texts
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.training_model import Targets
from blockrank_rerank.model.layout import Layout, build_layout
from blockrank_rerank.text.prompt import EncodedRequest, PromptEncoder


@dataclass(frozen=True)
class TrainingList:
    """A query with candidates in the order in which the model sees them."""

    query: str
    candidates: list[Candidate]
    query_free: bool


class TrainingLists(Dataset[TrainingList]):
    """The lists of a run, of which list ``i`` depends on the seed and ``i`` alone: a run can go on anywhere.

    Parameters
    ----------
    collections : sequence of sequences of TrainingExample
        One per source of the settings; examples of one query are joined.
    settings : FinetuneSettings
        Size of the lists and of the run.
    count : int
        Lists in the run.
    """

    def __init__(
        self, collections: Sequence[Sequence[TrainingExample]], settings: FinetuneSettings, count: int
    ) -> None:
        collections = [joined(collection) for collection in collections]
        self._collections, self._settings, self._count = collections, settings, count
        weights = [source.weight for source in settings.data]
        shares = None if None in weights else [float(weight) for weight in weights if weight is not None]
        self._mixture = MixtureSampler([len(c) for c in collections], weights=shares, seed=settings.seed)
        self._sampler = ListSampler(settings.max_positives)
        # Of all collections: one's positive must not fill up a list of the same query in another.
        self._relevant = relevant_texts(chain.from_iterable(collections))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> TrainingList:
        settings = self._settings
        source, number = self._mixture[index]
        collection = self._collections[source]
        generator = random.Random(f"{settings.seed}:list:{index}")
        example = collection[number]
        empty = generator.random() < settings.empty_share
        query_free = generator.random() < settings.query_free_share
        size = settings.documents_per_list
        draw = partial(self._sampler.sample, relevant=self._relevant[query_key(example.query)])
        candidates = draw(example, size, generator, collection, without_positives=empty)
        # A collection may have nothing but this example's positives.
        candidates = candidates or draw(example, size, generator, collection)
        return TrainingList(example.query, candidates, query_free)


class Collator:
    """Encodes lists into one pack.

    Parameters
    ----------
    prompt, query_free_prompt : PromptEncoder
        The model's prompt, and the one whose instruction holds no query.
    config : BlockRankConfig
        Settings of the model.
    with_answers : bool
        Whether the answer follows the query, for the next-token loss.
    """

    def __init__(
        self, prompt: PromptEncoder, query_free_prompt: PromptEncoder, config: BlockRankConfig, with_answers: bool
    ) -> None:
        self._prompt, self._query_free, self._config = prompt, query_free_prompt, config
        self._with_answers, self._warned = with_answers, False

    def __call__(self, lists: list[TrainingList]) -> dict[str, Layout | list[Targets]]:
        """Return the arguments of :class:`TrainingModel` for these lists."""
        requests = [self._encode(training_list) for training_list in lists]
        return {
            "layout": build_layout(requests, self._config.query_offset),
            "targets": [_targets(training_list.candidates) for training_list in lists],
        }

    def _encode(self, training_list: TrainingList) -> EncodedRequest:
        query, candidates = training_list.query, training_list.candidates
        prompt = self._query_free if training_list.query_free else self._prompt
        request = prompt.encode(query, [candidate.text for candidate in candidates])
        if any(request.truncated) and not self._warned:
            self._warned = True
            warnings.warn(
                f"documents of the query {query[:60]!r} are longer than the model's blocks; training reads the "
                "beginning alone, of these and of others like them: cut them into passages, so that the relevant ones "
                "are those that answer",
                stacklevel=2,
            )
        if self._with_answers:
            relevant = [index for index, candidate in enumerate(candidates) if candidate.grade > 0]
            request.answer.extend(prompt.encode_answer(relevant))
        return request


def _targets(candidates: list[Candidate]) -> Targets:
    scores = [candidate.teacher_score for candidate in candidates]
    return Targets(
        grades=torch.tensor([float(candidate.grade) for candidate in candidates], device="cpu"),
        teacher=torch.tensor([float("nan") if score is None else score for score in scores], device="cpu"),
    )
