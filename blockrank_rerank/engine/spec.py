"""What an engine is loaded from, and its settings in force."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from blockrank_rerank.config import CORRECTED_REDUCTION, BlockRankConfig, with_scoring_layer
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.decode_config import check_decodes, needs_attention
from blockrank_rerank.model.families import check_fits, position_limit
from blockrank_rerank.model.names import shown_model
from blockrank_rerank.text.answers import AnsweringPromptEncoder
from blockrank_rerank.text.prompt import PromptEncoder

OVERRIDES = ("scoring_layer", "content_free_query", "max_document_tokens", "long_documents")
"""Settings of a spec that replace those of its config, or of the model's own."""


@dataclass(frozen=True)
class EngineSpec:
    """Everything needed to load an engine; two equal specs load equal engines.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the model is read from.
    settings : tuple of (str, object)
        Name and checked value of every option that belongs to the engine; each is an attribute too. Values are
        hashable.
    """

    checkpoint: Checkpoint
    settings: tuple[tuple[str, Any], ...]

    def __getattr__(self, name: str) -> Any:
        # A half-made object, such as pickle fills, has no settings yet.
        for setting, value in self.__dict__.get("settings", ()):
            if setting == name:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def decodes(self) -> bool:
        """Whether documents rank by the log-probabilities of their ids, and not by attention."""
        return bool(self.method == "decode")

    def refuse_decoding(self, what: str) -> None:
        """Refuse what only attention can give.

        Raises
        ------
        ValueError
            Naming what was asked for.
        """
        if self.decodes:
            raise ValueError(needs_attention(what))

    def with_config(self, config: BlockRankConfig) -> EngineSpec:
        """The spec of the same model with this config, which nothing overrides."""
        changes = {"config": config, **dict.fromkeys(OVERRIDES)}
        return replace(self, settings=tuple((dict(self.settings) | changes).items()))


Prune = tuple[tuple[int, int], ...]
"""``(layer, documents)``: after so many layers only so many documents of a list go on; layers ascend."""


def check_prune(prune: Mapping[int, int] | None) -> Prune:
    """Pruning as pairs.

    Raises
    ------
    ValueError
        For anything that is not a mapping of layers to falling numbers of documents.
    """
    if prune is None:
        return ()
    if not isinstance(prune, Mapping) or not all(_positive(n) for pair in prune.items() for n in pair):
        raise ValueError(
            f"prune must map layers to numbers of documents, both above 0, as {{2: 50}} does; got {prune!r}"
        )
    pairs = tuple(sorted(prune.items()))
    if any(later >= earlier for (_, earlier), (_, later) in pairwise(pairs)):
        raise ValueError(f"prune must keep fewer documents at later layers, got {prune!r}")
    return pairs


def _positive(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def check_layers(prune: Prune, scoring_layer: int) -> None:
    """Refuse layers at which there is nothing to save.

    Raises
    ------
    ValueError
        For a layer that is not below the scoring layer.
    """
    for layer, _ in prune:
        if layer >= scoring_layer:
            raise ValueError(f"prune: layers must be in 1..{scoring_layer - 1}, below the scoring layer, got {layer}")


def resolve_config(spec: EngineSpec) -> tuple[Any, BlockRankConfig]:
    """The Transformers config of a model and the settings in force for it; reads no weights.

    Raises
    ------
    FileNotFoundError
        Where the model is not found.
    ValueError
        For settings that do not fit it.
    """
    model_config = spec.checkpoint.model_config()
    config = spec.config or spec.checkpoint.blockrank_config(model_config, spec.scoring_layer, spec.decodes)
    config = with_scoring_layer(config, spec.scoring_layer)
    if spec.max_document_tokens is not None:
        config = replace(config, max_document_tokens=spec.max_document_tokens)
    if spec.long_documents is not None:
        config = replace(config, long_documents=spec.long_documents)
    if spec.content_free_query is not None:
        corrected = with_content_free_query(config, spec.content_free_query)
        if (corrected.prompt, corrected.reduction) != (config.prompt, config.reduction):
            warnings.warn(
                "content_free_query takes the query-free prompt, whose instruction does not repeat the query and whose "
                f"documents are not numbered, and reduction {corrected.reduction}",
                stacklevel=2,
            )
        config = corrected
    if spec.decodes:
        check_decodes(config, model_config, shown_model(spec.checkpoint.model))
        # Nobody looks at the instruction for it.
        config = replace(config, abstention=False)
    check_fits(config, model_config)
    check_layers(spec.prune, config.scoring_layer)
    return model_config, config


def with_content_free_query(config: BlockRankConfig, query: str) -> BlockRankConfig:
    """The config with a correction by this query, and with the prompt and the reduction that it takes."""
    prompt = config.prompt.without_query()
    return replace(config, content_free_query=query, prompt=prompt, reduction=CORRECTED_REDUCTION)


def read_prompt(spec: EngineSpec, model_config: Any, config: BlockRankConfig) -> PromptEncoder:
    """The prompt of a model whose configs are read; reads its tokenizer, and no weights.

    Raises
    ------
    ValueError
        For a tokenizer that cannot be read, or is not the model's, and a content-free query that does not fit.
    """
    tokenizer = spec.checkpoint.tokenizer(model_config.vocab_size)
    encoder = AnsweringPromptEncoder if spec.decodes else PromptEncoder
    prompt = encoder(tokenizer, config, position_limit(config, model_config), spec.long_queries)
    _ = prompt.content_free  # else every request would refuse it
    return prompt
