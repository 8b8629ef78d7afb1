"""Rows of Hugging Face datasets."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import install_line
from blockrank_rerank.finetune.data.row import Row


def require(module: str, what: str) -> Any:
    """Import an optional dependency.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {module}, which cannot be imported; {install_line('train')}") from error


def hub_rows(dataset: str, split: str) -> Iterator[Row]:
    """Read the rows of a dataset of the Hugging Face Hub, or of a local folder that `datasets` can load.

    Parameters
    ----------
    dataset : str
        ``owner/name``, or ``owner/name:configuration``.
    split : str
        As `datasets` names it, slices such as ``train[:1000]`` included.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, and the Hub has no such dataset or cannot be reached.
    ImportError
        If `datasets` is not installed.
    """
    datasets = require("datasets", f"the Hub dataset {dataset}")
    name, _, configuration = dataset.partition(":")
    for number, value in enumerate(_load(datasets, name, configuration or None, split), start=1):
        yield Row(f"{dataset}[{split}]", number, value)


def _load(datasets: Any, name: str, configuration: str | None, split: str) -> Any:
    try:
        return datasets.load_dataset(name, configuration, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        if Path(name).exists():
            raise
        # Most often it is a path with a typing error that ends up here.
        raise FileNotFoundError(
            f"no such file or folder: {name}; it was therefore asked for on the Hub: {' '.join(str(error).split())}"
        ) from error
