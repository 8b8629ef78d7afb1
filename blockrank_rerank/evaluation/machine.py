"""Where a number was measured: commit, processor, versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

VERSIONS = ("torch", "transformers", "sentence-transformers", "ir-measures", "bm25s", "numpy")
"""Distributions that a measure may depend on."""
COMMIT_DIGITS = 7


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a measure depends on besides model and data.

    Parameters
    ----------
    commit : str or None
        Of the checkout that the package is run from, with ``+`` where files differ from it; None where it is installed.
    processor, system, python : str
        As the system names them.
    threads : int
        That torch computes with on the CPU.
    instructions : str
        The processor's, as torch uses them.
    gpu : str or None
        The first one that torch can use.
    versions : dict
        Distribution → version, of those that are installed.
    """

    commit: str | None
    processor: str
    system: str
    python: str
    threads: int
    instructions: str
    gpu: str | None
    versions: dict[str, str]

    def __str__(self) -> str:
        """One line."""
        return (
            f"commit {self.commit}, {self.processor}, {self.threads} threads, {self.instructions}, "
            f"torch {self.versions['torch']}"
        )


def machine() -> Machine:
    """Say where this process runs."""
    return Machine(
        commit=_commit(Path(__file__).parents[2]),
        processor=_processor(),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        versions={name: version for name in ("blockrank-rerank", *VERSIONS) if (version := _version(name))},
    )


def _commit(folder: Path) -> str | None:
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")[:COMMIT_DIGITS]
        return f"{commit}+" if _git(folder, "status", "-s", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    named = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
