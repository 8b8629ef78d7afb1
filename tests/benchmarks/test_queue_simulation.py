"""The simulated queue follows the server's rules, and the calculator its own formula."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PASS = 100.0
"""Most that requests of one turn cost together."""


@pytest.fixture
def script(monkeypatch):
    """Gives a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in [name for name in set(sys.modules) - before if (BENCHMARKS / f"{name}.py").exists()]:
        del sys.modules[name]


@pytest.fixture
def simulated(script):
    """Latencies where a turn takes as many seconds as it costs, in rounds of at most a pass."""
    function = script("queue_simulation").simulated
    return lambda *clients: function(clients, PASS, float, lambda cost: math.ceil(cost / PASS))


def test_requests_of_one_client_go_one_after_the_other(simulated):
    assert simulated([10.0, 20.0, 30.0]) == [10.0, 20.0, 30.0]


def test_requests_that_wait_together_share_a_turn_up_to_a_pass(simulated):
    assert simulated([40.0], [50.0]) == [90.0, 90.0]
    assert simulated([60.0], [50.0]) == [110.0, 50.0]


def test_a_short_request_waits_for_one_round_of_a_long_one(simulated):
    assert simulated([300.0], [10.0, 10.0]) == [320.0, 10.0, 110.0]


def test_long_requests_go_one_after_the_other(simulated):
    assert simulated([200.0], [300.0]) == [200.0, 500.0]


def test_nothing_is_lost(simulated):
    clients = [[float(7 * n % 150 + 1) for n in range(k, k + 20)] for k in range(6)]
    assert len(simulated(*clients)) == 120
    assert min(simulated(*clients)) > 0


def test_cores_grow_with_what_must_be_read(script):
    capacity = script("capacity")
    costs = capacity.Costs(request=0.02, read=0.01, known=0.001)
    assert capacity.cores(100, 20, 0.0, costs, busy=1.0) == pytest.approx(1.1)
    assert capacity.cores(100, 20, 1.0, costs, busy=1.0) == pytest.approx(0.2)
    assert capacity.cores(100, 20, 0.5, costs, busy=0.5) == pytest.approx(1.3)
    assert capacity.fitted(1, 0.03, 20, 0.22) == pytest.approx((0.02, 0.01))
    assert capacity.fitted(1, 0.04, 20, 0.03) == (0.04, 0.0)
