"""States that wait in temporary files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from blockrank_rerank.files import system_errors
from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.states.pack import StatePack


@contextmanager
def spill(states: Iterable[DocumentStates], max_bytes: int | None, dtype: torch.dtype) -> Iterator[list[StatePack]]:
    """Put states side by side for one query, in parts; all but the last in temporary files of about ``max_bytes``.

    The files are in the dtype of the model, in which a part is in memory when it is read: states of a store may be
    smaller, and in different dtypes.

    Raises
    ------
    OSError
        Where the disk is full.
    """
    waiting: list[DocumentStates] = []
    nbytes = 0
    with TemporaryDirectory(prefix="blockrank-") as folder:
        parts: list[StatePack] = []
        for document in states:
            waiting.append(document)
            nbytes += document.nbytes_in(dtype)
            if max_bytes is not None and nbytes > max_bytes:
                parts.append(_FilePack(waiting, Path(folder) / f"{len(parts)}.safetensors", dtype))
                waiting, nbytes = [], 0
        if waiting:
            parts.append(StatePack(waiting))
        yield parts
        # Windows deletes no file that is open.
        parts.clear()


class _FilePack(StatePack):
    """States that lie in a file of their own, read anew for every layer."""

    def __init__(self, states: Sequence[DocumentStates], path: Path, dtype: torch.dtype) -> None:
        super().__init__([replace(state, tensors={}) for state in states])
        whole, like = StatePack(states), torch.empty(0, dtype=dtype)
        with system_errors(path.parent):
            save_file({name: whole.get(name, like).contiguous() for name in states[0].names}, path)
        self._file: Any = safe_open(path, framework="pt")

    def _joined(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor
