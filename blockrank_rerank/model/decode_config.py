"""Which models and settings can be ranked with by decoding, and how they are read then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blockrank_rerank.config import BlockRankConfig, placeholders
from blockrank_rerank.model.families import DECODERS

CALIBRATE_DECODING = (
    "or calibrate its log-probabilities with 'blockrank calibrate --method decode': these, and probabilities made of "
    "them, depend on the list"
)
"""How documents get a probability where nothing was trained to give one."""


def check_decodes(config: BlockRankConfig, model_config: Any, model: str) -> None:
    """Refuse settings with which no answer of a model names a document.

    Raises
    ------
    ValueError
        Naming the setting, and what to do.
    """
    if config.scoring_head or model_config.model_type not in DECODERS:
        raise ValueError(
            f"method decode needs a language model's LM head, and {model} scores by a trained scoring layer "
            '(scoring_head): use method="attention"'
        )
    if config.content_free_query is not None:
        raise ValueError(
            "method decode has no heads to correct: leave content_free_query out of the config, or use "
            'method="attention"'
        )
    if "index" not in placeholders(config.prompt.document, "document"):
        raise ValueError(
            "method decode needs {index} in prompt.document, since the answer is the id of a document in its list; the "
            'prompt of these settings numbers none: use another config, or method="attention"'
        )
    if config.query_documents_from_layer > 0:
        raise ValueError(
            "method decode needs query_documents_from_layer 0, as in the paper, got "
            f'{config.query_documents_from_layer}: use method="attention"'
        )


def check_language_model(model: str, model_config: Any) -> None:
    """Refuse a model whose files say that they are no whole language model.

    Raises
    ------
    ValueError
        Naming what they are.
    """
    names = model_config.architectures or []
    if names and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise ValueError(
            f"method decode needs a language model with all of its layers and its LM head, and {model!r} is a "
            f"{', '.join(names)}: use the model that it was made from, train with language_model_weight above 0, which "
            'keeps the head, or use method="attention"'
        )


def needs_attention(what: str) -> str:
    """What is said to whoever asks for what decoding cannot give."""
    return (
        f'{what} needs the attention of a scoring layer, and this ranker decodes ids: make one with method="attention"'
    )


def reading_all_layers(config: BlockRankConfig, model_config: Any) -> BlockRankConfig:
    """The config with which no layer's attention is a score, and keys and values of all layers are states."""
    return replace(config, scoring_layer=model_config.num_hidden_layers, heads=None, abstention=False)
