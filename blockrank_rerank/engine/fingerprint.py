"""A digest of everything that a document's states depend on, and its parts by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.states.digest import tensor_bytes, tensor_sums
from blockrank_rerank.text.prompt import PromptEncoder

KEYS_WITHOUT_EFFECT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
    | {"sentence_transformers"}
)
"""Keys of a model's config.json on which no state depends."""

SETTINGS_WITHOUT_EFFECT = frozenset({"content_free_query"})
"""Settings of a config on which no state of a document depends."""

LARGEST_COPIED = 1 << 30
"""Bytes of weights that are hashed byte for byte, on the host; of larger models their sums are, made on the device.

Hashing 9 GB takes 12 seconds (0.8 GB/s, one thread of an AMD EPYC) and copies from a GPU; their sums take 2 (4.4 GB/s).
"""


def fingerprint(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone) -> str:
    """Digest weights, dtype, both configs and tokenizer: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(_settings(config), sort_keys=True).encode())
    digest.update(_architecture(backbone).encode())
    digest.update(prompt.tokenizer_digest.encode())
    digest.update(prompt.beginning.encode("utf-8", "surrogatepass"))
    weights = [(name, parameter.detach()) for name, parameter in sorted(backbone.named_parameters())]
    is_small = sum(tensor.nbytes for _, tensor in weights) <= LARGEST_COPIED
    for name, tensor in weights:
        for part in tensor_bytes(name, tensor) if is_small else tensor_sums(name, tensor):
            digest.update(part)
    return digest.hexdigest()


def named_settings(config: BlockRankConfig, prompt: PromptEncoder, backbone: Backbone) -> dict[str, Any]:
    """What of a fingerprint has a name: dtype of the model, its configs, and its prompt's parts."""
    settings = _settings(config)
    parts = {f"prompt.{name}": value for name, value in settings.pop("prompt").items()}
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in backbone.parameters()})
    model = {"dtype of the model": ", ".join(dtypes), "config.json": _architecture(backbone)}
    model["beginning of the chat template"] = prompt.beginning
    return model | settings | parts


def _settings(config: BlockRankConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in SETTINGS_WITHOUT_EFFECT}


def _architecture(backbone: Backbone) -> str:
    """What the model's config.json says beyond its class's defaults, which change with Transformers."""
    config: Any = backbone.model.config
    settings = {name: value for name, value in config.to_diff_dict().items() if name not in KEYS_WITHOUT_EFFECT}
    return json.dumps(settings, sort_keys=True, default=str)
