"""Requests share passes, wait no longer than they must, and lose nothing that was accepted."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.workers import STOP, stop_if_cancelled
from blockrank_rerank.ranking.results import Ranking
from blockrank_rerank.serving import scheduler as scheduler_module
from blockrank_rerank.serving.scheduler import Closed, Overloaded, Scheduler
from blockrank_rerank.serving.turn import KNOWN_COST, RankRequest, Served, rank_together
from blockrank_rerank.states import group_files, store
from blockrank_rerank.states.group_files import text_digest
from tests.serving.conftest import DOCUMENTS, QUERY

LONG = ["aspirin thins blood " * 400] * 5
"""More characters than a pass takes."""


@pytest.fixture
def new_scheduler(ranker):
    """Makes schedulers, and closes them."""
    made = []

    def make(max_waiting=100, ranker=ranker):
        made.append(Scheduler(ranker, max_waiting))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


class HeldModel:
    """Ranks nothing until it is let go, and remembers its turns."""

    def __init__(self):
        self.turns, self.begun, self.go = [], threading.Event(), threading.Event()

    def rank_together(self, ranker, requests):
        self.turns.append([request.query for request in requests])
        self.begun.set()
        assert self.go.wait(120)
        for number, _ in enumerate(requests):
            yield number, Served(Ranking(), 0)


@pytest.fixture
def held(monkeypatch):
    model = HeldModel()
    monkeypatch.setattr(scheduler_module, "rank_together", model.rank_together)
    yield model
    model.go.set()


def test_rankings_are_those_of_the_ranker_with_the_same_tokens_however_they_were_packed(ranker, new_scheduler):
    scheduler = new_scheduler()
    queries = [QUERY, "sugar", "cheap"]
    jobs = [scheduler.submit(RankRequest(query, DOCUMENTS)) for query in queries]
    for query, job in zip(queries, jobs, strict=True):
        served, alone = job.future.result(120), ranker.rank(query, DOCUMENTS)
        assert [document.index for document in served.ranking] == [document.index for document in alone]
        assert [d.probability for d in served.ranking] == pytest.approx([d.probability for d in alone], abs=1e-5)
        encoded = ranker.engine.prompt.encode(query, DOCUMENTS)
        assert served.num_tokens == encoded.num_tokens


def test_what_waits_together_goes_through_together(new_scheduler, held):
    scheduler = new_scheduler()
    scheduler.submit(RankRequest("first", DOCUMENTS))
    assert held.begun.wait(120)
    jobs = [scheduler.submit(RankRequest(f"later {number}", DOCUMENTS)) for number in range(4)]
    held.go.set()
    for job in jobs:
        job.future.result(120)
    assert held.turns == [["first"], [f"later {number}" for number in range(4)]]


def test_a_short_list_is_ranked_while_a_long_one_is(new_scheduler, held):
    scheduler = new_scheduler()
    scheduler.submit(RankRequest("long", LONG))
    assert held.begun.wait(120)
    held.begun.clear()
    scheduler.submit(RankRequest("short", DOCUMENTS))
    assert held.begun.wait(120)
    assert held.turns == [["long"], ["short"]]


def test_one_more_than_may_wait_is_told_when_to_come_back(new_scheduler, held):
    scheduler = new_scheduler(max_waiting=2)
    scheduler.submit(RankRequest("first", DOCUMENTS))
    assert held.begun.wait(120)
    accepted = [scheduler.submit(RankRequest(QUERY, DOCUMENTS), client) for client in ("one", "other")]
    with pytest.raises(Overloaded, match="2 requests are waiting") as refusal:
        scheduler.submit(RankRequest(QUERY, DOCUMENTS))
    assert 1 <= refusal.value.retry_after_s <= 60
    held.go.set()
    assert [job.future.result(120).num_tokens for job in accepted] == [0, 0]


def test_what_nobody_waits_for_leaves_the_queue_and_makes_room(new_scheduler, held):
    scheduler = new_scheduler(max_waiting=1)
    scheduler.submit(RankRequest("first", DOCUMENTS))
    assert held.begun.wait(120)
    scheduler.cancel(scheduler.submit(RankRequest("left", DOCUMENTS)))
    assert scheduler.waiting == 0
    job = scheduler.submit(RankRequest("last", DOCUMENTS))
    held.go.set()
    job.future.result(120)
    assert held.turns == [["first"], ["last"]]


def test_a_long_list_that_nobody_waits_for_stops(new_scheduler, monkeypatch):
    begun, stopped = threading.Event(), threading.Event()

    def rank_together(ranker, requests):
        begun.set()
        assert STOP.get().wait(120)
        try:
            stop_if_cancelled()
        except CancelledError:
            stopped.set()
            raise
        yield

    monkeypatch.setattr(scheduler_module, "rank_together", rank_together)
    scheduler = new_scheduler()
    job = scheduler.submit(RankRequest("long", LONG))
    assert begun.wait(120)
    scheduler.cancel(job)
    assert stopped.wait(120)


def test_a_request_that_cannot_be_ranked_fails_alone(ranker, new_scheduler):
    scheduler = new_scheduler()
    blocker = scheduler.submit(RankRequest(QUERY, DOCUMENTS))
    queries = ["sugar", "word " * 5000, "cheap"]
    good, bad, other = (scheduler.submit(RankRequest(query, DOCUMENTS)) for query in queries)
    with pytest.raises(ValueError, match=r"^query must have at most"):
        bad.future.result(120)
    for job in (blocker, good, other):
        assert len(job.future.result(120).ranking) == 3


def test_what_was_accepted_is_ranked_before_the_end_and_nothing_is_accepted_then(new_scheduler, held):
    scheduler = new_scheduler()
    jobs = [scheduler.submit(RankRequest(QUERY, documents)) for documents in (DOCUMENTS, LONG, DOCUMENTS)]
    held.go.set()
    scheduler.close()
    assert all(job.future.done() for job in jobs)
    with pytest.raises(Closed):
        scheduler.submit(RankRequest(QUERY, DOCUMENTS))


def test_a_known_document_costs_less_than_one_that_is_read():
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", cache="10MB")
    request = RankRequest(QUERY, DOCUMENTS)
    unread = request.cost(ranker)
    ranker.rank(QUERY, DOCUMENTS)
    assert unread == len(QUERY) + sum(map(len, DOCUMENTS))
    assert len(QUERY) < request.cost(ranker) < unread / 2
    assert RankRequest(QUERY, DOCUMENTS, highlights=True).cost(ranker) > request.cost(ranker)


def test_what_a_cache_keeps_is_read_once_for_highlights_too(ranker):
    caching = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", cache="10MB")
    characters = sum(map(len, DOCUMENTS))
    for with_cache, again in ((ranker, 1), (caching, KNOWN_COST)):
        more = RankRequest(QUERY, DOCUMENTS, highlights=True).cost(with_cache)
        assert more - RankRequest(QUERY, DOCUMENTS).cost(with_cache) == pytest.approx(again * characters)


def test_a_request_digests_each_of_its_texts_once(ranker, tmp_path, monkeypatch):
    ranker.prepare_store(tmp_path, DOCUMENTS[:2])
    stored = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", store=tmp_path)
    digested = []

    def digest(text):
        digested.append(text)
        return text_digest(text)

    for module in (group_files, store):
        monkeypatch.setattr(module, "text_digest", digest)
    request = RankRequest(QUERY, DOCUMENTS, highlights=True)
    request.cost(stored)
    ((_, served),) = rank_together(stored, [request])
    assert sorted(document.served_from for document in served.ranking) == ["read", "stored", "stored"]
    assert sorted(digested) == sorted(DOCUMENTS)


def test_a_text_of_more_tokens_than_are_wanted_is_cut_and_says_so(ranker, new_scheduler):
    documents = ["aspirin thins blood", {"title": "sugar", "text": "the liver"}]
    job = new_scheduler().submit(RankRequest(QUERY, documents, max_document_tokens=2))
    found = {document.index: document for document in job.future.result(120).ranking}
    cut = {document.index: document for document in ranker.rank(QUERY, ["aspirin thin", documents[1]])}
    assert found[0].truncated
    assert not found[1].truncated
    assert found[0].text in "aspirin thins"
    assert found[1].probability == pytest.approx(cut[1].probability, abs=1e-5)


def test_documents_say_where_they_came_from(tmp_path):
    BlockRankReranker.from_pretrained(device="cpu", dtype="float32").prepare_store(tmp_path / "s", DOCUMENTS[:1])
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", cache="10MB", store=tmp_path / "s")
    sources = [{d.index: d.served_from for d in ranker.rank(QUERY, DOCUMENTS[:2])} for _ in range(2)]
    assert sources == [{0: "stored", 1: "read"}, {0: "cached", 1: "cached"}]
    prepared = ranker.prepare(DOCUMENTS)
    assert {document.served_from for document in ranker.rank(QUERY, prepared)} == {"prepared"}
