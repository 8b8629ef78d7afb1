"""Conversions of an option's value: into what JSON holds, into what its owner works with, from a command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockrank_rerank.config import LONG_DOCUMENTS, LONG_QUERIES, BlockRankConfig, from_settings
from blockrank_rerank.errors import check_whole
from blockrank_rerank.system.files import absolute, expanded

if TYPE_CHECKING:
    import torch

METHODS = ("attention", "decode")
"""What documents may rank by."""

LEAST_MEMORY = 10**6
"""Bytes below which a limit on memory, as it is typed, is a slip: a pass of few tokens takes several times as many."""

# Imports stand in functions: `blockrank --help` should not wait a second for torch.


def plain_path(name: str, path: Any) -> Any:
    """The text of an option's path, which stays the same wherever the process goes."""
    return str(absolute(path, name)) if isinstance(path, str | os.PathLike) and path != "" else path


def plain_model(model: Any) -> Any:
    """The text of a model's name; see :func:`blockrank_rerank.model.names.model_name`."""
    from blockrank_rerank.model.names import model_name

    return model_name(model)


def check_model(model: Any) -> str:
    """The folder or Hub id that a model's name stands for.

    Raises
    ------
    ValueError
        For what is no name, or an empty one.
    """
    from blockrank_rerank.model.names import model_folder

    if not isinstance(model, str | os.PathLike) or not str(model).strip():
        raise ValueError(f'model must be a folder or a Hub id, got {model!r}; "default" is the model in the package')
    return model_folder(model)


def plain_torch(value: Any) -> Any:
    """The text that names a device or dtype of torch."""
    if isinstance(value, str) or type(value).__module__.partition(".")[0] == "torch":
        return str(value).removeprefix("torch.")
    return value


def check_device(device: Any) -> str | None:
    """The name of a device that torch knows; whether this machine has it shows where the model is loaded.

    Raises
    ------
    ValueError
        For any other name.
    """
    from blockrank_rerank.model.devices import device_named

    if device is None:
        return None
    name = str(device)
    if name != "auto":
        device_named(name)
    return name


def check_dtype(dtype: Any) -> str | None:
    """The name of a floating dtype, as text; see :func:`blockrank_rerank.model.devices.resolve_dtype`."""
    import torch

    from blockrank_rerank.model.devices import resolve_dtype

    if dtype is None:
        return None
    if dtype != "auto":
        resolve_dtype(dtype, torch.device("cpu"))
    return str(dtype)


def check_text(name: str, value: Any) -> str | None:
    """The text of an option, if there is one.

    Raises
    ------
    ValueError
        For another type.
    """
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be a text or None, got {type(value).__name__}")
    return value


def check_method(method: Any) -> str:
    """The way of ranking.

    Raises
    ------
    ValueError
        For any other.
    """
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, got {method!r}")
    return str(method)


def check_content_free_query(value: Any) -> str | None:
    """The text of a content-free query, if there is one; see :class:`BlockRankConfig`.

    Raises
    ------
    ValueError
        For another type, and for nothing but spaces.
    """
    query = check_text("content_free_query", value)
    if query is not None and not query.strip():
        raise ValueError(f'content_free_query must have text, such as "N/A", got {query!r}; leave it out for none')
    return query


