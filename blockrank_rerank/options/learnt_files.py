"""Values of the options that name files of what was learnt beside a model: tunings and calibrations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.options.values import plain_path
from blockrank_rerank.system.files import absolute


def plain_tuning(tuning: Any) -> Any:
    """The text of a tuning's path, or of several by name, which stay the same wherever the process goes."""
    if isinstance(tuning, Mapping):
        return {name: plain_tuning(file) for name, file in tuning.items()}
    return plain_path("tuning", tuning)


def check_tuning(tuning: Any) -> Path | dict[str, Path] | None:
    """The path of a tuning, or of several by name, each of which is one.

    Raises
    ------
    FileNotFoundError
        For a file that does not exist.
    ValueError
        For what is no path and no mapping of names to paths, and a file of something else.
    """
    if tuning is None:
        return None
    if isinstance(tuning, Mapping):
        for name in tuning:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"tuning must map names to files, got the name {name!r}")
        return {name: _tuning_file(file) for name, file in tuning.items()}
    return _tuning_file(tuning)


def _tuning_file(file: Any) -> Path:
    from blockrank_rerank.model.tuning import Tuning

    if not isinstance(file, str | os.PathLike) or not str(file).strip():
        raise ValueError(
            f"tuning must be a file that 'blockrank-finetune tune' wrote, or several by name, got {file!r}"
        )
    path = _there(absolute(file, "tuning"), "tuning", "blockrank-finetune tune")
    Tuning.load(path)
    return path


def check_calibration(calibration: Any) -> Path | None:
    """The path of a calibration, which is one.

    Raises
    ------
    FileNotFoundError
        For a file that does not exist.
    ValueError
        For what is no path, and a file of something else.
    """
    from blockrank_rerank.model.probability_map import ProbabilityMap

    if calibration is None:
        return None
    if not isinstance(calibration, str | os.PathLike) or not str(calibration).strip():
        raise ValueError(f"calibration must be a file that 'blockrank calibrate' wrote, got {calibration!r}")
    path = _there(absolute(calibration, "calibration"), "calibration", "blockrank calibrate")
    ProbabilityMap.load(path)
    return path


def _there(path: Path, name: str, command: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{name} must be a file that {command!r} wrote, and there is no {path}")
    return path


def parse_tuning(words: Sequence[str] | None) -> str | dict[str, str] | None:
    """The file of a command line, or several by name: ``legal=legal.safetensors``.

    Raises
    ------
    ValueError
        For several without a name, and a name that comes twice.
    """
    words = words or []
    # A file may have an equals sign in its name.
    if len(words) == 1 and ("=" not in words[0] or Path(words[0]).is_file()):
        return words[0]
    pairs = [word.partition("=")[::2] for word in words]
    if not all(name and file for name, file in pairs):
        raise ValueError(f"--tuning must be NAME=FILE where there are several, got {' '.join(words)}")
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"--tuning must give each name once, got {' '.join(words)}")
    return dict(pairs) or None
