"""What sets the supported model families apart."""

from __future__ import annotations

import copy
from typing import Any

from blockrank_rerank.config import CONFIG_NAME, BlockRankConfig

ROBERTAS = frozenset({"roberta", "xlm-roberta"})
ENCODERS = frozenset({"bert", "modernbert"}) | ROBERTAS
DECODERS = frozenset({"mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"})

MODERNBERT_SINCE = (5, 1)
"""Earlier releases of Transformers let nobody else compute this architecture's attention."""

RELEASED_DEPTH = 20 / 32
"""Scoring layer over number of layers in the released checkpoint (arXiv 2510.05396, l* = 20 of 32)."""


def truncate(model_config: Any, layers: int) -> Any:
    """A copy of a Transformers config for the first ``layers`` layers, per-layer lists included."""
    config = copy.deepcopy(model_config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == model_config.num_hidden_layers and "layer" in name:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    return config


def hold_rotary_factors(model: Any, query_offset: int) -> None:
    """Keep the long rotary factors where every query lies beyond a model's switch to them.

    Transformers would go back to the short ones for documents that are read without a query.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model, whose table of frequencies is changed in place.
    query_offset : int
        Position of the first query token.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope" or query_offset < rope["original_max_position_embeddings"]:
        return
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary = model.rotary_emb
    length = rope["original_max_position_embeddings"] + 1
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](model.config, rotary.inv_freq.device, seq_len=length)
    rotary.original_inv_freq = rotary.inv_freq = long


def loading_options(model_config: Any) -> dict[str, Any]:
    """Keyword arguments of its own that a family's Transformers loader needs."""
    return {"add_pooling_layer": False} if model_config.model_type in {"bert", *ROBERTAS} else {}


def first_position(model_config: Any) -> int:
    """Row of a learnt position table that stands for position 0: RoBERTa uses none up to its padding token's."""
    return int(model_config.pad_token_id) + 1 if model_config.model_type in ROBERTAS else 0


def head_counts(model_config: Any) -> tuple[int, int]:
    """Numbers of query heads and of key heads; an encoder's config names one number for both."""
    heads = int(model_config.num_attention_heads)
    return heads, int(getattr(model_config, "num_key_value_heads", None) or heads)


def head_dim(model_config: Any) -> int:
    """Head dimension, which most configs leave to be computed."""
    return int(getattr(model_config, "head_dim", None) or model_config.hidden_size // head_counts(model_config)[0])


def window_of(model_config: Any, layer: int) -> int | None:
    """Exclusive bound on the distance of positions that a layer's attention reaches; nothing for a global one."""
    kinds = getattr(model_config, "layer_types", None)
    if kinds is not None and kinds[layer] != "sliding_attention":
        return None
    if model_config.model_type == "modernbert":  # its name is of half a window, inclusive
        return None if kinds is None else int(model_config.local_attention) // 2 + 1
    return getattr(model_config, "sliding_window", None)


def layers_of(model: Any) -> Any:
    """The layers of a base model of a supported family."""
    owner, name = layers_place(model)
    return getattr(owner, name)


def layers_place(model: Any) -> tuple[Any, str]:
    """The module that holds a base model's layers, and the name under which it does."""
    return (model.encoder, "layer") if hasattr(model, "encoder") else (model, "layers")


def feed_forward_place(layer: Any) -> tuple[Any, str]:
    """The module whose method is a layer's feed-forward part, and the method's name."""
    return (layer.mlp, "forward") if hasattr(layer, "mlp") else (layer, "feed_forward_chunk")


def separate_activation(layer: Any) -> tuple[Any, Any, str] | None:
    """Where a layer's activation follows a linear layer at once: that one, and the module and name of the activation.

    None for families that multiply two products.
    """
    if not hasattr(layer, "intermediate"):
        return None
    return layer.intermediate.dense, layer.intermediate, "intermediate_act_fn"


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
    if config.content_free_query is not None and config.scoring_head:
        raise ValueError(
            "content_free_query corrects the attention of a model's own layers; this model has a trained scoring layer "
            "(scoring_head), which has learnt what to make of a document: leave it out"
        )
    limit = position_limit(config, model_config)
    if config.query_offset >= limit:
        raise ValueError(
            f"query_offset must be below the model's limit of {limit} positions, got {config.query_offset}; lower it "
            f"in the model's {CONFIG_NAME}, or where it has none save one into a local folder of it, "
            f"BlockRankConfig(scoring_layer={config.scoring_layer}, query_offset={limit // 2}).save(FOLDER), or pass "
            "that one as config= (its file as --config); training has no such setting, and takes the folder that "
            "'blockrank export FOLDER --model MODEL --config FILE' makes"
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
    limit = int(model_config.max_position_embeddings) - first_position(model_config)
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
