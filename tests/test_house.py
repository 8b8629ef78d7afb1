"""The house keeps its shape: imports go down, nothing is imported in a circle, files and functions stay small."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

import blockrank_rerank
from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.engine import Engine

PACKAGE = Path(__file__).parents[1] / "blockrank_rerank"
FILES = sorted(PACKAGE.rglob("*.py"))
ADAPTERS_AND_KERNELS = sorted(
    path for part in ("integrations", "kernels") for path in (PACKAGE.parent / part).rglob("*.py")
)
FLOORS = [
    {"cli"}, {"serving"}, {"finetune"}, {"evaluation"}, {"adapters", "cross_encoder"}, {"reranker"}, {"options"},
    {"ranking"}, {"engine"}, {"model"}, {"states"}, {"text"}, {"formats"}, {"config"}, {"system"}, {"errors"},
]  # fmt: skip
"""From the top: a room may import its own floor's files and those below."""
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
QUESTION = "What causes iron-deficiency anemia?"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever the statement stands and whoever reads it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES) or {node.module}
    return found & MODULES - {"blockrank_rerank"}


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_is_on_a_floor():
    assert {room_of(module) for module in MODULES if "." in module} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_go_down(path):
    if path.parent == PACKAGE and path.name == "__init__.py":
        return  # names everything, and loads it when it is asked for
    own = room_of(module_of(path))
    upward = {m for m in imports_of(path) if room_of(m) != own and FLOOR[room_of(m)] <= FLOOR[own]}
    assert not upward


def test_the_map_names_the_files_that_are_there():
    text = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)/` \|.*\|(.*)\|$", text, re.MULTILINE)
    named = {folder: set(re.findall(r"`(\w+)`", files)) for folder, files in rows}
    there = {
        str(folder.relative_to(PACKAGE)): {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
        for folder in {path.parent for path in FILES} - {PACKAGE}
    }
    assert named == there


def test_type_checkers_and_the_reference_know_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    known = {alias.name: node.module for node in block.body for alias in node.names}
    assert known == {name: f"blockrank_rerank.{home}" for name, home in blockrank_rerank._HOMES.items()}
    reference = (PACKAGE.parent / "docs/reference/python.md").read_text(encoding="utf-8")
    assert {f"::: blockrank_rerank.{name}" for name in known.keys() - {"DEFAULT_MODEL"}} <= {*reference.splitlines()}


@pytest.mark.parametrize("name", sorted(blockrank_rerank._HOMES.keys() - {"DEFAULT_MODEL"}))
def test_annotations_of_what_is_public_can_be_read_at_run_time(name):
    """FastAPI and pydantic read those of classes, and makers of tools those of methods."""
    public = getattr(blockrank_rerank, name)
    for annotated in [public, *(member for key, member in vars_of(public) if key == "__init__" or key[0] != "_")]:
        get_type_hints(annotated)


def vars_of(public: type) -> list[tuple[str, object]]:
    """The functions of a class that stand in this package."""
    members = inspect.getmembers(public, inspect.isfunction)
    return [(key, member) for key, member in members if member.__module__.startswith("blockrank_rerank.")]


def test_nothing_is_imported_in_a_circle():
    graph = {module_of(path): imports_of(path) for path in FILES if path != PACKAGE / "__init__.py"}
    assert [*TopologicalSorter(graph).static_order()]


def test_a_newcomer_meets_few_entries():
    entries = [entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 20


def test_the_package_stays_below_50_mb():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 50_000_000


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= (350 if path.name == "reranker.py" else 400)
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and not is_command(function):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            if body:
                assert function.end_lineno - body[0].lineno < 60, function.name


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether Typer reads its options off the function's signature."""
    return any("typer" in ast.dump(argument.annotation or function) for argument in function.args.args)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_text_leaves_through_the_doors_that_spell_out_control_characters(path):
    if module_of(path) in {"blockrank_rerank.cli.console", "blockrank_rerank.ranking.terminal"}:
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not names & {
        "print",
        "Console",
        "sys.stdout.write",
        "sys.stderr.write",
        "sys.stdout.buffer.write",
        "os.write",
    }
    bars = [call for call in calls if ast.unparse(call.func) == "Progress"]
    assert all("GuardedConsole" in ast.unparse(bar) for bar in bars)


MAKERS = {
    *(
        "arange",
        "as_tensor",
        "asarray",
        "empty",
        "empty_strided",
        "eye",
        "full",
        "linspace",
        "logspace",
        "ones",
        "rand",
    ),
    *("randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}


@pytest.mark.parametrize("path", [*FILES, *ADAPTERS_AND_KERNELS], ids=lambda path: path.stem)
def test_tensors_are_made_on_a_device_that_is_named(path):
    """A program that ranks may have another default, by ``torch.set_default_device``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {
        call
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any("torch.device(" in ast.unparse(item) for item in block.items)
        for call in ast.walk(block)
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in named]
    made = [call for call in calls if ast.unparse(call.func) in {f"torch.{maker}" for maker in MAKERS}]
    assert not [ast.unparse(call) for call in made if "device" not in {word.arg for word in call.keywords}]


def test_the_engine_is_one_page():
    members = [name for name, value in vars(Engine).items() if callable(value) or hasattr(value, "__get__")]
    assert len([name for name in members if name != "__weakref__" and name != "__dict__"]) <= 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_call_of_rank_stays_in_few_rooms(dtype):
    """Files that a list is read in, once the model is loaded."""
    documents = (PACKAGE.parent / "examples/data/anemia.txt").read_text(encoding="utf-8").splitlines()[::4]
    ranker = BlockRankReranker.from_pretrained(dtype=dtype, device="cpu")
    ranker.rank(QUESTION, documents)
    entered = set()

    def profile(frame, event, _):
        path = frame.f_code.co_filename
        if event == "call" and f"{os.sep}blockrank_rerank{os.sep}" in path:
            entered.add(Path(path).relative_to(PACKAGE))

    assert torch.get_num_threads() == 1  # workers would have profiles of their own
    sys.setprofile(profile)
    try:
        ranker.rank(QUESTION, documents)
    finally:
        sys.setprofile(None)
    assert len(entered) <= 20, sorted(entered)
