"""Run what README.md and docs/index.md show, and compare what it prints with what stands there.

    python .ci/readme_outputs.py            # fails where something differs
    python .ci/readme_outputs.py --write    # puts what is printed there, once the model or the output has changed

Shown are blocks of a console, with a command after `$`, and blocks of Python that a block of text follows. The extra
eval is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs/index.md"]
CONSOLE = re.compile(r"^```console\n\$ (.*?)\n()(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$(\n+```text\n)(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = "pip install . && "
"""Before a command that is then run without it."""

NUMBER = re.compile(r"\d+\.\d+")
TOLERANCE = 0.01
"""Of numbers with decimals: machines without fast bf16 compute in fp32."""


def command_of(block: re.Match[str]) -> list[str]:
    """Return what runs a block with this Python."""
    if block.re is PYTHON:
        return [sys.executable, "-c", block[1]]
    program, *arguments = shlex.split(block[1].removeprefix(INSTALLS))
    start = {"blockrank": ["-m", "blockrank_rerank.cli"], "python": []}[program]
    return [sys.executable, *start, *arguments]


def printed(command: list[str]) -> str:
    """Run a command in the repository, on a terminal of 100 columns, and return what it prints."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(done.stderr)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def same(shown: str, output: str) -> bool:
    """Whether two texts have the same words, and numbers with decimals that are close."""
    texts = [NUMBER.sub("#", text).split() for text in (shown, output)]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (shown, output)]
    # 0.83 and 0.82 differ by a little more than 0.01 in binary.
    return texts[0] == texts[1] and all(round(abs(a - b), 9) <= TOLERANCE for a, b in zip(*numbers, strict=True))


def blocks(page: str) -> list[re.Match[str]]:
    """All blocks of a page whose output is shown."""
    return [block for kind in (CONSOLE, PYTHON) for block in kind.finditer(page)]


def with_outputs(page: str, run: Callable[[list[str]], str] = printed) -> str:
    """Return a page with what its blocks print, where that is not what stands there."""
    for block in sorted(blocks(page), key=lambda block: -block.start()):
        output = run(command_of(block))
        if not same(block[3], output):
            page = page[: block.start(3)] + output + page[block.end(3) :]
    return page


def main(write: bool) -> None:
    """Compare all pages, or write them."""
    outputs: dict[tuple[str, ...], str] = {}

    def run_once(command: list[str]) -> str:
        if tuple(command) not in outputs:
            outputs[tuple(command)] = printed(command)
        return outputs[tuple(command)]

    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        new = with_outputs(page, run_once)
        if new == page:
            continue
        if not write:
            raise SystemExit(f"{path.name} does not show what is printed; python .ci/readme_outputs.py --write")
        path.write_text(new, encoding="utf-8")
        print(f"{path.name} is written anew")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    main(**vars(parser.parse_args()))
