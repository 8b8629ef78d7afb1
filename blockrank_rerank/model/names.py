"""Names of models: the one in the package, Hub ids, folders and GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blockrank_rerank.model.gguf import is_gguf
from blockrank_rerank.system.files import UserPath, absolute, path_text

DEFAULT_MODEL = "default"
"""The model that ships inside the package."""


_DEFAULT_FOLDER = Path(__file__).parents[1] / "default_model"


def model_name(model: Any) -> Any:
    """A name that stays the same wherever the process goes: ``default``, a Hub id, or an absolute path.

    A folder named ``default`` is not the model in the package, so it is given as a path. What is neither text nor
    path is returned as it is.
    """
    text = path_text(model)
    if model == DEFAULT_MODEL or not isinstance(text, str) or not text:
        return text
    text = f"./{text}" if text == DEFAULT_MODEL else text
    missing = text.startswith(".") and not Path(text).is_dir()
    return text if missing else settled_model(text)  # what is missing is refused as it was given


def settled_model(model: str) -> str:
    """The absolute path of a model's folder or GGUF file, and a Hub id as it is: one of whose name there is neither.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    is_path = model.startswith(("~", ".")) or Path(model).is_dir() or is_gguf(Path(model))
    return str(absolute(model, "model")) if is_path else model


def shown_model(folder: str) -> str:
    """The model name that stands for a folder or Hub id."""
    return DEFAULT_MODEL if folder == str(_DEFAULT_FOLDER) else folder


def model_folder(model: UserPath) -> str:
    """The folder or Hub id that a model name stands for."""
    return str(_DEFAULT_FOLDER) if model == DEFAULT_MODEL else str(model_name(model))


def looks_local(model: str) -> bool:
    """Whether a model's name can only be a folder's."""
    return Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1
