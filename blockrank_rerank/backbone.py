from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from blockrank_kernels import block_attention, document_scores
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from blockrank_rerank.checkpoint import Checkpoint
from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.layout import Layout
from blockrank_rerank.scoring_head import SCORING_HEAD_NAME, ScoringHead
from blockrank_rerank.signals import scored_offsets, signal_rows
from blockrank_rerank.token_attention import token_attention

ATTENTION_NAME = "blockrank"

# oneDNN keeps a primitive of several MB for each of the last 1,024 matrix shapes, and every pack has a new one:
# gigabytes after a few hundred calls or training steps. Read by oneDNN at its first matrix product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


class _Scored(Exception):
    """Leaves the model's forward pass inside the scoring layer."""


@dataclass
class Pass:
    """One forward pass, as the attention function sees it.

    ``stop`` says whether the pass ends inside the scoring layer; training of a language model goes on.
    Where the scoring layer is one of the model's own, ``lse`` receives each request's log-sum-exps, or
    ``token_attention`` what :func:`token_attention` gives, if ``explain`` asks for that instead.
    """

    layout: Layout
    config: BlockRankConfig
    implementation: str
    stop: bool = True
    explain: bool = False
    lse: list[Tensor] = field(default_factory=list)
    token_attention: list[Tensor] = field(default_factory=list)


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
        raise RuntimeError("this model was loaded for BlockRank; call it through Backbone.document_scores")
    layer, layout, config = int(module.layer_idx), blockrank.layout, blockrank.config
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if layer == config.scoring_layer:
        _refuse_window_at_scoring_layer(layer, sliding_window, layout)
        _score_layer(query, key, blockrank, scaling, softcap)
        if blockrank.stop:
            raise _Scored
    sees_documents = layer >= config.query_documents_from_layer
    out = block_attention(
        query,
        key,
        value,
        layout.segments if sees_documents else layout.segments_before,
        causal=bool(module.is_causal),
        scale=scaling,
        softcap=softcap,
        window=sliding_window,
        implementation=blockrank.implementation,
    )
    return out.unsqueeze(0), None


