"""Errors reach other processes as they were raised."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import pickle
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "blockrank_rerank"
ARGUMENTS = {
    "RequestError": ((3, "query must not be empty"), {}),
    "DocumentError": ((2, "is empty"), {}),
    "UnknownIdsError": ((["d7"], 2, "states", True), {}),
    "DataError": (("expected a number", "run.trec", 4), {}),
    "ApiError": ((), {"status": 429, "message": "wait", "field": "documents[3]", "headers": {"Retry-After": "2"}}),
    "Overloaded": (("3 requests", 2), {}),
}
"""Of every error that takes more than its message."""


def error_classes():
    """Module and name of every class of the package that derives from an exception, also by way of another one."""
    classes = [
        (path, node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases})
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    known = {"HTTPException", *(n for n, v in vars(builtins).items() if isinstance(v, type) and _is_error(v))}
    found: dict[str, str] = {}
    while more := {name: path for path, name, bases in classes if bases & known and name not in known}:
        known |= more.keys()
        found |= {name: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for name, path in more.items()}
    return sorted(found.items())


def _is_error(kind):
    return issubclass(kind, BaseException)


@pytest.mark.parametrize(("name", "module"), [*error_classes()], ids=[name for name, _ in error_classes()])
def test_an_error_is_the_same_after_pickling_and_copying(name, module):
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        pytest.skip(f"needs an extra: {error}")
    arguments, keywords = ARGUMENTS.get(name, (("what happened",), {}))
    error = kind(*arguments, **keywords)
    error.seen = "later"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for other in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
            assert type(other) is kind
            assert (str(other), repr(other), other.args) == (str(error), repr(error), error.args)
            assert vars(other) == vars(error)


def test_the_errors_that_a_job_may_raise_are_among_them():
    assert ARGUMENTS.keys() <= dict(error_classes()).keys()
