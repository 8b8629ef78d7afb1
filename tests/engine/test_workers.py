"""Workers share out torch's threads and change nothing but the time."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import budget as budget_module
from blockrank_rerank.engine import engine, workers
from blockrank_rerank.engine.workers import in_workers, worker_count
from blockrank_rerank.model import devices
from tests.states.test_prepared import assert_same, save_family, save_ranker
from tests.tiny_models import BERT_CONFIG, WORDS

DOCUMENTS = [" ".join((WORDS * 2)[number % 7 : number % 7 + 8 + number % 5]) for number in range(30)]
REQUESTS = [("what treats a heart attack", DOCUMENTS[:number]) for number in (1, 7, 30, 2, 30, 0, 5)]


@pytest.mark.parametrize(
    ("threads", "most", "expected"),
    [(1, 4, 1), (2, 4, 2), (3, 4, 3), (4, 4, 4), (5, 4, 1), (6, 4, 3), (8, 4, 4), (4, 3, 2), (4, 1, 1), (4, 0, 1)],
)
def test_workers_divide_the_threads_evenly(set_threads, threads, most, expected):
    set_threads(threads)
    assert worker_count(most) == expected


def test_results_come_in_order_from_workers_with_their_share_of_threads(set_threads):
    set_threads(4)
    meeting = threading.Barrier(2)

    def work(number):
        meeting.wait(60)  # only two at a time get on
        return number, threading.get_ident(), (torch.get_num_threads(), torch.is_inference_mode_enabled())

    numbers, threads, states = zip(*in_workers(work, range(6), 2), strict=True)
    assert numbers == tuple(range(6))
    assert len({*threads} - {threading.get_ident()}) == 2
    assert {*states} == {(2, True)}
    assert torch.get_num_threads() == 4
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4


def test_one_item_or_one_worker_needs_no_thread(set_threads):
    set_threads(4)
    here = threading.get_ident()
    assert in_workers(lambda _: threading.get_ident(), [0], 4) == [here]
    assert in_workers(lambda _: threading.get_ident(), [0, 1], 1) == [here, here]
    assert in_workers(lambda _: here, [], 4) == []


def test_the_first_failure_reaches_the_caller_and_the_rest_is_not_begun(set_threads):
    set_threads(2)
    begun = []

    def work(number):
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError("number 0")
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError, match="number 0"):
        in_workers(work, range(100), 2)
    assert len(begun) < 50
    assert in_workers(abs, [-1, -2], 2) == [1, 2]


def test_a_short_list_does_not_wait_for_the_whole_of_a_long_one(set_threads):
    set_threads(2)
    order, begun, go_on = [], threading.Event(), threading.Event()

    def work(name):
        order.append(name)
        begun.set()
        go_on.wait(60)

    with ThreadPoolExecutor(2) as callers:
        long = callers.submit(in_workers, work, ["long"] * 20, 2)
        assert begun.wait(60)
        short = callers.submit(in_workers, work, ["short"] * 2, 2)
        while workers._pool(2, 1)._work_queue.qsize() < 2:  # what the short list asks for waits
            time.sleep(0.001)
        go_on.set()
        for caller in (long, short):
            caller.result(60)
    assert len(order) == 22
    assert max(place for place, name in enumerate(order) if name == "short") < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_workers_of_its_own(set_threads):
    set_threads(2)
    assert in_workers(abs, [-1, -2], 2) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(0 if in_workers(abs, [-3, -4], 2) == [3, 4] else 1)
    for _ in range(1200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads of its parent")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def worked(monkeypatch):
    """Makes the smallest pass worth a worker; says how many parts went to workers."""
    parts = []

    def counted(function, items, count):
        parts.append(len(items) if count > 1 else 1)
        return workers.in_workers(function, items, count)

    monkeypatch.setattr(budget_module, "MIN_TOKENS_PER_WORKER", 1)
    monkeypatch.setattr(engine, "in_workers", counted)
    return parts


@pytest.mark.parametrize("budget", [40, 200, 100_000])
@pytest.mark.parametrize("family", ["bert", "llama", "gemma2"])
def test_rankings_are_those_of_one_thread(family, budget, tmp_path, set_threads, worked, monkeypatch):
    ranker = BlockRankReranker.from_pretrained(save_family(tmp_path, family), dtype="float32", device="cpu")
    expected = ranker.rank_batch(REQUESTS)
    assert set(worked) <= {1}
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=budget))
    set_threads(4)
    for got, wanted in zip(ranker.rank_batch(REQUESTS), expected, strict=True):
        assert_same(got, wanted)
    assert max(worked) > 1


@pytest.mark.parametrize("budget", [40, 100_000])
@pytest.mark.parametrize("abstention", [False, True])
def test_a_model_whose_documents_are_independent_does_everything_alike(
    abstention, budget, tmp_path, set_threads, worked, monkeypatch
):
    folder = save_ranker(tmp_path, "bert", replace(BERT_CONFIG, abstention=abstention))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu")
    query, documents = "what treats a heart attack", [*DOCUMENTS, "", "sugar", "sugar"]

    def everything():
        explained = [document.sentences for document in ranker.explain(query, documents)]
        return ranker.rank(query, documents), ranker.rank(query, ranker.prepare(documents)), explained

    expected = everything()
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=budget))
    set_threads(2)
    worked.clear()
    got = everything()
    assert sum(count > 1 for count in worked) >= 3
    for one, other in zip(got[:2], expected[:2], strict=True):
        assert_same(one, other)
    for one, other in zip(got[2], expected[2], strict=True):
        assert [span.start for span in one] == [span.start for span in other]
        assert [span.weight for span in one] == pytest.approx([span.weight for span in other], abs=1e-5)


def test_callers_in_several_threads_share_the_workers(tmp_path, set_threads, worked):
    ranker = BlockRankReranker.from_pretrained(
        save_ranker(tmp_path, "bert", BERT_CONFIG), dtype="float32", device="cpu"
    )
    expected = ranker.rank(*REQUESTS[2])
    set_threads(2)
    ranker.rank(*REQUESTS[2])
    before = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        rankings = [pool.submit(ranker.rank, *REQUESTS[2]) for _ in range(16)]
        for ranking in rankings:
            assert_same(ranking.result(), expected)
    assert threading.active_count() == before
