"""What every layer and head of a model says of judged lists, each list read once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blockrank_rerank.config import CORRECTED_REDUCTION
from blockrank_rerank.engine.spec import EngineSpec, read_prompt, resolve_config, with_content_free_query
from blockrank_rerank.errors import DataError, RequestError
from blockrank_rerank.evaluation.measures import shuffled
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Run
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.devices import resolve_device, resolve_dtype
from blockrank_rerank.model.families import window_of
from blockrank_rerank.model.layer_scores import window_hides
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.model.model_folder import NO_CLASSIFIER
from blockrank_rerank.model.names import shown_model
from blockrank_rerank.model.scores import RULES, LayerReading
from blockrank_rerank.ranking.request import fitting_queries
from blockrank_rerank.text.document import document_text
from blockrank_rerank.text.prompt import PromptEncoder

Array = NDArray[Any]

CUTOFF = 10
"""Of nDCG."""

FEWEST_LISTS = 20
"""Of which half choose and half tell what the choice is worth: of fewer, chance chooses."""


WAYS = (("mean_of_softmax", False), (CORRECTED_REDUCTION, False), (CORRECTED_REDUCTION, True))
"""How log-sum-exps become a score: the rule, and whether a content-free query corrects."""


@dataclass(frozen=True, eq=False)
class ListReading:
    """One judged list, as all layers see it.

    Attributes
    ----------
    grades : ndarray
        ``[N]`` judgements of the candidates; 0 where there is none.
    ideal : float
        DCG@10 of the best order of everything that is judged for the query.
    first_stage : float
        nDCG@10 of the candidates as they were found.
    heads : dict
        Layer → ``[V, H, N]``: what each head scores the documents, in each of the :data:`WAYS`.
    mass : dict
        Layer → ``[H, N]``: the share of all attention that each head gives to a document.
    """

    grades: Array
    ideal: float
    first_stage: float
    heads: dict[int, Array]
    mass: dict[int, Array]

    def ndcg(self, scores: Array) -> Array:
        """``[…]`` nDCG@10 of rankings by ``[…, N]`` scores; ties keep the order of the candidates, which is random."""
        order = np.argsort(-scores, axis=-1, kind="stable")[..., :CUTOFF]
        return _dcg(self.grades[order]) / self.ideal


def _dcg(gains: Array) -> Array:
    return np.asarray((gains / np.log2(np.arange(2, gains.shape[-1] + 2))).sum(-1))


class LayerReader:
    """A whole model that reads lists in all layers at once. Its weights are read with the first list.

    Parameters
    ----------
    spec : EngineSpec
        Of the model.
    content_free_query : str
        Which corrects.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        Where the model cannot be read, has a trained scoring layer, or windows that hide documents from any query.
    """

    def __init__(self, spec: EngineSpec, content_free_query: str) -> None:
        model_config, self.today = resolve_config(spec)
        if self.today.scoring_head:
            raise ValueError(
                f"detect looks for heads of a model's own layers, and model {shown_model(spec.checkpoint.model)!r} has "
                "a trained scoring layer after them (scoring_head): give it a language model"
            )
        given = self.today
        if spec.config is None and spec.checkpoint.own_config() is None:
            given = replace(self.today, signal_tokens="all")
            warnings.warn(
                f"model {shown_model(spec.checkpoint.model)!r} has no settings of its own: every layer and head is "
                'read at all tokens of the query block, and the settings found say so (signal_tokens "all"); the '
                f"released last {self.today.signal_tokens} are for the model that was trained there",
                stacklevel=2,
            )
        # What is found goes by the query-free prompt, corrected or not: both were read with it.
        self.corrected = with_content_free_query(given, content_free_query)
        self.layers = int(model_config.num_hidden_layers)
        self.was_cut = getattr(model_config, "sentence_transformers", None) == {"version": NO_CLASSIFIER}
        """Whether this package wrote the model, without the layers after its scoring layer."""
        # Every layer is read, by all of its heads.
        self.config = replace(self.corrected, scoring_layer=self.layers - 1, heads=None, abstention=False)
        whole = spec.with_config(self.config)
        self.prompt: PromptEncoder = read_prompt(whole, model_config, self.config)
        shortest = build_layout([self.prompt.encode("?", [""])], self.config.query_offset)
        windows = [window_of(model_config, layer) for layer in range(self.layers)]
        if all(window_hides(window, shortest) is not None for window in windows):
            raise self._hidden()
        self._spec, self._model_config, self._device = spec, model_config, resolve_device(spec.device)
        self.cut = 0
        """Lists read by now of which a document was longer than its block."""

    @cached_property
    def _backbone(self) -> Backbone:
        spec, device = self._spec, self._device
        dtype = resolve_dtype(spec.dtype, device)
        return Backbone.load(spec.checkpoint, self._model_config, self.config, device, dtype, spec.attention)

    @torch.inference_mode()
    def read(self, query: str, documents: list[str]) -> dict[int, LayerReading]:
        """Read one list; layers whose window hides documents from the query are not there.

        Raises
        ------
        ValueError
            Where no layer is.
        """
        request = self.prompt.encode(query, documents)
        self.cut += any(request.truncated)
        layers = self._backbone.layer_readings(build_layout([request], self.config.query_offset))
        if not layers:
            raise self._hidden()
        return layers

    def _hidden(self) -> ValueError:
        return ValueError(
            "no layer can be read: the sliding window of each hides documents from the query at query_offset "
            f"{self.config.query_offset}; lower it in a config (--config)"
        )


def check_lists(count: int) -> None:
    """Refuse so few lists that chance would choose.

    Raises
    ------
    DataError
        Saying what to do.
    """
    if count < FEWEST_LISTS:
        raise DataError(
            f"detect needs at least {FEWEST_LISTS} queries whose candidates are relevant in part, got {count}: half of "
            "them choose and half tell what the choice is worth; give more (--queries), more candidates (--depth), or "
            "another collection"
        )


def judged_lists(task: Task, depth: int) -> Run:
    """The candidates of each query of which a ranking can be better or worse; warns of those left out.

    Raises
    ------
    DataError
        Where these are too few.
    """
    lists: Run = {}
    for query in task.collection.queries:
        found = dict([*task.first_stage.get(query, {}).items()][:depth])
        judged = task.collection.qrels[query]
        if len({max(judged.get(document, 0), 0) for document in found}) > 1:
            lists[query] = found
    if left_out := len(task.collection.queries) - len(lists):
        warnings.warn(
            f"{left_out} of {len(task.collection.queries)} queries are left out: all of their candidates are judged "
            "alike, or they have fewer than two",
            stacklevel=2,
        )
    check_lists(len(lists))
    return lists


def read_lists(
    reader: LayerReader, task: Task, lists: Run, seed: int, advance: Callable[[int, int], None]
) -> list[ListReading]:
    """Read every list once, in all layers; warns where documents were cut.

    Raises
    ------
    DataError
        For a query that the model cannot read, before the first list is read.
    ValueError
        Where the windows of all layers hide documents from the query.
    """
    try:
        queries = fitting_queries({query: task.collection.queries[query] for query in lists}, reader.prompt)
    except RequestError as error:
        raise DataError(str(error)) from error
    readings = []
    # No layer may profit from the order of the first stage.
    for query, mixed in shuffled(lists, seed).items():
        texts = [document_text(task.corpus[document], index) for index, document in enumerate(mixed)]
        layers = reader.read(queries[query], texts)
        reading = _reading(task.collection.qrels[query], [*lists[query]], [*mixed], layers)
        readings.append(reading)
        advance(1, 0)
    if reader.cut:
        warnings.warn(
            f"documents of {reader.cut} of {len(lists)} lists are longer than a block (max_document_tokens "
            f"{reader.config.max_document_tokens}); their beginnings alone are read: raise --max-document-tokens, or "
            "cut them into passages, so that the relevant ones are those that answer",
            stacklevel=2,
        )
    return readings


def _reading(
    judged: dict[str, int], found: list[str], order: list[str], layers: dict[int, LayerReading]
) -> ListReading:
    grades = {document: max(grade, 0) for document, grade in judged.items()}
    best = sorted(grades.values(), reverse=True)[:CUTOFF]
    ideal = float(_dcg(np.array(best)))
    first = _dcg(np.array([grades.get(document, 0) for document in found[:CUTOFF]]))
    return ListReading(
        grades=np.array([grades.get(document, 0) for document in order]),
        ideal=ideal,
        first_stage=float(first) / ideal,
        heads={layer: _head_scores(reading) for layer, reading in layers.items()},
        mass={layer: _mass(reading) for layer, reading in layers.items()},
    )


def _head_scores(reading: LayerReading) -> Array:
    """``[V, H, N]``, of which the mean over heads is the layer's score."""
    lse, nothing = reading.documents, reading.content_free.mean(0)
    parts = ((RULES[reduction].logit, lse - nothing if corrected else lse) for reduction, corrected in WAYS)
    ways = [torch.stack([logit(part[:, [head]]) for head in range(lse.shape[1])]) for logit, part in parts]
    return np.asarray(torch.stack(ways).cpu().numpy())


def _mass(reading: LayerReading) -> Array:
    everything = torch.logaddexp(reading.documents.logsumexp(-1), reading.rest)
    return np.asarray((reading.documents - everything[..., None]).exp().mean(0).cpu().numpy())
