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


@contextmanager
def packed(states: Iterable[DocumentStates], max_bytes: int | None) -> Iterator[StatePack]:
    """States side by side for one query; in temporary files where they are more than ``max_bytes``.

    Raises
    ------
    OSError
        Where the disk is full.
    """
    waiting: list[DocumentStates] = []
    written: list[DocumentStates] = []
    nbytes = 0
    with TemporaryDirectory(prefix="blockrank-") as folder:
        files: list[Any] = []
        for one in states:
            waiting.append(one)
            nbytes += one.nbytes
            if max_bytes is not None and nbytes > max_bytes:
                files.append(_write(waiting, Path(folder) / f"{len(files)}.safetensors"))
                written += [replace(state, tensors={}) for state in waiting]
                waiting, nbytes = [], 0
        yield _PassingPack(written, files, waiting)
        # Windows deletes no file that is open.
        files.clear()


def _write(states: Sequence[DocumentStates], path: Path) -> Any:
    names = states[0].tensors
    save_file({name: torch.cat([one.tensors[name] for one in states]).cpu().contiguous() for name in names}, path)
    return safe_open(path, framework="pt")


class _PassingPack(StatePack):
    """Joins a layer's states when asked for them. The first lie in files; ``written`` are they without tensors."""

    def __init__(self, written: Sequence[DocumentStates], files: Sequence[Any], rest: Sequence[DocumentStates]) -> None:
        super().__init__([*written, *rest])
        self._files, self._rest = files, rest

    def _joined(self, name: str) -> Tensor:
        # Not kept: the next layer needs the room.
        return torch.cat(
            [file.get_tensor(name) for file in self._files] + [one.tensors[name].cpu() for one in self._rest]
        )
