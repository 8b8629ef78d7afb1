"""Decoder layers for inference in Triton: merged projections, and one kernel for what lies between two products."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from blockrank_kernels import gated_activation, rms_norm, rotary_
from blockrank_kernels.gpu import MAX_ROW_WIDTH, automatic
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from blockrank_rerank.model.families import layers_of
from blockrank_rerank.model.linear import chunk_feed_forward

NORMS = {
    **dict.fromkeys(
        ["MistralRMSNorm", "LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Phi3RMSNorm"], ("variance_epsilon", 0.0)
    ),
    **dict.fromkeys(["GemmaRMSNorm", "Gemma2RMSNorm", "Gemma3RMSNorm"], ("eps", 1.0)),
}
"""Classes of Transformers that normalise by the root mean square: where they have epsilon, what they add to weights."""

ATTENTIONS: dict[str, dict[str, str]] = {
    "LlamaAttention": {},
    "GemmaAttention": {},
    "MistralAttention": {"sliding_window": "config.sliding_window"},
    "Phi3Attention": {"sliding_window": "config.sliding_window"},
    "Qwen2Attention": {"sliding_window": "sliding_window"},
    "Qwen3Attention": {"sliding_window": "sliding_window"},
    "Gemma2Attention": {"sliding_window": "sliding_window", "softcap": "attn_logit_softcapping"},
    "Gemma3Attention": {"sliding_window": "sliding_window"},
}
"""Classes of attention with rotary positions: what each tells the attention function, and where it has it."""

FEED_FORWARDS = frozenset(
    {"MistralMLP", "LlamaMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP", "Phi3MLP"}
)
"""Classes of a gated feed-forward part."""

LAYERS = frozenset(
    {"MistralDecoderLayer", "LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "GemmaDecoderLayer"}
    | {"Phi3DecoderLayer"}
)
"""Classes of a layer that normalises the sum of its input and its attention; Gemma 2 and 3 normalise before that."""

ACTIVATIONS = {"silu": ("silu", "swish"), "gelu_tanh": ("gelu_pytorch_tanh",)}
"""Activations that the kernel knows, and what Transformers calls them."""


def uses_triton(attention: str, model: Any) -> bool:
    """Whether an implementation that is asked for by name, or ``auto``, means Triton on the device of a model."""
    if attention == "auto":
        return automatic(next(model.parameters()), any_width=True) == "triton"
    return attention == "triton"


def fuse_decoder_layers(model: Any) -> None:
    """Let a decoder's layers compute by merged projections and row-wise kernels in Triton, without gradients.

    A module whose class is not known, or whose numbers a kernel does not take, stays as it is. Parameters keep their
    names, values and memory: those of merged projections become views of one tensor. So a model is on its device
    before.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model of a supported decoder, for inference.
    """
    for layer in layers_of(model):
        for module in layer.modules():
            _fuse_norm(module)
        _fuse_attention(layer.self_attn)
        _fuse_feed_forward(layer.mlp)
        if _class_name(layer) in LAYERS and isinstance(layer.post_attention_layernorm, FusedNorm):
            layer.__class__ = FusedLayer
        # What was merged is free now: torch would keep it for tensors of the same size, of which there are no more.
        torch.cuda.empty_cache()
    chunk_feed_forward(model)


class FusedNorm(nn.Module):
    """Root-mean-square normalisation."""

    weight: nn.Parameter
    epsilon: float
    offset: float

    def forward(self, states: Tensor) -> Tensor:
        """``[1, T, hidden]`` to the same."""
        return self.add(states, None)[0]

    def add(self, states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the normalised sum of ``[1, T, hidden]`` states and their residual, and the sum."""
        residual = None if residual is None else residual.squeeze(0)
        normalised, total = self.rows(states.squeeze(0), residual)
        return normalised[None], total[None]

    def rows(self, states: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the same of ``[T, D]`` or ``[T, H, D]``."""
        return rms_norm(
            states, self.weight, eps=self.epsilon, offset=self.offset, residual=residual, implementation="triton"
        )


class FusedAttention(nn.Module):
    """Attention with one projection for queries, keys and values, whose product is rotated where it lies."""

    config: Any
    o_proj: nn.Linear
    q_norm: FusedNorm
    k_norm: FusedNorm
    head_dim: int
    merged: tuple[Tensor, Tensor | None]
    heads: tuple[int, int]
    told: dict[str, Any]

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """``[1, T, hidden]`` to the same, as Transformers' own."""
        states = F.linear(hidden_states.squeeze(0), *self.merged).unflatten(-1, (-1, self.head_dim))
        query, key, value = self._rotated(states, *(table.squeeze(0) for table in position_embeddings))
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, weights = attend(
            self,
            *(tensor.transpose(0, 1)[None] for tensor in (query, key, value)),
            attention_mask,
            **self.told,
            **kwargs,
        )
        return self.o_proj(out.flatten(-2)), weights

    def _rotated(self, states: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Part ``[T, Hq + 2 Hk, D]`` into queries, keys and values."""
        queries, keys = self.heads
        query, key, value = states.split([queries, keys, keys], 1)
        if hasattr(self, "q_norm"):
            query, key = self.q_norm.rows(query)[0], self.k_norm.rows(key)[0]
            for tensor in (query, key):
                rotary_(tensor, cos, sin, implementation="triton")
        else:
            rotary_(states[:, : queries + keys], cos, sin, implementation="triton")
        return query, key, value


class FusedFeedForward(nn.Module):
    """A gated feed-forward part with one projection for the gate and what it opens."""

    down_proj: nn.Linear
    merged: tuple[Tensor, Tensor | None]
    activation: str

    def forward(self, hidden: Tensor) -> Tensor:
        """``[1, T, hidden]`` to the same."""
        states = F.linear(hidden.squeeze(0), *self.merged)
        out: Tensor = self.down_proj(gated_activation(states, activation=self.activation, implementation="triton"))
        return out[None]


class FusedLayer(nn.Module):
    """A layer that adds what its attention made and normalises the sum in one kernel."""

    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: FusedNorm
    mlp: nn.Module

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """``[1, T, hidden]`` to the same, as Transformers' own."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        normalised, total = self.post_attention_layernorm.add(attended, hidden_states)
        out: Tensor = total + self.mlp(normalised)
        return out


def _class_name(module: Any) -> str | None:
    """Name of the class, where it is one of Transformers' own models; another's may mean something else by it."""
    known = type(module).__module__.startswith("transformers.models.")
    return type(module).__name__ if known else None


def _fuse_norm(module: Any) -> None:
    found = NORMS.get(_class_name(module) or "")
    if found is None or len(module.weight) > MAX_ROW_WIDTH:
        return
    epsilon, module.offset = found
    module.epsilon = getattr(module, epsilon)
    module.__class__ = FusedNorm


def _fuse_attention(module: Any) -> None:
    found = ATTENTIONS.get(_class_name(module) or "")
    norms = [module.q_norm, module.k_norm] if hasattr(module, "q_norm") else []
    parts = _projections(module, "qkv_proj", ("q_proj", "k_proj", "v_proj"))
    if found is None or not _can_merge(parts) or not all(isinstance(norm, FusedNorm) for norm in norms):
        return
    queries = module.o_proj.in_features // module.head_dim
    heads = sum(part.out_features for part in parts) // module.head_dim
    module.heads = queries, (heads - queries) // 2
    module.told = {"scaling": module.scaling} | {name: attrgetter(place)(module) for name, place in found.items()}
    module.merged = _merge(parts)
    module.__class__ = FusedAttention


def _fuse_feed_forward(module: Any) -> None:
    parts = _projections(module, "gate_up_proj", ("gate_proj", "up_proj"))
    activation = _activation(getattr(module, "act_fn", None) or getattr(module, "activation_fn", None))
    if _class_name(module) not in FEED_FORWARDS or not _can_merge(parts) or activation is None:
        return
    module.activation = activation
    module.merged = _merge(parts)
    module.__class__ = FusedFeedForward


def _activation(module: Any) -> str | None:
    """Name of an activation that the kernel knows."""
    kinds = {type(ACT2FN[other]): name for name, others in ACTIVATIONS.items() for other in others}
    return kinds.get(type(module))


def _projections(module: Any, whole: str, parts: Sequence[str]) -> list[Any]:
    """Projections of the same input, in order; one where the family has merged them itself."""
    return [getattr(module, name, None) for name in ([whole] if hasattr(module, whole) else parts)]


def _can_merge(parts: Sequence[Any]) -> bool:
    """Whether they are plain linear layers, and all of them have a bias or none."""
    return all(type(part) is nn.Linear for part in parts) and len({part.bias is None for part in parts}) == 1


def _merge(parts: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of all parts as one tensor each, of which their parameters become views."""
    return _merge_parameter(parts, "weight"), None if parts[0].bias is None else _merge_parameter(parts, "bias")


def _merge_parameter(parts: Sequence[nn.Linear], name: str) -> Tensor:
    tensors = [getattr(part, name).detach() for part in parts]
    merged = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    for part, view in zip(parts, merged.split([len(tensor) for tensor in tensors]), strict=True):
        setattr(part, name, nn.Parameter(view, requires_grad=False))
    return merged
