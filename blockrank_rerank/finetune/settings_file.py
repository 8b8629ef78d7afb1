"""The YAML that settings are written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.config import refuse_unknown_names
from blockrank_rerank.errors import install_line
from blockrank_rerank.system.files import UserPath, check_readable, expanded

LARGEST_FILE = 1 << 20
"""Characters of a file of settings at most."""


def parse_yaml(text: str, name: str) -> Any:
    """Parse a YAML text, in which no key may come twice.

    Parameters
    ----------
    text : str
        YAML of plain values.
    name : str
        What the text is called in messages.

    Raises
    ------
    ValueError
        For what is no YAML, and a key that comes twice.
    ImportError
        Without the ``train`` extra, with the line that installs it.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"blockrank-finetune needs its extra; {install_line('train')}") from error

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if repeated := [key for number, key in enumerate(keys) if key in keys[:number]]:
                raise ValueError(f"{name}: {repeated[0]!r} is given twice; keep one")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply to be settings; write them as key: value") from None
    except (yaml.YAMLError, TypeError, AttributeError, ValueError) as error:
        told = str(error).startswith(name)
        found = " ".join(str(error).split())
        raise ValueError(found if told else f"{name} is not valid YAML: {found}") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the settings that a YAML file holds.

    Raises
    ------
    ValueError
        For a file that is not UTF-8, no YAML, too large, or holds something else than keys with values.
    IsADirectoryError
        For a folder.
    DataError
        For a pipe without a shell's writer, or a device.
    """
    check_readable(path, "settings")
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ValueError(f"{path} has more than {LARGEST_FILE:,} characters, which is more than settings need")
        values = parse_yaml(text, str(path))
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise ValueError(f"{path} must be UTF-8 text, got {found}; convert the file to UTF-8") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ValueError(f"{path} must hold settings as key: value, got {found}")
    return values


def read_settings(path: UserPath | None, overrides: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Read the settings of a file, with some replaced; without a file all of them come from ``overrides``.

    Raises
    ------
    ValueError
        As :func:`read_yaml`, for settings that are none of the known ones, and where ``output`` or ``data`` is missing.
    """
    values = dict(read_yaml(expanded(path, "the settings file")) if path else {}) | dict(overrides)
    refuse_unknown_names(values, known, str(path or "the command line"))
    missing = {"output", "data"} - set(values)
    if missing:
        raise ValueError(f"settings need {' and '.join(sorted(missing))}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """Write settings as YAML, in their order, for :func:`read_yaml`."""
    import yaml

    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
