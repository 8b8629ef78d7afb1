"""Benchmarks import what there is: they are run by hand, and rarely."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py"))}


def imported(path):
    """Module and name of every ``from`` import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def defined(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def is_there(module, name):
    return hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_imports_what_is_there(name):
    found = [*imported(SCRIPTS[name])]
    ours = [pair for pair in found if pair[0].startswith(("blockrank_rerank", "blockrank_kernels"))]
    missing = [pair for pair in ours if not is_there(*pair)]
    missing += [pair for pair in found if pair[0] in SCRIPTS and pair[1] not in defined(SCRIPTS[pair[0]])]
    assert not missing


def test_the_tests_that_a_benchmark_runs_first_are_there():
    calls = [
        node
        for path in SCRIPTS.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_green"
    ]
    named = [argument.value for call in calls for argument in call.args]
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
