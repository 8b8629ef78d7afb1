"""Models in one GGUF file, as llama.cpp has them."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import install_line
from blockrank_rerank.model.foreign_files import LARGEST_WEIGHTS, check_file, listed_weights

MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")
"""Packages without which Transformers reads none."""

MOST_WEIGHTS_PER_BYTE = 6
"""Of the coarsest quantisation, IQ1_S with 1.56 bits for a weight."""


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file's, by its name."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file that a folder's model is read from; nothing where there is none, or weights of Transformers.

    Raises
    ------
    ValueError
        For several, and for one that is no language model.
    """
    files = sorted(path for path in folder.iterdir() if is_gguf(path))
    if not files or listed_weights(folder):
        return None
    # So llama.cpp names it.
    found = [path for path in files if not path.name.startswith("mmproj")]
    if not found:
        raise ValueError(
            f"the folder's GGUF file {files[0].name} reads images, and the language model's is not there: download "
            "that too, or give its path as the model"
        )
    whole = [path for path in found if not _is_part(path)] or found[:1]
    if len(whole) > 1:
        names = ", ".join(path.name for path in whole[:5])
        raise ValueError(
            f"the folder holds {len(whole)} GGUF files ({names}): give the path of one of them as the model"
        )
    return whole[0]


def check_gguf(path: Path) -> int:
    """Refuse a file that is no whole GGUF file, or that nothing here can read; its bytes.

    Raises
    ------
    ImportError
        Where the extra is missing.
    ValueError
        Naming the file.
    """
    check_file(path, LARGEST_WEIGHTS)
    with path.open("rb") as file:
        beginning = file.read(len(MAGIC))
    if beginning != MAGIC:
        raise ValueError(f"{path.name} is not a GGUF file: it begins with {beginning!r}; download it again")
    if _is_part(path):
        raise ValueError(
            f"{path.name} is one part of several, which are not read here: join them with "
            "llama.cpp's llama-gguf-split and pass the whole file"
        )
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ImportError(f"a GGUF file needs {' and '.join(missing)}; {install_line('gguf')}")
    return path.stat().st_size


def gguf_config(path: Path) -> Any:
    """The Transformers config that a GGUF file stands for; a copy, which may be changed.

    Raises
    ------
    ImportError, ValueError
        As :func:`check_gguf`, for a damaged file, and for an architecture that Transformers does not read.
    """
    check_gguf(path)
    stat = path.stat()
    return copy.deepcopy(_config(path, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=4)
def _config(path: Path, size: int, modified: int) -> Any:
    """Read once: the vocabulary stands before everything else, and one of 262,144 takes some ten seconds."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    except Exception as error:
        if _is_whole(path):
            raise
        raise ValueError(
            f"{path.name} is cut short or damaged: download it again; or newer than the package gguf: pip install -U "
            "gguf"
        ) from error


def _is_whole(path: Path) -> bool:
    """Whether everything is there of which a GGUF file's beginning tells."""
    from gguf import GGUFReader

    try:
        GGUFReader(path)
    except Exception:  # whatever numpy makes of bytes that are not there
        return False
    return True


def use_bars_that_can_be_disabled() -> None:
    """Give Transformers' reader of GGUF files the bars of the rest of it, which know when nobody wants them."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    modeling_gguf_pytorch_utils.tqdm = logging.tqdm


def without_quantizer(model: Any) -> None:
    """Take from a model what says that its weights are packed: they were unpacked as they were read."""
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)


def _is_part(path: Path) -> bool:
    return re.search(r"-\d{5}-of-\d{5}$", path.stem) is not None
