from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any

import torch
from blockrank_kernels.gpu import triton_on
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.spec import EngineSpec, Prune, resolve_config
from blockrank_rerank.engine.workers import in_workers, worker_count
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.devices import (
    ACCELERATOR_BUDGET_TOKENS,
    BUDGET_TOKENS,
    MOST_WORKERS,
    resolve_device,
    resolve_dtype,
)
from blockrank_rerank.model.families import position_limit
from blockrank_rerank.model.layout import Layout, build_layout
from blockrank_rerank.model.linear import plain_tensors
from blockrank_rerank.model.stages import Begun, joined, staged_model
from blockrank_rerank.states.digest import tensor_bytes
from blockrank_rerank.states.document_states import DocumentStates, StatePack, compress, grouped
from blockrank_rerank.states.spill import packed
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import Document
from blockrank_rerank.text.prompt import EncodedRequest, PromptEncoder, even_runs, split

LEAST_SHARE = 1024
"""Packed tokens of a pass that is worth a worker of its own."""

NO_ARCHITECTURE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Keys of a model's config.json on which no state depends."""

LEAST_TOKENS = 256
"""Budget of a pass below which no limit on memory goes."""

LIMIT_SHARE = 8
"""A file of states takes at most this part of a limit of memory: it is held twice, beside a forward pass."""

BEGUN_TOKENS = 65536
"""Tokens of a list whose states are kept while documents are pruned, at most: 50 MB for the default model in bf16.

Survivors of a longer list are read anew.
"""

ACTIVATIONS = 16
"""Values of the width of the states that a token needs in a pass, at most; 9 to 11 were counted (dev/LOG.md)."""


