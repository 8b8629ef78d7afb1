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

from blockrank_rerank.states import DocumentStates, StatePack
from blockrank_rerank.system_errors import system_errors


@contextmanager
def packed(states: Iterable[DocumentStates], max_bytes: int | None) -> Iterator[list[StatePack]]:
    """States side by side for one query, in parts; all but the last in temporary files, of about ``max_bytes`` each.

    Raises
    ------
    OSError
        Where the disk is full.
    """
    waiting: list[DocumentStates] = []
    nbytes = 0
    with TemporaryDirectory(prefix="blockrank-") as folder:
        parts: list[StatePack] = []
        for one in states:
            waiting.append(one)
            nbytes += one.nbytes
            if max_bytes is not None and nbytes > max_bytes:
                parts.append(_FilePack(waiting, Path(folder) / f"{len(parts)}.safetensors"))
                waiting, nbytes = [], 0
        if waiting:
            parts.append(StatePack(waiting))
        yield parts
        # Windows deletes no file that is open.
        parts.clear()


class _FilePack(StatePack):
    """States that lie in a file of their own, read anew for every layer."""

    def __init__(self, states: Sequence[DocumentStates], path: Path) -> None:
        super().__init__([replace(state, tensors={}) for state in states])
        names = states[0].tensors
        with system_errors(path.parent):
            save_file({name: torch.cat([one.tensors[name] for one in states]).cpu() for name in names}, path)
        self._file: Any = safe_open(path, framework="pt")

    def _joined(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor
