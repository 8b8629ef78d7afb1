from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PREPARED = (ROOT / "docs/prepared.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
START = (ROOT / "docs/index.md").read_text(encoding="utf-8")
EXECUTED = BLOCK.findall(README) + BLOCK.findall(START)
ROW = re.compile(r"^ +(\d+)  (0\.\d+)  +(?:[01]\.\d+  )?(\S+) ")


def rows(text: str) -> list[tuple[str, str, float]]:
    found = [ROW.match(line) for line in text.splitlines()]
    return [(row[1], row[3], float(row[2])) for row in found if row]


@pytest.mark.parametrize("code", EXECUTED)
def test_every_python_block_of_the_readme_and_the_start_page_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")


def test_the_python_blocks_of_the_page_on_prepared_documents_run_one_after_the_other(capsys):
    exec(compile("\n".join(BLOCK.findall(PREPARED)), "prepared.md", "exec"), {})
    assert "hits=2" in capsys.readouterr().out


def test_the_first_command_prints_what_the_readme_shows():
    command, shown = re.search(r"^\$ pip install \. && (.*?)\n(.*?)^```", README, re.MULTILINE | re.DOTALL).groups()
    assert README.index(command) < len("\n".join(README.splitlines()[:15]))
    arguments = shlex.split(command)
    assert arguments[0] == "blockrank"
    done = subprocess.run(
        [sys.executable, "-m", "blockrank_rerank.cli", *arguments[1:]],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    printed, expected = rows(done.stdout), rows(shown)
    assert len(expected) == 3
    assert [row[:2] for row in printed] == [row[:2] for row in expected]
    # Machines without fast bf16 score in fp32: the third decimal may differ.
    assert [row[2] for row in printed] == pytest.approx([row[2] for row in expected], abs=5e-3)


def test_links_in_the_readme_lead_somewhere():
    local = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
