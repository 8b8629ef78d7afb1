"""On a GPU nobody waits: what is wrong or fails is a row of a benchmark, and the other contestants go on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_common
    import gpu_forward

    yield gpu_common, gpu_forward
    for name in [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(BENCHMARKS)
    ]:
        del sys.modules[name]


def test_a_wrong_contestant_is_a_row_and_not_an_exit(benchmarks, tmp_path):
    common, forward = benchmarks
    right = torch.zeros(3)
    attempts = {
        "triton": common.Attempt(right + 2),
        "sdpa": common.Attempt(right),
        "full causal": common.Attempt(right + 9),
        "flex": common.Attempt(right * float("nan")),
        "padded": common.Attempt(failure="out of memory", reason="of 8 GiB"),
    }
    found, apart = forward.checked(attempts, tolerance=1.0)
    failures = {name: done.failure for name, done in found.items()}
    expected = {"triton": "wrong by 2.0e+00", "sdpa": None, "full causal": None, "flex": "wrong by nan"}
    assert failures == {**expected, "padded": "out of memory"}
    assert apart["full causal"] == 9.0
    table = common.Table("forward", "here", {"contestant": "<9", "ms": ">16.2f"}, tmp_path / "rows.json")
    for name, done in found.items():
        table.add({"contestant": name} | done.row)
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["contestant"]: row["failure"] for row in rows} == failures
    assert rows[-1]["reason"] == "of 8 GiB"


def test_what_a_contestant_raises_is_its_failure_and_the_others_are_timed(benchmarks):
    common, _ = benchmarks

    def fail():
        raise RuntimeError("no\nsuch kernel")

    def lack():
        raise torch.OutOfMemoryError("too little")

    found = common.medians_ms({"broken": fail, "large": lack, "fine": lambda: None}, 3, torch.device("cpu"))
    assert [done.failure for done in found.values()] == ["RuntimeError", "out of memory", None]
    assert found["broken"].reason == "no such kernel"
    assert found["fine"].result >= 0
