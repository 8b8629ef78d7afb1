from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.ranking.executor import in_executor, thread_count

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery"]


@pytest.fixture(scope="module")
def ranker():
    return BlockRankReranker.from_pretrained(device="cpu", dtype="float32")


def test_awaited_rankings_are_those_of_the_other_methods(ranker):
    requests = [(QUERY, DOCUMENTS), ("liver", DOCUMENTS[:2])]
    done = []

    async def awaited():
        one = await ranker.arank(QUERY, DOCUMENTS, top_k=2, threshold=0.01, min_probability=0.0)
        report = lambda items, tokens: done.append(items)  # noqa: E731
        return one, await ranker.arank_batch(iter(requests), top_k=1, on_progress=report)

    one, several = asyncio.run(awaited())
    assert one == ranker.rank(QUERY, DOCUMENTS, top_k=2, threshold=0.01, min_probability=0.0)
    assert several == ranker.rank_batch(requests, top_k=1)
    assert sum(done) == 2


def test_errors_are_raised_where_they_are_awaited(ranker):
    with pytest.raises(ValueError, match="query must not be empty"):
        asyncio.run(ranker.arank("", DOCUMENTS))
    with pytest.raises(TypeError, match=r"requests\[0\] must be a"):
        asyncio.run(ranker.arank_batch([1]))


def test_it_does_not_use_the_threads_of_the_application(ranker):
    names = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1, "theirs"))
        busy = threading.Event()
        theirs = asyncio.create_task(asyncio.to_thread(busy.wait, 60))
        names.append(await in_executor(lambda: threading.current_thread().name))
        assert len(await ranker.arank(QUERY, DOCUMENTS)) == 3
        busy.set()
        assert await theirs

    asyncio.run(main())
    assert names[0].startswith("blockrank-async")


def test_what_nobody_waits_for_stops_after_the_batch_that_it_is_at(ranker, monkeypatch):
    scored, entered, score = [], threading.Event(), Engine.score

    def slow(self, batch):
        scored.append(batch)
        entered.set()
        return score(self, batch)

    monkeypatch.setattr(Engine, "score", slow)
    monkeypatch.setattr("blockrank_rerank.ranking.batches.RequestBatch.has_room", lambda self, *ignored: False)

    async def main():
        task = asyncio.create_task(ranker.arank_batch([(QUERY, DOCUMENTS)] * 500))
        await asyncio.to_thread(entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await ranker.arank(QUERY, DOCUMENTS)

    assert len(asyncio.run(main())) == 3
    assert len(scored) < 400


def test_a_cancelled_list_stops_between_its_groups(monkeypatch):
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", max_memory="1MB")
    ranker.rank(QUERY, DOCUMENTS)
    passes, entered, score_pass = [], threading.Event(), Engine._score_pass

    def slow(self, requests, *arguments):
        passes.append(requests)
        entered.set()
        return score_pass(self, requests, *arguments)

    monkeypatch.setattr(Engine, "_score_pass", slow)

    async def main():
        task = asyncio.create_task(ranker.arank(QUERY, [f"{text} {n}" for n in range(500) for text in DOCUMENTS]))
        await asyncio.to_thread(entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        return await ranker.arank(QUERY, DOCUMENTS)

    groups = ranker.engine.budget.groups
    assert len(asyncio.run(main())) == 3
    assert groups is not None
    assert len(passes) < 50


@pytest.mark.parametrize(
    ("reads", "options", "requests"),
    [
        ("score", {}, [(QUERY, DOCUMENTS)] * 9),
        ("_score_pass", {"max_memory": "1MB"}, [(QUERY, [f"{text} {n}" for n in range(200) for text in DOCUMENTS])]),
    ],
    ids=["requests", "groups"],
)
def test_nothing_is_read_after_what_a_cancelled_ranking_was_at(reads, options, requests, monkeypatch):
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", **options)
    passes, entered, cancelled, ended, read = [], *(threading.Event() for _ in range(3)), getattr(Engine, reads)

    def waits(self, *arguments):
        passes.append(arguments)
        entered.set()
        cancelled.wait(60)
        return read(self, *arguments)

    def rank():
        try:
            return ranker.rank_batch(requests)
        finally:
            ended.set()

    monkeypatch.setattr(Engine, reads, waits)
    monkeypatch.setattr("blockrank_rerank.ranking.batches.RequestBatch.has_room", lambda self, *ignored: False)

    async def main():
        task = asyncio.create_task(in_executor(rank))
        await asyncio.to_thread(entered.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()
        assert await asyncio.to_thread(ended.wait, 60)

    asyncio.run(main())
    assert len(passes) == 1


def test_cancelled_requests_leave_the_queue():
    started, release = [], threading.Event()

    def work(number):
        started.append(number)
        release.wait(60)

    async def main():
        tasks = [asyncio.create_task(in_executor(work, number)) for number in range(thread_count() + 20)]
        while len(started) < thread_count():
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        release.set()
        return await in_executor(lambda: "served")

    assert asyncio.run(main()) == "served"
    assert len(started) == thread_count()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_has_threads_of_its_own():
    async def name():
        return await in_executor(lambda: threading.current_thread().name)

    asyncio.run(name())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(not asyncio.run(name()).startswith("blockrank-async"))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
