"""A Transformers model cut off at its scoring layer, whose attention is ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from blockrank_kernels import block_attention, last_rows_attention
from blockrank_kernels.gpu import upload
from torch import Tensor, nn
from transformers import AttentionInterface

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import DECODERS, first_position, hold_rotary_factors
from blockrank_rerank.model.forward_pass import Pass
from blockrank_rerank.model.fused_decoder import fuse_decoder_layers, uses_triton
from blockrank_rerank.model.int8 import quantize_to_int8, refuse_int8
from blockrank_rerank.model.layer_scores import read_layer, refuse_window, score_layer, window_hides
from blockrank_rerank.model.layout import Layout
from blockrank_rerank.model.linear import can_fuse, fuse_linear_layers
from blockrank_rerank.model.quantized_query import QuantizedQuery
from blockrank_rerank.model.scores import LayerReading, Lse
from blockrank_rerank.model.scoring_head import ScoringHead, read_head
from blockrank_rerank.model.tuning import Tuning
from blockrank_rerank.states.document_states import HEAD_KEY, key_name, value_name
from blockrank_rerank.states.pack import StatePack

ATTENTION_NAME = "blockrank"

# oneDNN keeps a primitive of several MB for each of the last 1,024 matrix shapes, and every pack has a new one:
# gigabytes after a few hundred calls or training steps. Read by oneDNN at its first matrix product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

Encoder = Callable[[Tensor, Layout], Tensor]
"""Computes the layers of an encoder in torch's place: ``[T, hidden]`` embeddings of a pack to its final states."""