def _score_layer(query: Tensor, key: Tensor, blockrank: Pass, scale: float | None, softcap: float | None) -> None:
    config = blockrank.config
    group = query.shape[1] // key.shape[1]
    if config.heads is not None:
        query = query[:, list(config.heads)]
        key = key[:, [head // group for head in config.heads]]
    how: Any = {"scale": scale, "softcap": softcap, "implementation": blockrank.implementation}
    for request in blockrank.layout.requests:
        signals = query[signal_rows(request, config)]
        if blockrank.explain:
            blockrank.token_attention.append(token_attention(signals, key, request.document_offsets, **how))
        else:
            blockrank.lse.append(document_scores(signals, key, scored_offsets(request, config), **how))


def _refuse_window_at_scoring_layer(layer: int, window: int | None, layout: Layout) -> None:
    if window is not None and layout.signal_distance >= window:
        raise ValueError(
            f"scoring_layer {layer} has a sliding window of {window} positions, but queries and documents are up to "
            f"{layout.signal_distance} apart: lower query_offset in the config, or choose a scoring_layer with "
            "global attention"
        )


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, lambda *args, **kwargs: None)


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
    """

    def __init__(
        self, model: nn.Module, config: BlockRankConfig, head: ScoringHead | None, attention: str = "auto"
    ) -> None:
        super().__init__()
        self.model, self.config, self.head, self.attention = model, config, head, attention

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        model_config: Any,
        config: BlockRankConfig,
        device: torch.device,
        dtype: torch.dtype,
        attention: str = "auto",
    ) -> Backbone:
        """Read the layers up to the scoring layer onto a device.

        ``config`` must fit ``model_config``: see :func:`check_fits`.

        Raises
        ------
        ValueError
            For damaged, incomplete or non-finite weights.
        """
        layers = config.scoring_layer + (not config.scoring_head)
        model = checkpoint.truncated_model(model_config, layers, dtype, ATTENTION_NAME)
        head = None
        if config.scoring_head:
            path = checkpoint.file(SCORING_HEAD_NAME)
            if path is None:
                raise FileNotFoundError(
                    f"model {checkpoint.model!r} has no {SCORING_HEAD_NAME}, which its config needs"
                )
            head = ScoringHead.load(path, model_config.hidden_size).to(dtype).eval().requires_grad_(False)
        backbone = cls(model, config, head, attention).to(device)
        backbone._refuse_nonfinite_weights(checkpoint.model)
        return backbone

    def document_scores(self, layout: Layout) -> list[Tensor]:
        """Log-sum-exps of the scored blocks of every request in a pack.

        Returns
        -------
        list of Tensor
            ``[S, H, N]`` per request, fp32, on the model's device; ``[S, H, N + 1]`` with the instruction
            first where the config has ``abstention``.
        """
        state = Pass(layout, self.config, self.attention)
        states = self._run(state)
        return state.lse if states is None else self._head(states, layout, self.config, self.attention)

    def token_attention(self, layout: Layout) -> list[Tensor]:
        """Where in its documents each request of a pack looks, as :func:`token_attention` gives it."""
        state = Pass(layout, self.config, self.attention, explain=True)
        states = self._run(state)
        if states is None:
            return state.token_attention
        return self._head.token_attention(states, layout, self.config, self.attention)

    def _run(self, state: Pass) -> Tensor | None:
        """Run the model; ``[T, hidden]`` final states, or nothing where it ended inside its scoring layer."""
        device = next(self.model.parameters()).device
        inputs = {
            "input_ids": state.layout.input_ids.to(device).unsqueeze(0),
            "position_ids": state.layout.positions.to(device).unsqueeze(0),
        }
        try:
            states: Tensor = self.model(**inputs, use_cache=False, blockrank=state).last_hidden_state
        except _Scored:
            return None
        return states[0]

    @property
    def _head(self) -> ScoringHead:
        if self.head is None:
            raise RuntimeError(f"the model never reached scoring_layer {self.config.scoring_layer}")
        return self.head

    def _refuse_nonfinite_weights(self, name: str) -> None:
        for parameter, tensor in self.named_parameters():
            if tensor.numel() and not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor)):
                raise ValueError(f"model {name!r} has non-finite weights in {parameter}; the checkpoint is damaged")


def check_fits(config: BlockRankConfig, model_config: Any) -> None:
    """Refuse settings that a model cannot honour.

    Raises
    ------
    ValueError
        Naming the setting, what the model allows and what came.
    """
    layers = model_config.num_hidden_layers
    first, last = (1, layers) if config.scoring_head else (0, layers - 1)
    if not first <= config.scoring_layer <= last:
        raise ValueError(
            f"scoring_layer must be in {first}..{last} for this {layers}-layer model, got {config.scoring_layer}"
        )
    heads = model_config.num_attention_heads
    if config.heads is not None and not config.scoring_head and max(config.heads) >= heads:
        raise ValueError(f"heads must be in 0..{heads - 1} for this model, got {list(config.heads)}")
    if config.heads is not None and config.scoring_head:
        raise ValueError("heads select attention heads of the model; a config with scoring_head=True has none")
    limit = position_limit(config, model_config)
    if config.query_offset >= limit:
        raise ValueError(
            f"query_offset must be below the model's limit of {limit} positions, got {config.query_offset}; "
            "pass config=dataclasses.replace(config, query_offset=...)"
        )


def position_limit(config: BlockRankConfig, model_config: Any) -> int:
    """Number of positions that may be used.

    Rotary scalings whose frequencies follow the longest position of a batch would make a document's
    states depend on the others; they are refused or held in one of their regimes.

    Raises
    ------
    ValueError
        For dynamic rotary scaling.
    """
    limit = int(model_config.max_position_embeddings)
    parameters = getattr(model_config, "rope_parameters", None) or {}
    per_layer = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    for rope in per_layer:
        kind = rope.get("rope_type", "default")
        if "dynamic" in kind:
            raise ValueError(
                f"rope_type {kind!r} changes with the longest input, so document states would depend on each other; "
                "use a model with static rotary scaling"
            )
        original = rope.get("original_max_position_embeddings")
        if kind == "longrope" and original and config.query_offset < original:
            # Every position stays below the switch to the long factors.
            limit = min(limit, int(original))
    return limit
