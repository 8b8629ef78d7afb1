"""A child of the process ranks, whatever its parent was doing when it forked."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import workers
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.states.cache import StateCache
from blockrank_rerank.states.store import StateStore
from blockrank_rerank.system import forks
from blockrank_rerank.system.forks import ForkLock, unforked
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, WORDS

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # Python warns of forks beside threads
]

QUERY = "what treats a heart attack"
DOCUMENTS = [" ".join(WORDS[number:] + WORDS[:number]) for number in range(len(WORDS))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)


def start_openmp():
    """An operation long enough that torch shares it out among the threads of OpenMP."""
    return float(torch.ones(1_000_000).exp().sum())


def child_ends_well(work, seconds=300):
    """Whether a forked child does some work, and is not found waiting for ever."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.parametrize("threads", [2, 4])
def test_a_child_ranks_after_its_parent_has(folder, set_threads, threads):
    set_threads(threads)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    expected = ranker.rank(QUERY, DOCUMENTS)
    start_openmp()

    def work():
        start_openmp()
        return torch.get_num_threads() == threads and ranker.rank(QUERY, DOCUMENTS) == expected

    assert child_ends_well(work)
    assert ranker.rank(QUERY, DOCUMENTS) == expected
    assert child_ends_well(work)


def test_a_child_of_a_child_ranks(folder, set_threads):
    set_threads(2)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    ranker.rank(QUERY, DOCUMENTS)
    start_openmp()

    def work():
        start_openmp()
        ranker.rank(QUERY, DOCUMENTS)
        return child_ends_well(lambda: start_openmp() and ranker.rank(QUERY, DOCUMENTS))

    assert child_ends_well(work)


def test_a_child_ranks_with_the_default_model_after_its_parent_has(set_threads):
    set_threads(2)
    documents = Path("examples/data/anemia.txt").read_text(encoding="utf-8").splitlines()
    ranker = BlockRankReranker.from_pretrained(dtype="float32", device="cpu")
    best = ranker.rank("What causes iron-deficiency anemia?", documents)[0].index
    assert child_ends_well(lambda: ranker.rank("What causes iron-deficiency anemia?", documents)[0].index == best)


def test_a_child_computes_with_one_thread_where_openmp_cannot_end_its_own(set_threads, monkeypatch):
    set_threads(2)
    start_openmp()
    monkeypatch.setattr(workers, "_libgomp", lambda path: None)
    if workers._libgomp_paths():
        assert child_ends_well(lambda: start_openmp() and torch.get_num_threads() == 1)
    assert torch.get_num_threads() == 2


def beside(work):
    """Runs some work in a thread over and over again; returns what stops it."""
    stopping = threading.Event()

    def loop():
        while not stopping.wait(0.02):  # leaves a file lock open long enough for others, who look now and then
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    return lambda: (stopping.set(), thread.join(60))


def test_children_rank_that_were_forked_while_a_model_was_being_loaded(folder, monkeypatch):
    begun, load = threading.Event(), Engine.load.__func__

    def slow(cls, spec):
        begun.set()
        time.sleep(0.5)
        return load(cls, spec)

    monkeypatch.setattr(Engine, "load", classmethod(slow))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    thread = threading.Thread(target=ranker.rank, args=(QUERY, DOCUMENTS))
    thread.start()
    assert begun.wait(30)
    assert child_ends_well(lambda: ranker.rank(QUERY, DOCUMENTS))
    thread.join(30)


def test_a_child_loads_a_model_where_the_fork_did_not_wait_for_its_parents_loading(folder, monkeypatch):
    monkeypatch.setattr(forks, "WAIT_S", 0.05)
    begun, end, load, parent = threading.Event(), threading.Event(), Engine.load.__func__, os.getpid()

    def slow(cls, spec):
        if os.getpid() == parent:
            begun.set()
            end.wait(60)
        return load(cls, spec)

    monkeypatch.setattr(Engine, "load", classmethod(slow))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    thread = threading.Thread(target=ranker.rank, args=(QUERY, DOCUMENTS))
    thread.start()
    try:
        assert begun.wait(30)
        assert child_ends_well(lambda: ranker.rank(QUERY, DOCUMENTS))
    finally:
        end.set()
        thread.join(30)


@pytest.mark.parametrize("threads", [1, 2])
def test_children_rank_that_were_forked_while_a_cache_was_being_written(folder, set_threads, threads):
    set_threads(threads)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", cache="200KB")
    expected = [document.index for document in ranker.rank(QUERY, DOCUMENTS)]
    stop = beside(lambda: ranker.rank(QUERY, DOCUMENTS))
    try:
        for _ in range(6):
            assert child_ends_well(lambda: [d.index for d in ranker.rank(QUERY, DOCUMENTS)] == expected)
    finally:
        stop()


def test_children_rank_and_write_that_were_forked_while_a_store_was_being_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes seconds where others use the disk
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    ranker.prepare_store(tmp_path / "store", DOCUMENTS[:1])
    numbers = iter(range(10**6))
    stop = beside(lambda: ranker.prepare_store(tmp_path / "store", [f"sugar {next(numbers)} {os.getpid()}"]))
    try:
        for number in range(10):
            child_text = f"liver {number}"
            assert child_ends_well(lambda text=child_text: ranker.prepare_store(tmp_path / "store", [text]).prepared)
    finally:
        stop()
    store = StateStore(tmp_path / "store", ranker.engine.fingerprint)
    assert all(f"liver {number}" in store for number in range(10))


@pytest.mark.parametrize("make", [ForkLock, lambda: StateCache(10)._lock], ids=["lock", "cache"])
def test_a_lock_that_a_thread_of_the_parent_holds_is_open_in_the_child(monkeypatch, make):
    monkeypatch.setattr(forks, "WAIT_S", 0.05)
    lock, held, end = make(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30)

        def work():
            with lock:
                return True

        assert child_ends_well(work)
    finally:
        end.set()
        thread.join()
    with lock:
        pass


def test_a_fork_waits_for_a_section_of_another_thread_and_not_for_its_own():
    inside, ended = threading.Event(), []

    def section():
        with unforked():
            inside.set()
            time.sleep(0.3)
            ended.append(True)

    thread = threading.Thread(target=section)
    thread.start()
    assert inside.wait(30)
    with unforked(), ForkLock():
        assert child_ends_well(lambda: ended == [True])
    thread.join()
    assert child_ends_well(lambda: True)