def check_switch(name: str, value: Any) -> bool:
    """The value of an option that is on or off.

    Raises
    ------
    ValueError
        For anything but True and False: a text such as ``"false"`` would count as True.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def check_number(name: str, least: int | None, value: Any) -> int | None:
    """The whole number of an option, if there is one; raises ValueError for anything else."""
    return None if value is None else check_whole(name, value, least)


def check_long_documents(value: Any) -> str | None:
    """What becomes of long documents; see :class:`BlockRankConfig`.

    Raises
    ------
    ValueError
        For what is none of the ways that it knows.
    """
    if value is not None and value not in LONG_DOCUMENTS:
        raise ValueError(f"long_documents must be one of {LONG_DOCUMENTS}, got {value!r}")
    return None if value is None else str(value)


def check_long_queries(value: Any) -> str:
    """What becomes of long queries; see :class:`blockrank_rerank.text.prompt.PromptEncoder`.

    Raises
    ------
    ValueError
        For what is none of the ways that it knows.
    """
    if value not in LONG_QUERIES:
        raise ValueError(f"long_queries must be one of {', '.join(LONG_QUERIES)}, got {value!r}")
    return str(value)


def plain_config(config: Any) -> Any:
    """The settings of a config as JSON holds them; reads a file, so that later changes to it change nothing."""
    checked = check_config(config)
    return None if checked is None else json.loads(checked.to_json())


def check_config(config: Any) -> BlockRankConfig | None:
    """The config that is given itself, as a mapping of its settings, or as a JSON file of them.

    Raises
    ------
    FileNotFoundError
        For a file that does not exist.
    ValueError
        For anything else, and settings that cannot be used.
    """
    if config is None or isinstance(config, BlockRankConfig):
        return config
    if isinstance(config, str | os.PathLike):
        if not expanded(config, "config").exists():
            raise FileNotFoundError(
                f"config must be a JSON file of settings, or the folder of one, and there is no {config}"
            )
        return BlockRankConfig.load(config)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"config must be a BlockRankConfig, got {type(config).__name__}; a mapping of its settings will do too, "
            "and a JSON file of them"
        )
    found: BlockRankConfig = from_settings(BlockRankConfig, config, "config")
    return found


def check_attention(attention: Any) -> str:
    """The name of an implementation, or ``auto``.

    Raises
    ------
    ValueError
        For any other name.
    """
    from blockrank_kernels.block_attention.api import IMPLEMENTATIONS

    if attention != "auto" and attention not in IMPLEMENTATIONS:
        raise ValueError(f"attention must be one of auto, {', '.join(IMPLEMENTATIONS)}, got {attention!r}")
    return str(attention)


def check_quantization(quantization: Any) -> str | None:
    """The name of a quantization, or nothing; see :func:`blockrank_rerank.model.linear.check_quantization`."""
    from blockrank_rerank.model import linear

    return linear.check_quantization(quantization)


def plain_prune(prune: Any) -> Any:
    """Pruning whose layers are numbers, which are texts in JSON."""
    if not isinstance(prune, Mapping):
        return prune
    return {int(layer) if str(layer).isdecimal() else layer: count for layer, count in prune.items()}


def check_prune(prune: Any) -> tuple[tuple[int, int], ...]:
    """Pruning as pairs; see :func:`blockrank_rerank.engine.spec.check_prune`."""
    from blockrank_rerank.engine import spec

    return spec.check_prune(prune)


def parse_prune(pairs: Sequence[str] | None) -> dict[int, int] | None:
    """Pruning of a command line: ``2:50`` as ``{2: 50}``.

    Raises
    ------
    ValueError
        For anything else.
    """
    pairs = pairs or []
    try:
        prune = {int(layer): int(count) for layer, count in (pair.split(":") for pair in pairs)}
    except ValueError as error:
        raise ValueError(f"--prune must be LAYER:COUNT, such as 2:50; got {' '.join(pairs)}") from error
    if len(prune) < len(pairs):
        raise ValueError(f"--prune must name each layer once; got {' '.join(pairs)}")
    return prune or None


def check_bytes(name: str, value: Any) -> int | None:
    """The number of bytes of an option; see :func:`blockrank_rerank.states.cache.parse_bytes`."""
    from blockrank_rerank.states.cache import parse_bytes

    return None if value is None else parse_bytes(name, value)


def parse_memory(word: str | None) -> str | None:
    """The word of a limit on memory, as it is.

    Raises
    ------
    ValueError
        For less than any model could keep to: a number without its unit counts bytes.
    """
    nbytes = check_bytes("max_memory", word)
    if nbytes is not None and nbytes < LEAST_MEMORY:
        raise ValueError(
            f"--max-memory must be at least 1MB, got {word!r}, which is {nbytes:,} bytes: no pass is that small; "
            "write the unit, such as 2GB"
        )
    return word


def check_cache_device(device: Any) -> torch.device | None:
    """The device of a cache; see :func:`blockrank_rerank.model.devices.resolve_device`."""
    from blockrank_rerank.model.devices import resolve_device

    return None if device is None else resolve_device(device, "cache_device")


def check_folder(folder: Any) -> Path | None:
    """The path of a folder, if one is given, which stays the same wherever the process goes.

    Raises
    ------
    ValueError
        For what is no path.
    """
    if folder is None:
        return None
    if not isinstance(folder, str | os.PathLike) or not str(folder).strip():
        raise ValueError(f"store must be a folder of prepared documents, got {folder!r}")
    return absolute(folder, "store")
