"""A loaded model that computes the log-sum-exps of requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from blockrank_kernels.gpu import triton_for
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.engine.budget import Budget, free_memory
from blockrank_rerank.engine.fingerprint import fingerprint, named_settings
from blockrank_rerank.engine.spec import EngineSpec, Prune, read_prompt, resolve_config
from blockrank_rerank.engine.workers import computing, in_workers, telling, telling_each
from blockrank_rerank.model.answer_decoder import AnswerDecoder
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.devices import resolve_device, resolve_dtype
from blockrank_rerank.model.families import head_counts, head_dim, window_of
from blockrank_rerank.model.layer_scores import refuse_window
from blockrank_rerank.model.layout import Layout, build_layout
from blockrank_rerank.model.probability_map import ProbabilityMap
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.model.stages import HiddenStates, join_hidden, staged_model
from blockrank_rerank.states.document_states import DocumentStates, compress
from blockrank_rerank.states.pack import PassingStates, StatePack, grouped
from blockrank_rerank.states.spill import spill
from blockrank_rerank.system.forks import ForkLock
from blockrank_rerank.text.prompt import EncodedRequest, PromptEncoder, TokenisedBlocks, balanced_ranges

R = TypeVar("R")

WARM_UP_TOKENS = 2048
"""More tokens of documents than one program goes through, so that the query's attention is split as in long lists."""

_budgets = ForkLock()
"""Held while the budget of an engine is changed."""


