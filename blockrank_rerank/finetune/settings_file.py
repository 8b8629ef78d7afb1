"""The YAML that settings are written in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
        raise ImportError("blockrank-finetune needs its extra: pip install 'blockrank-rerank[train]'") from error

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if repeated := [key for number, key in enumerate(keys) if key in keys[:number]]:
                raise ValueError(f"{name}: {repeated[0]!r} is given twice; keep one")
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the settings that a YAML file holds.

    Raises
    ------
    ValueError
        For a file that is not UTF-8, no YAML, or holds something else than keys with values.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise ValueError(f"{path} must be UTF-8 text, got {found}; convert the file to UTF-8") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings as key: value, got {type(values).__name__}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """Write settings as YAML, in their order, for :func:`read_yaml`."""
    import yaml

    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
