"""A digest of everything that a document's states depend on, and its parts by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.states.digest import tensor_bytes, tensor_sums

if TYPE_CHECKING:
    from blockrank_rerank.model.backbone import Backbone
    from blockrank_rerank.text.prompt import PromptEncoder

KEYS_WITHOUT_EFFECT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
    | {"sentence_transformers"}
)
"""Keys of a model's config.json on which no state depends."""

EARLIER_SETTINGS = frozenset(
    {"scoring_layer", "scoring_head", "heads", "signal_tokens", "reduction", "abstention", "query_offset"}
    | {"query_documents_from_layer", "max_document_tokens", "long_documents", "prompt", "version"}
)
"""Settings of a config when stores had format 5: those that came since are in no fingerprint of theirs."""

LARGEST_COPIED = 1 << 30
"""Bytes of weights that are hashed byte for byte, on the host; of larger models their sums are, made on the device.

Hashing 9 GB takes 12 seconds (0.8 GB/s, one thread of an AMD EPYC) and copies from a GPU; their sums take 2 (4.4 GB/s).
"""


SETTINGS_WITHOUT_EFFECT = frozenset(
    {"heads", "signal_tokens", "reduction", "abstention", "query_offset", "content_free_query", "version"}
    | {"answerability", "prompt.query_free_instruction", "prompt.query", "prompt.answer", "prompt.answer_start"}
)
"""Settings on which no state of a document depends: the query's side, and what is made of log-sum-exps."""

READING_SETTINGS = frozenset(
    {"max_document_tokens", "long_documents", "answerability", "version", "prompt.query_free_instruction"}
)
"""Settings on which no tuning depends: how much of a document is read at a time, and what is told of a whole list."""

HEAD, HEAD_KEY_WEIGHTS = "head.", "head.key."
"""How names of a scoring head's weights begin, and of those by which it reads documents."""


def fingerprint(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone) -> str:
    """Digest what the states of documents depend on: 32 hexadecimal digits.

    That is dtype, both configs, tokenizer and weights, without what is the query's: settings of its side, and the
    weights by which a scoring head reads it.
    """
    settings = _settings_of_states(config) | {"positions": _positions(config, prompt)}
    weights = [(name, tensor) for name, tensor in _weights(backbone) if _reads_documents(name)]
    return _digest(settings, prompt, backbone, weights)


def earlier_fingerprint(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone) -> str:
    """Digest the whole config and all weights, as stores up to format 5 have it."""
    settings = {name: value for name, value in asdict(config).items() if name in EARLIER_SETTINGS}
    return _digest(settings, prompt, backbone, _weights(backbone))


def base_fingerprint(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone, dtype: torch.dtype) -> str:
    """Digest what a tuning is a change of: all weights in a dtype, and the settings by which queries read with them."""
    settings = {name: value for name, value in _settings(config).items() if name not in READING_SETTINGS}
    return _digest(settings, prompt, backbone, _weights(backbone), dtype)


def named_settings(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone) -> dict[str, Any]:
    """What of a fingerprint has a name: dtype of the model, its configs, and its prompt's parts."""
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in backbone.parameters()})
    model = {"dtype of the model": ", ".join(dtypes), "config.json": _architecture(backbone)}
    model["beginning of the chat template"] = prompt.beginning
    return model | _settings_of_states(config)


def _settings_of_states(config: BlockRankConfig) -> dict[str, Any]:
    # What is not known to have no effect counts, so that no state is ever taken for another.
    return {name: value for name, value in _settings(config).items() if name not in SETTINGS_WITHOUT_EFFECT}


def _settings(config: BlockRankConfig) -> dict[str, Any]:
    settings = asdict(config)
    return settings | {f"prompt.{name}": value for name, value in settings.pop("prompt").items()}


def _positions(config: BlockRankConfig, prompt: PromptEncoder) -> int:
    """Positions of the model that are in use, to which long documents are cut."""
    return prompt.longest_query + config.query_offset


def _weights(backbone: Backbone) -> list[tuple[str, Tensor]]:
    # An LM head that is tied to the embeddings counts: with it, scores are others.
    parameters = backbone.named_parameters(remove_duplicate=False)
    return [(name, parameter.detach()) for name, parameter in sorted(parameters)]


def _reads_documents(name: str) -> bool:
    return not name.startswith(HEAD) or name.startswith(HEAD_KEY_WEIGHTS)


def _digest(
    settings: dict[str, Any],
    prompt: PromptEncoder,
    backbone: Backbone,
    weights: list[tuple[str, Tensor]],
    dtype: torch.dtype | None = None,
) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(_architecture(backbone).encode())
    digest.update(prompt.tokenizer_digest.encode())
    digest.update(prompt.beginning.encode("utf-8", "surrogatepass"))
    nbytes = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for _, tensor in weights)
    parts = tensor_bytes if nbytes <= LARGEST_COPIED else tensor_sums
    for name, tensor in weights:
        # One after the other: in another dtype, all weights would take their room once more.
        for part in parts(name, tensor.to(dtype or tensor.dtype)):
            digest.update(part)
    return digest.hexdigest()


def _architecture(backbone: Backbone) -> str:
    """What the model's config.json says beyond its class's defaults, which change with Transformers."""
    config: Any = backbone.model.config
    settings = {name: value for name, value in config.to_diff_dict().items() if name not in KEYS_WITHOUT_EFFECT}
    return json.dumps(settings, sort_keys=True, default=str)