class Engine:
    """A loaded model with its tokenizer: computes the document log-sum-exps of encoded requests.

    Holds nothing that a call changes but its budget and its stages, so threads can share it. ``prune`` says at which
    layers documents may be dropped (:mod:`blockrank_rerank.engine.pruning`); ``max_memory`` is as in :class:`Budget`.
    Of the stages of another engine, ``is_last`` has all layers. ``probability_map`` is that of a calibration, if there
    is one.
    """

    def __init__(
        self,
        config: BlockRankConfig,
        prompt: PromptEncoder,
        backbone: Backbone,
        prune: Prune = (),
        max_memory: int | None = None,
        is_last: bool = False,
    ) -> None:
        self._is_last = is_last
        self.probability_map: ProbabilityMap | None = None
        self.config, self.prompt, self.backbone, self.prune = config, prompt, backbone, prune
        self.documents_are_independent = config.documents_are_independent
        model_config: Any = backbone.model.config
        self.budget = Budget(self.device, self.dtype, model_config.hidden_size, max_memory, free_memory(self.device))
        self._stages: dict[int, Engine] = {}

    @classmethod
    def load(cls, spec: EngineSpec) -> Engine:
        """Read tokenizer and truncated model.

        Raises
        ------
        FileNotFoundError
            Where the model is not found.
        ImportError, ValueError
            Where it cannot be used as asked.
        """
        checkpoint = spec.checkpoint
        model_config, config = resolve_config(spec)
        prompt = read_prompt(spec, model_config, config)
        if not spec.decodes:
            refuse_windows(model_config, config, prompt, spec.prune)
        device = resolve_device(spec.device)
        dtype = resolve_dtype(spec.dtype, device)
        if spec.attention == "triton":
            _refuse_triton_where_it_cannot_run(model_config, device, dtype)
        kind = AnswerDecoder if spec.decodes else Backbone
        backbone = kind.load(checkpoint, model_config, config, device, dtype, spec.attention, spec.quantization)
        engine = cls(config, prompt, backbone, spec.prune, spec.max_memory)
        if device.type == "cuda":
            warm_up(engine)
        return engine

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.backbone.parameters()).dtype

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that a document's states depend on."""
        return fingerprint(self.config, self.prompt, self.backbone)

    @property
    def settings(self) -> dict[str, Any]:
        """What of the fingerprint has a name."""
        return named_settings(self.config, self.prompt, self.backbone)

    def stage(self, layer: int) -> Engine:
        """The engine that scores after the first ``layer`` layers and shares the weights.

        Where documents are independent of the query, there is one of all layers too, which may go on from others.
        """
        if layer not in self._stages:  # a race of threads makes it twice, alike
            early = replace(self.config, scoring_layer=layer, heads=None, abstention=False)
            self._stages[layer] = staged_engine(self, self.config if layer == self.config.scoring_layer else early)
        return self._stages[layer]

    @torch.inference_mode()
    def score(self, batch: Batch) -> list[Lse]:
        """Compute the log-sum-exps of every request of a batch.

        Several requests are one pass, within the budget. One that is longer goes through in groups of documents,
        which changes no score beyond rounding. What does not depend on each other is shared out among workers.
        """
        if any(isinstance(states, PassingStates) for states in batch.states):
            return self._score(batch)  # they come once
        # Survivors of pruning go through the last stage, within its budget.
        engine = self if batch.hidden is None else self.stage(self.config.scoring_layer)
        return _within_memory(engine, lambda: self._score(batch), _tokens(batch))

    def _score(self, batch: Batch) -> list[Lse]:
        if batch.hidden is not None:
            last = self.stage(self.config.scoring_layer)
            return [Lse.of_groups(in_workers(lambda part: last._read_pass(part)[0], *last._hidden_groups(batch)))]
        if batch.states:
            return self._score_states(batch.requests, batch.states)
        if len(batch.requests) > 1:
            return self._score_several(batch.requests)
        (request,) = batch.requests
        if self.documents_are_independent:
            groups, workers = self.budget.groups(request)
            passes = in_workers(telling(self._score_pass, len(groups)), [[group] for group in groups], workers)
            return [Lse.of_groups([lse for (lse,) in passes])]
        if request.num_tokens <= self.budget.tokens:
            return self._score_pass(batch.requests)
        # The groups' states one after the other, then the query over all of them.
        read = self.states_of(request, self.dtype)
        states = PassingStates(telling_each(read, len(request.documents)))
        return self._score_states([replace(request, documents=[], truncated=[])], [states])

    @torch.inference_mode()
    def read(self, batch: Batch) -> tuple[Lse, HiddenStates]:
        """Score the only request of a batch as a stage does, and return what its layers made of it too.

        Of the last stage, that is what the scoring head reads.
        """
        passes = _within_memory(self, lambda: in_workers(self._read_pass, *self._hidden_groups(batch)), _tokens(batch))
        return Lse.of_groups([lse for lse, _ in passes]), join_hidden([states for _, states in passes])

    @torch.inference_mode()
    def document_states(
        self, texts: Sequence[str], dtype: torch.dtype, tokenised: TokenisedBlocks | None = None
    ) -> Iterator[DocumentStates]:
        """Compute states of documents, one after the other, as many tokens to a pass as the budget allows.

        ``tokenised`` is what is tokenised of them already.
        """
        if texts:
            yield from self.states_of(self.prompt.encode_documents(texts, tokenised), dtype)

    @torch.inference_mode()
    def token_attention(self, request: EncodedRequest, states: StatePack) -> list[Tensor]:
        """Compute where in each document the query looks: ``[n]`` per document, over its tokens, sums to 1.

        The request has the query alone; ``states`` stand for its documents.
        """

        def look() -> Tensor:
            with computing.lock:
                layout = self.layout([request], states.longest)
                return self.backbone.token_attention(layout, [self.budget.parts(states)])[0]

        weights = _within_memory(self, look, request.num_tokens + states.num_tokens)
        return list(weights.cpu().split([*map(len, states.ids)]))

    def _score_several(self, requests: Sequence[EncodedRequest]) -> list[Lse]:
        tokens = [request.num_tokens for request in requests]
        workers = self.budget.workers(sum(tokens))
        ranges = balanced_ranges(tokens, self.budget.passes(sum(tokens), workers))
        parts = [requests[start:end] for start, end in ranges]
        return [lse for part in in_workers(self._score_pass, parts, workers) for lse in part]

    def _score_states(
        self, requests: Sequence[EncodedRequest], states: Sequence[StatePack | PassingStates]
    ) -> list[Lse]:
        packs = [pack for pack in states if isinstance(pack, StatePack)]
        if packs:
            return self._score_pass(requests, [*map(self.budget.parts, packs)], max(pack.longest for pack in packs))
        (passing,) = (passing for passing in states if isinstance(passing, PassingStates))
        if self.documents_are_independent:
            # The scoring layer alone reads them, once. Workers may make them, so that no lock is held.
            return self.backbone.document_lse(self.layout(requests), [grouped(passing, self.budget.tokens)])
        with spill(passing, self.budget.file_bytes, self.dtype) as parts:
            longest = max(pack.longest for pack in parts)
            # Files are parts already.
            joined = parts if self.budget.file_bytes is not None else self.budget.parts(parts[0])
            return self._score_pass(requests, [joined], longest)

    def _score_pass(
        self,
        requests: Sequence[EncodedRequest],
        states: Sequence[Iterable[StatePack]] | None = None,
        longest: int = 0,
    ) -> list[Lse]:
        with computing.lock:
            return self.backbone.document_lse(self.layout(requests, longest), states)

    def _hidden_groups(self, batch: Batch) -> tuple[list[tuple[EncodedRequest, HiddenStates | None]], int]:
        """Part the only request into groups, each with how far it is read already; and the number of workers."""
        (request,) = batch.requests
        groups, workers = self.budget.groups(request)
        counts = [len(group.documents) for group in groups]
        hidden = [None] * len(groups) if batch.hidden is None else batch.hidden.split(counts)
        return [*zip(groups, hidden, strict=True)], workers

    def _read_pass(self, part: tuple[EncodedRequest, HiddenStates | None]) -> tuple[Lse, HiddenStates]:
        request, hidden = part
        layout = self.layout([request])
        start = None if hidden is None else (hidden.layers, hidden.rows(layout.num_tokens))
        (lse,), after, final = self.backbone.staged_lse(layout, start)
        return lse, HiddenStates.of(self.config.scoring_layer, final if self._is_last else after, layout.requests[0])

    def states_of(self, request: EncodedRequest, dtype: torch.dtype) -> Iterator[DocumentStates]:
        """Compute states of an encoded request's documents, which serve its query, one after the other.

        They serve every query where the prompt's documents stand alone.
        """
        made_for = self.budget
        groups, workers = made_for.groups(request.documents_alone)

        def states_of(groups: Sequence[EncodedRequest]) -> list[list[DocumentStates]]:
            if self.budget.tokens < made_for.tokens:  # some did not fit
                groups = [part for group in groups for part in self.budget.groups(group)[0]]
            return in_workers(partial(self._group_states, dtype), groups, workers)

        for first in range(0, len(groups), workers):
            some = groups[first : first + workers]
            tokens = max(group.num_tokens for group in some)
            # A budget that grows while a list goes through could be too large for what comes after.
            for part in _within_memory(self, partial(states_of, some), tokens, can_grow=False):
                yield from part

    def _group_states(self, dtype: torch.dtype, group: EncodedRequest) -> list[DocumentStates]:
        states = self.backbone.document_states(self.layout([group]))
        return [
            DocumentStates(tuple(ids), truncated, compress(tensors, dtype))
            for ids, truncated, tensors in zip(group.documents, group.truncated, states, strict=True)
        ]

    def layout(self, requests: Sequence[EncodedRequest], longest: int = 0) -> Layout:
        """Lay out what one forward pass reads; ``longest`` are the tokens of the longest document that is not in it."""
        # On a CPU, products in 16 bits are compiled for every number of rows, for longer than they take.
        round_length_up = self.device.type == "cpu" and self.dtype.itemsize == 2
        return build_layout(
            requests,
            self.config.query_offset,
            longest,
            round_length_up=round_length_up,
            unknown_id=self.prompt.unknown_id,
        )


