"""The lowest versions that pyproject.toml allows are those that are tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HONEST = {
    "typer": (0, 26),
    "filelock": (3, 20, 1),
    "safetensors": (0, 8),
    "rich": (14, 3),
    "accelerate": (1, 2),
    "peft": (0, 18),
}
"""Distribution → the first version with which everything works; the changelog says what earlier ones do."""


def lowest() -> dict[str, tuple[int, ...]]:
    script = [sys.executable, str(ROOT / ".ci/lowest.py")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name: tuple(map(int, version.split("."))) for name, version in (line.split("==") for line in lines)}


def test_every_distribution_that_users_install_has_a_lowest_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    users = text[text.index("dependencies = [") : text.index("\ntest = [")]
    named = set(re.findall(r'"([\w-]+)(?:\[[\w,-]+\])?>=', users))
    assert lowest().keys() == named
    assert {"torch", "transformers", "tokenizers", "peft", "datasets", "haystack-ai"} <= named


def test_no_bound_allows_what_is_known_to_fail():
    found = lowest()
    assert all(found[name] >= version for name, version in HONEST.items())


def test_the_makefile_and_the_workflow_try_them():
    for name in ("Makefile", ".github/workflows/lowest.yml"):
        assert ".ci/lowest.py" in (ROOT / name).read_text(encoding="utf-8")


def test_the_publishing_workflow_builds_with_the_script_that_anybody_can_run():
    assert "run: .ci/release" in (ROOT / ".github/workflows/publish.yml").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci/release", os.X_OK)
