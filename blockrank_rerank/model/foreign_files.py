"""What a model folder of somebody else must be: checked before anything is made of its files.

Messages say what a file or folder is and what to do; who reads adds the model's name.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

MODEL_CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file; in several, a file of the same name with ``.index.json`` lists them."""

VOCABULARIES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""Any one of them makes a tokenizer."""
TOKENIZER_FILES = (
    *VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SMALL_FILES = (
    MODEL_CONFIG, "generation_config.json", ADAPTER_CONFIG, "modules.json", "config_sentence_transformers.json",
    *TOKENIZER_FILES, *(f"{name}.index.json" for name in WHOLE_WEIGHTS),
)  # fmt: skip
"""Everything that is read of a model besides its weights and what is ours."""

MEGABYTE = 1 << 20
LARGEST_JSON = 8 * MEGABYTE
"""Bytes of a config; the largest that circulate name some ten thousand labels, in 1 MB."""
LARGEST_FILE = 256 * MEGABYTE
"""Bytes of a vocabulary or an index of weights; the largest that circulate have 35 MB."""
LARGEST_WEIGHTS = 1 << 50
MOST_WEIGHTS_PER_BYTE = 2
"""Of files of Transformers."""
LARGEST_TEMPLATE = MEGABYTE
"""Characters of a chat template, which run to some ten thousand."""
MOST_ADDED_TOKENS = 1 << 16
"""A tokenizer takes a tenth of a millisecond for each, and Gemma 3 has 6,415."""
DEEPEST_JSON = 50

LARGEST_NUMBERS = {
    "num_hidden_layers": 1 << 10,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 27,
    "type_vocab_size": 1 << 16,
    "num_labels": 1 << 17,
}
"""Settings of config.json from which tensors, layers or lists are made; ten times the largest that circulate."""

POINTER = b"version https://git-lfs.github.com/spec/"
NO_TOKENIZER = (
    "its tokenizer.json is missing, or another model's: copy tokenizer.json and tokenizer_config.json of the model "
    "that it was made of into its folder"
)
OTHER_FORMATS = {
    "*.onnx": "ONNX", "openvino_*.xml": "OpenVINO", "*.h5": "TensorFlow",
    "*.msgpack": "Flax", "*.tflite": "TensorFlow Lite", "*.mlpackage": "Core ML",
    "consolidated*": "Mistral's or Llama's own",
}  # fmt: skip
WANTED = "give the folder or Hub id of the model in Transformers' form: config.json, tokenizer.json, model.safetensors"


def check_file(path: Path, largest: int = LARGEST_FILE) -> Path:
    """Refuse a git-lfs pointer, and a file of more bytes than its kind has.

    Raises
    ------
    ValueError
        Naming the file.
    """
    size = path.stat().st_size
    if size < 1024 and path.read_bytes().startswith(POINTER):
        raise ValueError(
            f"{path.name} is a git-lfs pointer and not the file itself: run git lfs pull in the model's folder, or "
            "download it with hf download"
        )
    if size > largest:
        raise ValueError(f"{path.name} must have at most {largest:,} bytes, got {size:,}")
    return path


def read_json(path: Path, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Read a JSON object of a model, within limits of size and depth.

    Raises
    ------
    ValueError
        Naming the file.
    """
    try:
        record = json.loads(check_file(path, largest).read_text(encoding="utf-8"))
        deep = _is_deep(record)
    except RecursionError:
        deep = True
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}") from error
    if deep:
        raise ValueError(f"{path.name} is nested more than {DEEPEST_JSON} deep")
    if not isinstance(record, dict):
        raise ValueError(f"{path.name} must hold a JSON object, got {type(record).__name__}")
    return record


def _is_deep(record: Any) -> bool:
    level = [record]
    for _ in range(DEEPEST_JSON):
        parts = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [inner for part in parts for inner in part]
    return bool(level)


