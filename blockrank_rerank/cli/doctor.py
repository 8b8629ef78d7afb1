"""``blockrank doctor``: what is installed, and what of this machine can be used."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from typing import NamedTuple

import typer
from rich.table import Table

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.console import literal, print_json, print_table
from blockrank_rerank.cli.failures import RUN_TIME, message
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.errors import install_line


class Package(NamedTuple):
    """A distribution to look for, and what its absence means."""

    name: str
    absence: str


BASE = (
    Package("blockrank-rerank", "run from a source tree: pip install -e ."),
    Package("torch", f"required; {install_line()}"),
    Package("transformers", f"required; {install_line()}"),
    Package("tokenizers", f"required; {install_line()}"),
    Package("triton", "only needed for the Triton kernels on a GPU; everything else works without it"),
)
OPTIONAL = (
    Package("ir-measures", f"for blockrank evaluate; {install_line('eval')}"),
    Package("bm25s", f"for blockrank evaluate without --run; {install_line('eval')}"),
    Package("matplotlib", f"for blockrank report; {install_line('report')}"),
    Package("scikit-learn", f"for blockrank calibrate; {install_line('calibrate')}"),
    Package("accelerate", f"for blockrank-finetune train; {install_line('train')}"),
    Package("gguf", f"for models in GGUF files; {install_line('gguf')}"),
    Package("openvino", f"for --quantization int8; {install_line('openvino')}"),
    Package("fastapi", f"for blockrank serve; {install_line('serve')}"),
    Package("mcp", f"for blockrank mcp; {install_line('mcp')}"),
    Package("ray", f"for blockrank rerank --fleet; {install_line('ray')}"),
    Package("llama-index-core", "to use the LlamaIndex adapter: pip install llama-index-core"),
    Package("haystack-ai", "to use the Haystack adapter: pip install haystack-ai"),
    Package("langchain-core", "to use the LangChain adapter: pip install langchain-core"),
    Package("rerankers", "to use the adapter of rerankers: pip install rerankers"),
    Package(
        "sentence-transformers",
        "to evaluate with its CrossEncoder evaluators: pip install sentence-transformers",
    ),
)
PROBE = ("how long do fleas live", ["Fleas live for up to three months.", "Concrete is poured into forms."])


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    usable: bool
    detail: str


def doctor(json: opt.Json = False) -> None:
    """Say what is installed, what of this machine is usable, and whether the default model works.

    For example: blockrank doctor --json
    """
    sections = {
        "versions": [Finding("python", True, platform.python_version()), *map(_look_up, BASE)],
        "optional": [*map(_look_up, OPTIONAL)],
        "choices": _choices(),
        "model": [_try_default_model()],
    }
    print_json({name: [f._asdict() for f in found] for name, found in sections.items()}) if json else _print(sections)
    if not all(finding.usable for finding in sections["model"]):
        raise typer.Exit(RUN_TIME)


def _look_up(package: Package) -> Finding:
    try:
        return Finding(package.name, True, importlib.metadata.version(package.name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(package.name, False, f"not installed; {package.absence}")


def _choices() -> list[Finding]:
    from blockrank_rerank.reranker import describe_choices

    return [Finding(*choice) for choice in describe_choices()]


def _try_default_model() -> Finding:
    start = time.perf_counter()
    try:
        ranker = load_ranker(opt.ModelOptions())
        loaded = time.perf_counter()
        ranking = ranker.rank(*PROBE)
        ranked = time.perf_counter()
    except Exception as error:  # whatever is wrong with the installation is what this command is for
        return Finding("default model", False, message(error))
    best = PROBE[1][ranking[0].index]
    detail = (
        f"loaded in {loaded - start:.2f} s on {ranker.device} in {ranker.dtype}; "
        f"ranked {len(ranking)} documents in {(ranked - loaded) * 1000:.0f} ms, best: {best!r}"
    )
    return Finding("default model", True, detail)


def _print(sections: dict[str, list[Finding]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in _rows(sections):
        table.add_row(*map(literal, row))
    print_table(table)


def _rows(sections: dict[str, list[Finding]]) -> Iterator[tuple[str, str, str]]:
    for name, findings in sections.items():
        yield name, "", ""
        for what, usable, detail in findings:
            yield f"  {what}", "yes" if usable else "no", detail
