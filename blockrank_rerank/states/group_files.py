"""One group of a store's documents: a safetensors file with an index and a checksum for each of them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blockrank_rerank.states.digest import tensor_bytes
from blockrank_rerank.states.document_states import DocumentStates
from blockrank_rerank.system.files import is_there

GROUPS = "group-[0-9]*.safetensors"
"""Pattern of the names of a store's groups."""

GROUP_BYTES = 16_000_000
"""States of one file of a store at most, which is what a kill loses."""

DAMAGE = (SafetensorError, KeyError, IndexError, ValueError, TypeError, RuntimeError)
"""What reading a damaged group raises: any of its bytes may be wrong, names and shapes included."""

_INDEX = {"digests", "offsets", "truncated", "checksums"}
DIGEST_BYTES = 16


@dataclass(frozen=True)
class Location:
    """Where one document's states are: ``[start, end)`` of the tokens of a group's file."""

    group: Path
    start: int
    end: int
    truncated: bool
    checksum: int


def group_path(folder: Path, number: int) -> Path:
    """The file of a store's group of that number."""
    return folder / f"group-{number:06d}.safetensors"


def group_number(path: Path) -> int:
    """The number in a group's name."""
    return int(path.stem.rpartition("-")[2])


def open_group(path: Path) -> tuple[Any, dict[bytes, Location]] | None:
    """Open a group and read where its documents are, by digest; nothing where another process has set it aside.

    Raises
    ------
    PermissionError
        For a file that this user may not read.
    SafetensorError
        For a damaged one.
    """
    try:
        return _open(path) if is_there(path) else None
    except FileNotFoundError:
        return None
    except SafetensorError:
        raise
    except DAMAGE as error:
        raise SafetensorError(f"its index cannot be read ({type(error).__name__}: {error})") from error


def _open(path: Path) -> tuple[Any, dict[bytes, Location]]:
    group: Any = safe_open(path, framework="pt")
    digests, offsets, truncated, checksums = (
        group.get_tensor(name).tolist() for name in ("digests", "offsets", "truncated", "checksums")
    )
    entries = zip(map(bytes, digests), pairwise(map(int, offsets)), truncated, map(int, checksums), strict=True)
    return group, {
        digest: Location(path, start, end, bool(cut), checksum) for digest, (start, end), cut, checksum in entries
    }


def is_whole(path: Path) -> bool:
    """Whether a group can be opened."""
    try:
        open_group(path)
    except SafetensorError:
        return False
    return True


def read_document(group: Any, location: Location) -> DocumentStates:
    """Read one document's states from its opened group.

    Raises
    ------
    SafetensorError, KeyError
        For a damaged file, and for states that are not those that were written.
    """
    with torch.device("cpu"):  # slices, unlike whole tensors, are made where torch makes tensors by default
        tensors = {name: group.get_slice(name)[location.start : location.end] for name in {*group.keys()} - _INDEX}
    ids = tensors.pop("ids")
    if _checksum(location.truncated, ids, tensors) != location.checksum:
        raise SafetensorError("its checksum does not match")
    return DocumentStates(tuple(ids.tolist()), location.truncated, tensors)


def group_tensors(digests: Sequence[bytes], states: Sequence[DocumentStates]) -> dict[str, Tensor]:
    """What the file of a group holds: index, checksums, token ids and states of its documents, by their digests."""
    ids = [torch.tensor(document.ids, dtype=torch.int32, device="cpu") for document in states]
    checksums = [
        _checksum(document.truncated, tokens, document.tensors) for tokens, document in zip(ids, states, strict=True)
    ]
    lengths = torch.tensor([len(document.ids) for document in states], device="cpu")
    return {
        "digests": torch.tensor([list(digest) for digest in digests], dtype=torch.uint8, device="cpu"),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), lengths.cumsum(0)]),
        "truncated": torch.tensor([document.truncated for document in states], dtype=torch.uint8, device="cpu"),
        "checksums": torch.tensor(checksums, dtype=torch.int64, device="cpu"),
        "ids": torch.cat(ids),
    } | {name: torch.cat([document.tensors[name] for document in states]).cpu() for name in states[0].tensors}


def text_digest(text: str) -> bytes:
    """The digest under which a text's states are found."""
    # Lone surrogates are text too.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class TextDigests(dict[str, bytes]):
    """Digests of texts, each made when it is first asked for."""

    def __missing__(self, text: str) -> bytes:
        digest = self[text] = text_digest(text)
        return digest


def _checksum(truncated: bool, ids: Tensor, tensors: Mapping[str, Tensor]) -> int:
    value = int(truncated)
    for name, tensor in sorted({"ids": ids, **tensors}.items()):
        # The file's header says what the bytes mean, and may be damaged too.
        for part in tensor_bytes(name, tensor):
            value = zlib.crc32(part, value)
    return value
