"""Files of users: found where they are meant, refused where they cannot be read, written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from safetensors import SafetensorError

from blockrank_rerank.errors import DataError

UserPath = str | os.PathLike[str]
"""A path as a user gives it: with ``~``, or relative to where the process is."""

STREAMS = ("/dev/", "/proc/")
"""Where pipes have a writer: ``<(…)`` of a shell, and standard input."""
_OPENED = ("/dev/null", "/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Devices that end, and what whoever started the process opened for it, such as a terminal."""


def expanded(path: UserPath, name: str) -> Path:
    """Return a path with the home folder in place of ``~``.

    Parameters
    ----------
    path : str or path-like
        As a user gave it.
    name : str
        Of the argument or setting, for the message.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} names a home folder that is not known, got {str(path)!r}; write it out") from error


def absolute(path: UserPath, name: str) -> Path:
    """Return a path that stays the same wherever the process goes.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    return Path(os.path.abspath(expanded(path, name)))


def path_text(path: Any) -> Any:
    """Return the text of a path of any type, and anything else as it is."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path


def check_readable(path: Path, noun: str, *, named_pipes: bool = False) -> None:
    """Refuse what is no file to read from, before reading it waits for ever or never ends.

    Parameters
    ----------
    path : Path
        Of the file.
    noun : str
        What the file is to hold, for the message.
    named_pipes : bool
        Whether the reader itself sees to it that a pipe has a writer.

    Raises
    ------
    IsADirectoryError
        If it is a folder.
    DataError
        If it is a pipe, a socket or a device; pipes of a shell are read.
    """
    if not path.exists():
        return  # opening it says so
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of {noun}, got the folder {path}; name a file in it")
    mode, name = path.stat().st_mode, str(path)
    piped = stat.S_ISFIFO(mode) and (named_pipes or name.startswith(STREAMS))
    if not (stat.S_ISREG(mode) or piped or name.startswith(_OPENED)):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(f"expected a file of {noun}, got a {kind}; write its content to a file first", name)


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
    OSError
        If the folder takes no file of this name for another reason: it is too long, or the folder is the system's.
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
    try:  # access is no promise, least of all to root
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.resolve().name}.", suffix=".tmp"):
            pass
    except OSError as error:
        raise OSError(error.errno, f"cannot write the output: {error.strerror}", str(path)) from error


def check_lock(path: Path) -> Path:
    """Return the path of a lock, unless it is a link: what it points at would be emptied.

    Raises
    ------
    ValueError
        Saying what to do.
    """
    if path.is_symlink():
        raise ValueError(f"expected {path} to be a lock that this program makes, got a link; remove it")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text stream whose content takes the file's place when the block ends, or never."""
    with _replacing(path, "x", encoding="utf-8", newline="\n") as stream:
        yield stream


def replace_with(path: Path, content: bytes) -> None:
    """Write a file of these bytes whole or not at all."""
    with _replacing(path, "xb") as stream:
        stream.write(content)


@contextmanager
def _replacing(path: Path, mode: str, **how: Any) -> Iterator[Any]:
    check_output_path(path)
    # Through a link the file behind it is replaced, and not the link.
    target = path.resolve()
    # Not tempfile: its files are readable by their owner only, whatever the umask says.
    # By chance, as machines that share a folder may give processes the same number; what has the name is an error.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open(mode, **how) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        replace_durably(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a write that found the disk full does not know where
        raise


@contextmanager
def placing(path: Path, neighbour: Path) -> Iterator[Path]:
    """Name of a file to write, which takes its place when the block ends, or never; its neighbour's readers read it.

    Whoever writes holds a lock: the name is always the same, so that what a killed writer left is in nobody's way.
    """
    unfinished = path.with_suffix(".unfinished")
    # What has the name already, left behind or planted, is not written through.
    unfinished.unlink(missing_ok=True)
    try:
        with system_errors(path.parent):
            yield unfinished
            sync(unfinished)
        share_like(unfinished, neighbour)
        replace_durably(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


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


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until all files of a folder, and their names, are on the disk."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(path)
    sync(folder)


class FileIdentity(NamedTuple):
    """What tells a file from another one that comes in its place: its number on the disk, its bytes and its time."""

    inode: int
    nbytes: int
    modified_ns: int


def file_identity(path: Path) -> FileIdentity | None:
    """What tells the file of that name from another one; nothing where there is none by now."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return FileIdentity(found.st_ino, found.st_size, found.st_mtime_ns)
    return None


def is_there(path: Path) -> bool:
    """Whether there is a file, and not gone by now, which is to be read.

    Raises
    ------
    PermissionError
        For one that this user may not read.
    ValueError
        For what is no regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise ValueError("it is not a regular file")
    if not os.access(path, os.R_OK) and path.exists():
        raise PermissionError(f"{path} may not be read by this user; change its permissions")
    return True


def share_like(path: Path, neighbour: Path) -> None:
    """Let those read a file who may read its neighbour: safetensors writes files that only their owner can read."""
    with suppress(OSError):  # not every file system knows permissions
        path.chmod(neighbour.stat().st_mode & 0o777)


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Turn what safetensors makes of an error of the system, such as a full disk, back into an OSError with a path.

    One of Python's own gets the path, where it has none: a write that found the disk full does not know where.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