class Engine:
    """A loaded model with its tokenizer: encodes requests and computes their document log-sum-exps.

    Holds nothing that a call changes, so threads can share it. ``prune`` says at which layers documents may be
    dropped; see :mod:`blockrank_rerank.engine.pruning`. ``max_memory`` are the bytes that a ranking may take beside the
    weights: half for a forward pass, half for states that the query reads, a part of one layer at a time.
    """

    def __init__(
        self,
        config: BlockRankConfig,
        prompt: PromptEncoder,
        backbone: Backbone,
        prune: Prune = (),
        max_memory: int | None = None,
    ) -> None:
        self.config, self.prompt, self.backbone, self.prune = config, prompt, backbone, prune
        self.max_memory = max_memory
        early = [replace(config, scoring_layer=layer, heads=None, abstention=False) for layer, _ in prune]
        stages = [*early, config] if prune and self._documents_are_independent else early
        self._stages = {one.scoring_layer: self._stage(one) for one in stages}

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
        tokenizer = checkpoint.tokenizer(model_config.vocab_size)
        prompt = PromptEncoder(tokenizer, config, position_limit(config, model_config))
        device = resolve_device(spec.device)
        _refuse_triton_where_it_cannot_run(spec.attention, device)
        backbone = Backbone.load(
            checkpoint,
            model_config,
            config,
            device,
            resolve_dtype(spec.dtype, device),
            spec.attention,
            spec.quantization,
        )
        return cls(config, prompt, backbone, spec.prune, spec.max_memory)

    def stage(self, layer: int) -> Engine:
        """The engine that scores after the first ``layer`` layers, at one of which this one prunes.

        It shares the weights. Where documents are independent of the query, there is one of all layers too.
        """
        return self._stages[layer]

    def _stage(self, config: BlockRankConfig) -> Engine:
        # A scoring head reads what so many layers leave; a layer of the model scores by its own attention.
        head = self.backbone.head
        model = staged_model(self.backbone.model, config.scoring_layer + (head is None))
        backbone = Backbone(model, config, head, self.backbone.attention)
        return Engine(config, self.prompt, backbone, max_memory=self.max_memory)

    def blocks(
        self,
        query: str,
        documents: Sequence[Document],
        texts: Sequence[str],
        fits: Callable[[str], bool] = lambda text: False,
        first: int = 0,
    ) -> Blocks:
        """The blocks in which documents are read; ``fits`` and ``first`` as in :meth:`PromptEncoder.passages`."""
        return Blocks.of(query, documents, texts, self.prompt, fits, first)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.backbone.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def budget_tokens(self) -> int:
        """Packed tokens that one forward pass should not exceed."""
        return min(self._tokens_at_once, self._tokens_of_device)

    @property
    def file_bytes(self) -> int | None:
        """Most bytes of states to write to one file, where memory is limited."""
        return None if self.max_memory is None else self.max_memory // LIMIT_SHARE

    @property
    def _tokens_at_once(self) -> int:
        """Packed tokens that the passes of all workers together should not exceed."""
        most = self._tokens_of_device * worker_count(self._most_workers)
        if self.max_memory is None:
            return most
        shape: Any = self.backbone.model.config
        token = ACTIVATIONS * shape.hidden_size * self.dtype.itemsize
        return min(most, max(self.max_memory // 2 // token, LEAST_TOKENS))

    @property
    def _tokens_of_device(self) -> int:
        return BUDGET_TOKENS.get(self.device.type, ACCELERATOR_BUDGET_TOKENS)

    @property
    def _most_workers(self) -> int:
        return MOST_WORKERS if self.device.type == "cpu" else 1

    @torch.inference_mode()
    def document_scores(self, requests: Sequence[EncodedRequest]) -> list[Tensor]:
        """Log-sum-exps of every request, as :class:`Backbone` returns them.

        Several requests are one pack, within the budget. One that is longer goes through in groups of documents,
        which changes no score beyond rounding. What does not depend on each other is shared out among workers.
        """
        if len(requests) > 1:
            tokens = [request.num_tokens for request in requests]
            workers = self._workers(sum(tokens))
            parts = [requests[start:end] for start, end in even_runs(tokens, workers)]
            return [lse for part in in_workers(self._pass, parts, workers) for lse in part]
        if self._documents_are_independent:
            groups, workers = self._groups(requests[0])
            return [self._joined([lse for (lse,) in in_workers(self._pass, [[one] for one in groups], workers)])]
        if requests[0].num_tokens <= self.budget_tokens:
            return self._pass(requests)
        return [self._one_by_one(requests[0])]

    def keeps_begun(self, request: EncodedRequest) -> bool:
        """Whether survivors of early layers go on from there: where no document changes another, and all have room."""
        if not self._documents_are_independent or request.num_tokens > BEGUN_TOKENS:
            return False
        shape: Any = self.backbone.model.config
        # Twice: those that go on are copied out of all.
        nbytes = 2 * request.num_tokens * shape.hidden_size * self.dtype.itemsize
        return self.max_memory is None or nbytes <= self.max_memory // 2

    @torch.inference_mode()
    def scores_and_states(self, request: EncodedRequest, begun: Begun | None = None) -> tuple[Tensor, Begun]:
        """Log-sum-exps of a stage, and what it makes of the request, from ``begun`` on where there is any."""
        parts, workers = self._begun_groups(request, begun)
        passed = in_workers(self._stage_pass, parts, workers)
        made = [Begun.of(self.config.scoring_layer, states, layout.requests[0]) for _, states, layout in passed]
        return self._joined([lse for lse, _, _ in passed]), joined(made)

    @torch.inference_mode()
    def scores_of_begun(self, request: EncodedRequest, begun: Begun) -> Tensor:
        """Log-sum-exps of a request that the engine's stages have begun."""
        last = self.stage(self.config.scoring_layer)
        parts, workers = last._begun_groups(request, begun)
        return self._joined(in_workers(lambda part: last._stage_pass(part)[0], parts, workers))

    def _begun_groups(
        self, request: EncodedRequest, begun: Begun | None
    ) -> tuple[list[tuple[EncodedRequest, Begun | None]], int]:
        groups, workers = self._groups(request)
        own = begun.split([len(one.documents) for one in groups]) if begun else [None] * len(groups)
        return [*zip(groups, own, strict=True)], workers

    def _stage_pass(self, part: tuple[EncodedRequest, Begun | None]) -> tuple[Tensor, Tensor, Layout]:
        request, begun = part
        layout = self._layout([request])
        given = None if begun is None else (begun.layers, begun.rows(layout.num_tokens))
        (lse,), states = self.backbone.staged_scores(layout, given)
        return lse, states, layout

    def _pass(self, requests: Sequence[EncodedRequest]) -> list[Tensor]:
        return self.backbone.document_scores(self._layout(requests))

    def _layout(self, requests: Sequence[EncodedRequest], longest_kept: int = 0) -> Layout:
        # On a CPU, products in 16 bits are compiled for every number of rows, for longer than they take.
        few_lengths = self.device.type == "cpu" and self.dtype.itemsize == 2
        return build_layout(requests, self.config.query_offset, longest_kept, few_lengths=few_lengths)

    def _workers(self, tokens: int) -> int:
        """Workers that are worth while for so many tokens."""
        return worker_count(min(self._most_workers, min(tokens, self._tokens_at_once) // LEAST_SHARE))

    def _groups(self, request: EncodedRequest) -> tuple[list[EncodedRequest], int]:
        """Parts of a request that are a pass each, as many for every worker, and the number of workers."""
        tokens, workers = request.num_tokens, self._workers(request.num_tokens)
        rounds = -(-tokens // min(self._tokens_at_once, workers * self.budget_tokens))
        return split(request, rounds * workers), workers

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Scores of groups of one list, side by side."""
        # The instruction, first where the model may abstain, is the same in every part.
        documents = [part[..., int(self.config.abstention) :] for part in parts[1:]]
        return torch.cat([parts[0], *documents], -1)

    def _one_by_one(self, request: EncodedRequest) -> Tensor:
        """The groups' states one after the other, then the query over all of them."""
        states = self._states(replace(request, query=[]), self.dtype)
        return self.scores_of_passing(replace(request, documents=[], truncated=[]), states)

    def reads_states_in_passing(self, tokens: int) -> bool:
        """Whether a list of so many tokens is better not joined: it would not share a pass with others anyway."""
        return self._documents_are_independent and tokens > self.budget_tokens

    @torch.inference_mode()
    def scores_of_passing(self, alone: EncodedRequest, states: Iterable[DocumentStates]) -> Tensor:
        """The same for a request without documents, whose states come one after the other."""
        if self._documents_are_independent:
            # The scoring layer alone reads them, once.
            return self._scores_of_parts([alone], [grouped(states, self.budget_tokens)])[0]
        with packed(states, self.file_bytes, self.dtype) as parts:
            return self._scores_of_parts([alone], [parts], max(pack.longest for pack in parts))[0]

    @torch.inference_mode()
    def scores_of_kept(self, requests: Sequence[EncodedRequest], kept: Sequence[StatePack]) -> list[Tensor]:
        """The same for requests without documents, whose states are kept."""
        longest = max(pack.longest for pack in kept)
        return self._scores_of_parts(requests, [self._parts(pack) for pack in kept], longest)

    def _parts(self, pack: StatePack) -> list[StatePack]:
        # Joined, states take several times their room; so they are joined for every query anew.
        fits = self.max_memory is None or pack.num_tokens <= self.budget_tokens
        return [pack] if fits else pack.split(self.budget_tokens)

    def _scores_of_parts(
        self, requests: Sequence[EncodedRequest], kept: Sequence[Iterable[StatePack]], longest: int = 0
    ) -> list[Tensor]:
        return self.backbone.document_scores(self._layout(requests, longest), kept)

    @torch.inference_mode()
    def document_states(self, texts: Sequence[str], dtype: torch.dtype) -> Iterator[DocumentStates]:
        """States of documents, one after the other, as many tokens to a pass as the budget allows."""
        if texts:
            yield from self._states(self.prompt.encode_documents(texts), dtype)

    def _states(self, request: EncodedRequest, dtype: torch.dtype) -> Iterator[DocumentStates]:
        """States of the documents of a request without a query."""
        groups, workers = self._groups(request)
        for first in range(0, len(groups), workers):
            for part in in_workers(partial(self._group_states, dtype), groups[first : first + workers], workers):
                yield from part

    def _group_states(self, dtype: torch.dtype, group: EncodedRequest) -> list[DocumentStates]:
        made = self.backbone.document_states(self._layout([group]))
        return [
            DocumentStates(tuple(ids), truncated, compress(tensors, dtype))
            for ids, truncated, tensors in zip(group.documents, group.truncated, made, strict=True)
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that a document's states depend on: weights, dtype, both configs, tokenizer."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(asdict(self.config), sort_keys=True).encode())
        digest.update(self._architecture.encode())
        digest.update(self.prompt.tokenizer_digest.encode())
        digest.update(self.prompt.beginning.encode("utf-8", "surrogatepass"))
        for name, parameter in sorted(self.backbone.named_parameters()):
            for tensor in plain_tensors(parameter.detach()):
                for part in tensor_bytes(name, tensor):
                    digest.update(part)
        return digest.hexdigest()

    @property
    def _architecture(self) -> str:
        """What the model's config.json says beyond its class's defaults, which change with Transformers."""
        config: Any = self.backbone.model.config
        told = {name: value for name, value in config.to_diff_dict().items() if name not in NO_ARCHITECTURE}
        return json.dumps(told, sort_keys=True, default=str)

    @property
    def settings(self) -> dict[str, Any]:
        """What of the fingerprint has a name: dtype of the model, its configs, and its prompt's parts."""
        config = asdict(self.config)
        prompt = {f"prompt.{name}": value for name, value in config.pop("prompt").items()}
        tensors = (tensor for parameter in self.backbone.parameters() for tensor in plain_tensors(parameter))
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        own = {"dtype of the model": ", ".join(dtypes), "config.json": self._architecture}
        own["beginning of the chat template"] = self.prompt.beginning
        return own | config | prompt

    @torch.inference_mode()
    def token_attention(self, request: EncodedRequest) -> list[Tensor]:
        """Where in each document the query looks: ``[n]`` per document, over its tokens, sums to 1."""
        groups, workers = self._groups(request) if self._documents_are_independent else ([request], 1)
        attention = torch.cat(in_workers(self._attention, groups, workers))
        return list(attention.cpu().split([len(document) for document in request.documents]))

    def _attention(self, request: EncodedRequest) -> Tensor:
        return self.backbone.token_attention(self._layout([request]))[0]

    @property
    def _documents_are_independent(self) -> bool:
        return self.config.scoring_head and self.config.query_documents_from_layer >= self.config.scoring_layer


def _refuse_triton_where_it_cannot_run(attention: str, device: torch.device) -> None:
    if attention == "triton" and not (verdict := triton_on(device)).usable:
        raise ValueError(f"attention triton cannot run on {device}: {verdict.reason}; use auto or sdpa")