def check_numbers(config: Mapping[str, Any]) -> None:
    """Refuse settings of config.json from which more would be made than any model has.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    for name, largest in LARGEST_NUMBERS.items():
        value = config.get(name)
        # Null stands for a family's own default.
        if value is not None and (type(value) is not int or not 1 <= value <= largest):
            shown = repr(value)
            shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
            raise ValueError(f"{name} must be a whole number from 1 to {largest:,}, got {shown}")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the vocabulary of a tokenizer."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def check_tokenizer(folder: Path) -> None:
    """Refuse a folder without a tokenizer, and one whose tokenizer is larger than any model's.

    Raises
    ------
    ValueError
        Naming the file.
    """
    if not has_tokenizer(folder):
        raise ValueError(NO_TOKENIZER)
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            check_file(folder / name, LARGEST_TEMPLATE if name.startswith("chat_template") else LARGEST_FILE)
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        check_file(path, LARGEST_TEMPLATE)
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        path = folder / name
        if path.is_file():
            _check_tokens(name, read_json(path, LARGEST_FILE))


def _check_tokens(name: str, record: Mapping[str, Any]) -> None:
    parts = ("added_tokens", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
    lists = [record] if name == "added_tokens.json" else [record.get(part) for part in parts]
    count = max(len(tokens) for tokens in (*lists, ()) if isinstance(tokens, dict | list | tuple))
    if count > MOST_ADDED_TOKENS:
        raise ValueError(f"{name} must have at most {MOST_ADDED_TOKENS:,} added tokens, got {count:,}")
    templates = record.get("chat_template")
    length = len(templates if isinstance(templates, str) else json.dumps(templates))
    if length > LARGEST_TEMPLATE:
        raise ValueError(f"chat_template in {name} must have at most {LARGEST_TEMPLATE:,} characters, got {length:,}")


def listed_weights(folder: Path) -> list[str]:
    """Names of a folder's weight files, the first form that there is; none where nothing says which.

    Raises
    ------
    ValueError
        For an index that is none.
    """
    for whole in WHOLE_WEIGHTS:
        if (folder / whole).is_file():
            return [whole]
        index = folder / f"{whole}.index.json"
        if index.is_file():
            return _shards(index)
    return []


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index, LARGEST_FILE).get("weight_map")
    names: set[Any] = set(weight_map.values()) if isinstance(weight_map, dict) and weight_map else {None}
    # A name with a folder in it would reach files outside the model.
    if not all(isinstance(name, str) and name == PurePath(name).name and "\\" not in name for name in names):
        raise ValueError(f"{index.name} must map the names of weights to files beside it")
    return sorted(names)


def check_weights(folder: Path, names: list[str]) -> int:
    """Refuse weights that are not there; the bytes of those that are.

    Raises
    ------
    FileNotFoundError
        Saying which file is missing, or what is there instead.
    ValueError
        For git-lfs pointers.
    """
    if not names:
        raise FileNotFoundError(f"{WHOLE_WEIGHTS[0]} is missing; {_instead(folder)}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} files that its index names are missing, the first is {missing[0]}: "
            "download the model again"
        )
    return sum(check_file(folder / name, LARGEST_WEIGHTS).stat().st_size for name in names)


def check_size(needed: int, stored: int, most_per_byte: int = MOST_WEIGHTS_PER_BYTE) -> None:
    """Refuse a config that describes more than the weights can hold, before it is allocated.

    Parameters
    ----------
    needed : int
        Numbers of the layers that are to be read.
    stored : int
        Bytes of all weights.
    most_per_byte : int
        Numbers that a byte may hold.

    Raises
    ------
    ValueError
        Naming both.
    """
    if needed > most_per_byte * stored:
        raise ValueError(
            f"{MODEL_CONFIG} describes {needed:,} weights, and the files have {stored:,} bytes: they are cut short, "
            "or another model's"
        )


def warn_of_unread(model: str, unexpected: Iterable[str], layers: int) -> None:
    """Warn of weights for which a layer that was read has no place: Transformers says so, and is silenced."""
    numbered = ((name, re.search(r"\blayers?\.(\d+)\.", name)) for name in sorted(unexpected))
    unread = [name for name, found in numbered if found and int(found[1]) < layers]
    if unread:
        warnings.warn(
            f"model {model!r} has {len(unread)} weights for which its {MODEL_CONFIG} makes no place, the first "
            f"is {unread[0]}: they are not read, and scores may be worth nothing; is the {MODEL_CONFIG} that of "
            "these weights?",
            stacklevel=3,
        )


def check_model_config(folder: Path, architectures: Iterable[str]) -> None:
    """Refuse a folder that holds no model of these architectures, before Transformers makes anything of its config.

    Raises
    ------
    FileNotFoundError
        Saying what the folder holds instead.
    ValueError
        For a config beyond the limits, or of another architecture.
    """
    path = folder / MODEL_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{MODEL_CONFIG} is missing; {_instead(folder)}")
    check_settings(read_json(path), architectures)


def check_settings(config: Mapping[str, Any], architectures: Iterable[str]) -> None:
    """Refuse settings of a model beyond the limits, or of another architecture.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    kind: Any = config.get("model_type")
    if kind not in architectures:
        raise ValueError(f"it has architecture {kind!r}; supported are {', '.join(sorted(architectures))}")
    check_numbers(config)


