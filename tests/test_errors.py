"""Errors reach other processes as they were raised, and numbers are refused in the same words everywhere."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from blockrank_rerank.errors import check_real, check_whole

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


def test_whole_numbers_are_those_of_python_and_numpy():
    assert [check_whole("n", value) for value in (-3, np.int64(7))] == [-3, 7]
    assert type(check_whole("n", np.int64(7), 7)) is int
    for value in (True, 2.0, "2", np.float32(2), None):
        with pytest.raises(ValueError, match=f"^n must be a whole number, or None, got {re.escape(repr(value))}$"):
            check_whole("n", value, otherwise=", or None")
    with pytest.raises(ValueError, match=r"^n must be a whole number of at least 1, got 0$"):
        check_whole("n", 0, 1)


def test_numbers_are_those_of_python_and_numpy_but_for_nan():
    for value in (-3, 0.5, float("inf"), np.float32(2), np.int8(1)):
        check_real("x", value)
    for value in (True, float("nan"), np.float64("nan"), "2", [0.5]):
        with pytest.raises(ValueError, match=r"^x must be a number, got "):
            check_real("x", value)
    check_real("x", 1, (0, 1))
    with pytest.raises(ValueError, match=r"^x must be a number in 0\.\.1, or None, got 1\.5$"):
        check_real("x", 1.5, (0, 1), ", or None")
