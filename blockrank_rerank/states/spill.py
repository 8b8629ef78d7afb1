"""States that wait in temporary files."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import torch
from torch import Tensor

from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.states.pack import StatePack


@contextmanager
def spill(states: Iterable[DocumentStates], max_bytes: int | None, dtype: torch.dtype) -> Iterator[list[StatePack]]:
    """Put states side by side for one query, in parts; all but the last in temporary files of about ``max_bytes``.

    The files are in the dtype of the model, in which a part is in memory when it is read: states of a store may be
    smaller, and in different dtypes. They have no name once they are open, so that however the process ends, the
    system frees them.

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
                parts.append(_FilePack(waiting, Path(folder) / f"{len(parts)}.states", dtype))
                waiting, nbytes = [], 0
        if waiting:
            parts.append(StatePack(waiting))
        yield parts
        # Windows deletes no file that is open.
        parts.clear()


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in a file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class SavedTensors:
    """Tensors in a mapped file."""

    def __init__(self, file: BinaryIO, places: Mapping[str, _Place]) -> None:
        # Of its own: whoever changes a tensor changes no file.
        self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._places = places

    def get_tensor(self, name: str) -> Tensor:
        """The tensor of that name; its pages are read when they are used."""
        place = self._places[name]
        count = math.prod(place.shape)
        return torch.frombuffer(self._mapped, dtype=place.dtype, count=count, offset=place.offset).view(place.shape)


def save_file(tensors: Mapping[str, Tensor], path: Path) -> SavedTensors:
    """Write tensors to a new file that has lost its name before the first byte is written, and map it.

    Raises
    ------
    OSError
        Naming the folder, where the disk is full.
    """
    places = {}
    with path.open("xb+") as file:
        with suppress(OSError):  # Windows: when the folder goes
            path.unlink()
        try:
            for name, tensor in tensors.items():
                places[name] = _Place(file.tell(), tensor.shape, tensor.dtype)
                file.write(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
        except OSError as error:
            error.filename = str(path.parent)
            raise
        return SavedTensors(file, places)


class _FilePack(StatePack):
    """States that lie in a file of their own, read anew for every layer."""

    def __init__(self, states: Sequence[DocumentStates], path: Path, dtype: torch.dtype) -> None:
        super().__init__([replace(state, tensors={}) for state in states])
        whole, like = StatePack(states), torch.empty(0, dtype=dtype, device="cpu")
        self._file = save_file({name: whole.get(name, like) for name in states[0].names}, path)

    def _joined(self, name: str) -> Tensor:
        return self._file.get_tensor(name)