def _within_memory(engine: Engine, compute: Callable[[], R], tokens: int, can_grow: bool = True) -> R:
    """Compute so many tokens, and where the device's memory does not suffice, once more with half the budget."""
    budget = engine.budget
    try:
        result = compute()
    except torch.OutOfMemoryError:
        with _budgets:
            # Another thread may have made it smaller by now.
            if engine.budget.tokens >= budget.tokens:
                engine.budget = budget.halved(tokens)
    else:
        if can_grow:
            _count_fit(engine, tokens)
        return result
    # Only here has the error let go of the failed pass's tensors.
    torch.cuda.empty_cache()
    return compute()


def _count_fit(engine: Engine, tokens: int) -> None:
    budget = engine.budget
    if (fitted := budget.fitted(tokens)) is not budget:
        with _budgets:
            # What another thread has made of it in the meantime stays: it may not have fitted there.
            engine.budget = fitted if engine.budget is budget else engine.budget


def _tokens(batch: Batch) -> int:
    """Tokens of a batch's requests, and of the documents that states stand for and that do not come in passing."""
    packs = (states.num_tokens for states in batch.states if isinstance(states, StatePack))
    return sum(request.num_tokens for request in batch.requests) + sum(packs)


def staged_engine(engine: Engine, config: BlockRankConfig) -> Engine:
    """Return an engine that scores at an earlier layer and shares the weights of a whole one."""
    # A scoring head reads what so many layers leave; a layer of the model scores by its own attention.
    head = engine.backbone.head
    model = staged_model(engine.backbone.model, config.scoring_layer + (head is None))
    is_last = config.scoring_layer == engine.config.scoring_layer
    # A tuning is of the scoring layer; heads of an earlier one have nothing to do with it.
    tuning = engine.backbone.tuning if is_last else None
    backbone = Backbone(model, config, head, engine.backbone.attention, tuning)
    return Engine(config, engine.prompt, backbone, max_memory=engine.budget.max_memory, is_last=is_last)


def warm_up(engine: Engine) -> None:
    """Score lists that need every kernel: a GPU compiles or loads each at its first use, for seconds."""
    request = engine.prompt.encode("word", ["word " * 100])
    count = -(-WARM_UP_TOKENS // len(request.documents[0]))
    lists = [replace(request, documents=request.documents * count, truncated=request.truncated * count)]
    if engine.backbone.head is not None and engine.prompt.unknown_id is not None:
        # A head is one number wider where unknown text meets unknown text, and kernels are compiled for a width.
        unread = [engine.prompt.unknown_id]
        lists.append(replace(request, query=unread, documents=[unread]))
    for one in lists:
        engine.score(Batch([one]))


def refuse_windows(model_config: Any, config: BlockRankConfig, prompt: PromptEncoder, prune: Prune = ()) -> None:
    """Refuse layers that score and whose windows hide documents from the shortest of queries; reads no weights.

    Raises
    ------
    ValueError
        Naming the layer, and those that can be chosen.
    """
    if config.scoring_head:  # an appended layer has no window
        return
    windows = [window_of(model_config, layer) for layer in range(model_config.num_hidden_layers)]
    scoring = config.scoring_layer
    cases = [(f"scoring_layer {scoring}", scoring, config.abstention, range(len(windows)))]
    cases += [(f"prune: layer {layer}", layer, False, range(1, scoring)) for layer, _ in prune]
    for name, layer, abstention, choice in cases:
        if windows[layer] is not None:
            layout = build_layout([prompt.encode("?", [""])], config.query_offset)
            refuse_window(name, windows[layer], layout, abstention, [n for n in choice if windows[n] is None])


def _refuse_triton_where_it_cannot_run(model_config: Any, device: torch.device, dtype: torch.dtype) -> None:
    query, key = (
        torch.empty(0, heads, head_dim(model_config), device=device, dtype=dtype) for heads in head_counts(model_config)
    )
    if not (verdict := triton_for(query, key)).usable:
        raise ValueError(f"attention triton cannot run on {device}: {verdict.reason}; use auto or sdpa")
