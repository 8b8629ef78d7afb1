"""A file is written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TextIO

from safetensors import SafetensorError


def check_output_path(path: Path, *read: Path | None) -> None:
    """Refuse an output file that could not be written, or that is one of those read, before the work is done.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    IsADirectoryError
        If the path is a folder.
    PermissionError
        If the folder is not writable.
    ValueError
        If the path is a device or a pipe, which cannot be replaced, ``-``, or one of the files read.
    """
    if str(path) == "-":
        raise ValueError("output goes to a file, written whole or not at all, and not to standard output; got '-'")
    folder = path.resolve().parent
    if path.is_dir():
        raise IsADirectoryError(f"expected an output file, got the folder {path}")
    if path.exists() and not path.is_file():
        raise ValueError(f"expected a regular output file, got {path}")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write {path.name} into; create it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {folder} is not writable")
    if path.exists() and any(source and source.exists() and path.samefile(source) for source in read):
        raise ValueError(f"the output would replace {path}, which is read; write to another file")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text stream whose content takes the file's place when the block ends, or never."""
    check_output_path(path)
    # Through a link the file behind it is replaced, and not the link.
    target = path.resolve()
    # Not tempfile: its files are readable by their owner only, whatever the umask says.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    # What has the name already, left behind or planted, is not written through.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        replace_durably(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a write that found the disk full does not know where
        raise


def absolute(path: str | PurePath) -> Path:
    """The path as it stays when the working directory changes, with ``~`` as the home it stands for."""
    return Path(os.path.abspath(Path(path).expanduser()))


def replace_durably(written: Path, target: Path) -> None:
    """Move a file that is on the disk to its place, so that a power cut leaves either the old one or the new one."""
    written.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and not every file system syncs them
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def share_like(path: Path, neighbour: Path) -> None:
    """Let those read a file who may read its neighbour: safetensors writes files that only their owner can read."""
    with suppress(OSError):  # not every file system knows permissions
        path.chmod(neighbour.stat().st_mode & 0o777)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors makes of an error of the system, such as a full disk, back into an OSError with a path."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