class _Scored(Exception):
    """Leaves the model's forward pass inside the scoring layer."""


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    blockrank: Pass | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: ``[1, Hq, T, D]`` and ``[1, Hk, T, D]`` to ``[1, T, Hq, D]``."""
    if blockrank is None:
        raise RuntimeError("this model was loaded for BlockRank; call it through Backbone.document_lse")
    layer, layout, config = int(module.layer_idx), blockrank.layout, blockrank.config
    # Under autocast, rotary embeddings leave queries and keys in fp32.
    query, key, value = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    sees_documents = layer >= config.query_documents_from_layer
    if blockrank.new_states is not None and (sees_documents or layer == config.scoring_layer):
        # They outlive the pass, and what they may be views of should not.
        blockrank.new_states[key_name(layer)] = key.contiguous()
    if blockrank.new_states is not None and sees_documents and layer < config.scoring_layer:
        blockrank.new_states[value_name(layer)] = value.contiguous()
    if blockrank.readings is not None:
        if window_hides(sliding_window, layout) is None:
            blockrank.readings[layer] = read_layer(query, key, blockrank, scaling, softcap)
    elif layer == config.scoring_layer and blockrank.new_states is None:
        refuse_window(f"scoring_layer {layer}", sliding_window, layout, config.abstention)
        score = partial(score_layer, layer, query, key, scale=scaling, softcap=softcap)
        score(blockrank) if blockrank.scoring is None else blockrank.scoring.append(score)
    if layer == config.scoring_layer and blockrank.stop:
        raise _Scored
    options: Any = {
        "causal": bool(module.is_causal),
        "scale": query.shape[-1] ** -0.5 if scaling is None else scaling,
        "softcap": softcap,
        "window": sliding_window,
    }
    out = block_attention(
        query,
        key,
        value,
        layout.segments if sees_documents else layout.segments_before,
        **options,
        implementation=blockrank.implementation,
    )
    if blockrank.document_states is not None and sees_documents:
        out = _with_document_states(out, query, key, value, layer, blockrank, options)
    return out.unsqueeze(0), None


def _with_document_states(
    out: Tensor, query: Tensor, key: Tensor, value: Tensor, layer: int, blockrank: Pass, options: Any
) -> Tensor:
    """Replace the query blocks' rows of ``out`` by their attention over the documents' states too."""
    cases = zip(blockrank.layout.requests, blockrank.document_states or (), blockrank.last_rows, strict=True)
    for request, states, several in cases:
        packs = list(states)
        instruction = slice(*request.instruction)
        for (block, _), last_rows in zip(request.query_blocks, several, strict=True):
            rows = slice(block[1] - last_rows.rows, block[1])
            parts = ((pack.get(key_name(layer), key), pack.get(value_name(layer), value)) for pack in packs)
            # A part that is the only one is joined with the rest, for one call of torch's attention.
            between = [next(parts)] if blockrank.joined and len(packs) == 1 else []
            keys, values = (
                torch.cat([rest[instruction], *documents, rest[slice(*block)]])
                for rest, *documents in zip((key, value), *between, strict=True)
            )
            out[rows] = last_rows_attention(
                query[rows], keys, values, last_rows, **options, parts=parts, implementation=blockrank.implementation
            )
    return out


# For a name with no function of masks Transformers makes none. Before it asks such a function, it looks for packed
# sequences in the positions, and waits for what a GPU answers.
AttentionInterface.register(ATTENTION_NAME, _attention)


class Backbone(nn.Module):
    """A Transformers model cut off at its scoring layer, run over packed layouts.

    Parameters
    ----------
    model : nn.Module
        Base model whose attention implementation is ``blockrank``.
    config : BlockRankConfig
        Settings that fit the model.
    head : ScoringHead, optional
        The appended scoring layer, where the config has one.
    attention : str
        Implementation of the kernels: ``auto``, ``triton``, ``sdpa`` or ``reference``.
    tuning : Tuning, optional
        With which queries read documents; no parameter of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        config: BlockRankConfig,
        head: ScoringHead | None,
        attention: str = "auto",
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.head, self.attention, self.tuning = model, config, head, attention, tuning
        self._first_position = first_position(model.config)
        hold_rotary_factors(model, config.query_offset)
        self.encoder: Encoder | None = None

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        model_config: Any,
        config: BlockRankConfig,
        device: torch.device,
        dtype: torch.dtype,
        attention: str = "auto",
        quantization: str | None = None,
    ) -> Backbone:
        """Read the layers up to the scoring layer onto a device.

        ``config`` must fit ``model_config``: see :func:`check_fits`.

        Raises
        ------
        ImportError, ValueError
            For damaged, incomplete or non-finite weights, and a quantization that cannot run there.
        """
        if quantization == "int8":
            refuse_int8(checkpoint.model, model_config, config, device, dtype)
        layers = config.scoring_layer + (not config.scoring_head)
        model = checkpoint.truncated_model(model_config, layers, dtype, ATTENTION_NAME)
        head = read_head(checkpoint, model_config, config)
        head = None if head is None else head.to(dtype).eval().requires_grad_(False)
        backbone = cls(model, config, head, attention).to(device)
        backbone.refuse_nonfinite_weights(checkpoint.model)
        if quantization == "int8":
            from blockrank_rerank.model.openvino_encoder import OpenVinoEncoder

            quantize_to_int8(checkpoint, model)
            backbone.encoder = OpenVinoEncoder(model, dtype)
        elif model_config.model_type in DECODERS and uses_triton(attention, model):
            fuse_decoder_layers(model)
        elif can_fuse(device, dtype):
            fuse_linear_layers(model)
        return backbone

    def document_lse(self, layout: Layout, document_states: Sequence[Iterable[StatePack]] | None = None) -> list[Lse]:
        """Compute the log-sum-exps of the documents of every request in a pack, on the model's device.

        Parameters
        ----------
        layout : Layout
            The pack.
        document_states : sequence of iterable of StatePack, optional
            For each request, states that stand for its documents, in parts of which one at a time is joined; then
            the layout has none.
        """
        forward = self._reading(layout, document_states, tuning=self.tuning)
        states = self._run(forward)
        return forward.lse if states is None else self._scored(states, layout, document_states)

    def final_states(self, layout: Layout) -> Tensor:
        """Compute ``[T, hidden]``, what the scoring head reads: states after the last layer.

        Raises
        ------
        RuntimeError
            For a model without a scoring head.
        """
        states = self._run(Pass(layout, self.config, self.attention))
        if states is None:
            raise RuntimeError("only a model with a scoring head goes through all of its layers")
        return states

    def quantized_query(self, layout: Layout) -> QuantizedQuery:
        """Compute what the scoring head looks for, of a pack of one query alone."""
        return self._head.quantized_query(self.final_states(layout), layout, self.config, self.tuning)

    def staged_lse(self, layout: Layout, start: tuple[int, Tensor] | None) -> tuple[list[Lse], Tensor, Tensor]:
        """Compute log-sum-exps of a staged model with a head, and ``[T, hidden]`` states after its last layer, twice.

        Further layers go on from the first; the head reads the second, which some families normalise. ``start`` are
        the number of layers to be skipped and what they made of the pack.
        """
        forward = Pass(layout, self.config, self.attention, start=start)
        states = self._run(forward)
        if states is None or forward.hidden is None:
            raise RuntimeError("only a staged model with a scoring head can begin after some of its layers")
        return self._scored(states, layout), forward.hidden, states

    def scoring_layer(self, layout: Layout) -> Callable[[Pass], None]:
        """Run the layers before a scoring layer of the model's own; the result lets it score the pack in a pass."""
        scoring: list[Callable[[Pass], None]] = []
        self._run(Pass(layout, self.config, self.attention, scoring=scoring))
        return scoring[0]

    def document_states(self, layout: Layout) -> list[dict[str, Tensor]]:
        """Compute what query blocks read of every document of a pack, in order; see `DocumentStates`."""
        forward = Pass(layout, self.config, self.attention, new_states={})
        states = self._run(forward)
        tensors = forward.new_states or {}
        if states is not None:
            tensors |= self.head_states(states)
        bounds = [pair for request in layout.requests for pair in pairwise(request.document_offsets.tolist())]
        return [{name: tensor[start:end] for name, tensor in tensors.items()} for start, end in bounds]

    def head_states(self, states: Tensor) -> dict[str, Tensor]:
        """Compute what queries read of documents with these ``[n, hidden]`` final states; see `DocumentStates`."""
        return {HEAD_KEY: self._head.keys(states)}

    def layer_readings(self, layout: Layout) -> dict[int, LayerReading]:
        """Read the only request of a pack in all layers at once, but those whose window hides documents from it."""
        forward = Pass(layout, self.config, self.attention, readings={})
        self._run(forward)
        return forward.readings or {}

    def token_attention(self, layout: Layout, document_states: Sequence[Iterable[StatePack]]) -> list[Tensor]:
        """Compute where in its documents each request of a pack looks, as :func:`token_attention` gives it.

        ``document_states`` as in :meth:`document_lse`.
        """
        forward = self._reading(layout, document_states, tuning=self.tuning, explain=True)
        states = self._run(forward)
        if states is None:
            return forward.token_attention
        return self._head.token_attention(states, layout, self.config, self.attention, document_states, self.tuning)

    @property
    def sharpness(self) -> Tensor | float:
        """Log odds of relevance per unit of log-sum-exp; learnt where there is a scoring head, or a tuning."""
        of_model = 1.0 if self.head is None else self.head.sharpness
        return of_model if self.tuning is None else of_model * self.tuning.sharpness

    def _scored(
        self, states: Tensor, layout: Layout, document_states: Sequence[Iterable[StatePack]] | None = None
    ) -> list[Lse]:
        found: list[Lse] = self._head(states, layout, self.config, self.attention, document_states, self.tuning)
        return found

    def _reading(self, layout: Layout, document_states: Sequence[Iterable[StatePack]] | None, **settings: Any) -> Pass:
        """A pass over a layout and states that stand for documents; kernels read these where they lie."""
        joined = document_states is None or not uses_triton(self.attention, self.model)
        return Pass(layout, self.config, self.attention, document_states=document_states, joined=joined, **settings)

    def _run(self, forward: Pass) -> Tensor | None:
        """Run the model; ``[T, hidden]`` final states, or nothing where it ended inside its scoring layer."""
        device = next(self.model.parameters()).device
        inputs = {
            "input_ids": upload(forward.layout.input_ids, device).unsqueeze(0),
            "position_ids": upload(forward.layout.positions, device).unsqueeze(0) + self._first_position,
        }
        if self.encoder is not None:
            model: Any = self.model
            return self.encoder(model.embeddings(**inputs)[0], forward.layout)
        try:
            states: Tensor = self.model(**inputs, use_cache=False, blockrank=forward).last_hidden_state
        except _Scored:
            return None
        return states[0]

    @property
    def _head(self) -> ScoringHead:
        if self.head is None:
            raise RuntimeError(f"the model never reached scoring_layer {self.config.scoring_layer}")
        return self.head

    def refuse_nonfinite_weights(self, name: str) -> None:
        """Refuse weights with which nothing can be scored, of the model of this name.

        Raises
        ------
        ValueError
            Naming the first of them.
        """
        for parameter, tensor in self.named_parameters():
            if tensor.numel() and not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor)):
                raise ValueError(f"model {name!r} has non-finite weights in {parameter}; the checkpoint is damaged")