def _instead(folder: Path, others: Mapping[str, str] = OTHER_FORMATS) -> str:
    """What a folder holds that is no model of Transformers, and what to do."""
    if not any(folder.iterdir()):
        return "the folder is empty: download the model again"
    for pattern, name in others.items():
        if found := [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            return (
                f"the folder holds {name} weights ({found[0].relative_to(folder)}), which are not read here; {WANTED}"
            )
    if inner_files := sorted(folder.glob("*/*.gguf")):
        return f"this is a folder of folders with GGUF files: give the path of one, such as {inner_files[0]}"
    for pattern in (f"*/{MODEL_CONFIG}", f"snapshots/*/{MODEL_CONFIG}"):
        if inner := sorted(str(found.parent.relative_to(folder)) for found in folder.glob(pattern)):
            kind = "the folder of a sentence-transformers model" if (folder / "modules.json").is_file() else "a folder"
            return f"this is {kind} that holds the model in {', '.join(inner[:5])}: give {folder / inner[0]}"
    if names := sorted(path.name for path in (*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        return f"the folder holds weights of other names ({', '.join(names[:5])}); rename or save them anew"
    return WANTED


def check_embedding_folder(folder: Path) -> None:
    """Refuse what sentence-transformers would make a model of without asking, or could not read.

    Raises
    ------
    FileNotFoundError
        Saying what the folder holds instead of a model.
    ValueError
        For git-lfs pointers, numbers beyond the limits, and modules whose code is not of sentence-transformers.
    """
    listed = folder / "modules.json"
    if not listed.is_file() and not (folder / MODEL_CONFIG).is_file() and not (folder / ADAPTER_CONFIG).is_file():
        others = {"*.gguf": "GGUF", **OTHER_FORMATS}
        raise FileNotFoundError(f"{MODEL_CONFIG} is missing; {_instead(folder, others)}")
    modules = _modules(listed) if listed.is_file() else []
    for part in (folder, *(folder / name for name in modules)):
        for path in (part / name for name in (*SMALL_FILES, *WHOLE_WEIGHTS, *listed_weights(part))):
            if path.is_file():
                check_file(path, LARGEST_WEIGHTS)
        if (part / MODEL_CONFIG).is_file():
            check_numbers(read_json(part / MODEL_CONFIG))
        if has_tokenizer(part):
            check_tokenizer(part)


def _modules(path: Path) -> list[str]:
    """Folders of the modules of a sentence-transformers model, whose classes are that library's."""
    try:
        modules = json.loads(check_file(path, LARGEST_JSON).read_text(encoding="utf-8"))
        kinds = [module["type"] for module in modules]
        folders = [module["path"] for module in modules]
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} must be a list of modules with path and type, got {error!r}") from error
    foreign = [kind for kind in kinds if not str(kind).startswith("sentence_transformers.")]
    if foreign:
        raise ValueError(f"{path.name} names code of its own ({foreign[0]}), which is not run here")
    if not all(isinstance(name, str) and name == PurePath(name).name for name in folders):
        raise ValueError(f"{path.name} must name folders beside it, got {folders}")
    return folders
