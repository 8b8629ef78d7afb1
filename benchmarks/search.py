"""Measure searching whole stores: time, memory, what an approximate search misses, and quality.

    python benchmarks/search.py time [--documents 1000 10000 50000] [--queries 20] [--store FOLDER]
    python benchmarks/search.py quality FOLDER [--only NAME] [--stores FOLDER] [--depth 100]

``time``: without --store, documents that are made of the keys of two halves of passages of the sample, under texts that
nobody reads: reading 50,000 texts would take an hour. With --store, a store of the default model that
``blockrank prepare`` made. Asked are the questions of the sample. The first search reads the store, mostly from the
system's cache of files. Memory is the most that the process had, pages of the store's files included; recall is that of
the approximate search against the exact one.

``quality``: BEIR folders, whose corpora are prepared under --stores (a temporary folder if not given), some 10 ms a
short document. nDCG@10 of searching the whole corpus, exactly and approximately, against BM25's first 100 reranked; of
the relevant documents the share that only one of the two has among its first 100; and the recall of the approximate
search against the exact one.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import evaluation_sets
import torch
from common import require_green

from blockrank_rerank import BlockRankReranker, StoredDocument, StoredDocuments
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import evaluate_run
from blockrank_rerank.evaluation.own_documents import own_documents
from blockrank_rerank.evaluation.rerank_run import rerank_run
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import read_collection, read_corpus
from blockrank_rerank.states.document_states import HEAD_KEY, DocumentStates
from blockrank_rerank.states.group_files import text_digest
from blockrank_rerank.states.store import StateStore

SAMPLE = Path(__file__).parent.parent / "examples" / "data" / "medquad-sample"
WRITTEN = 500
"""Documents that are written at a time."""


def recombined_store(ranker: BlockRankReranker, folder: Path, count: int) -> None:
    """A store of so many documents, each made of the keys of two halves of the sample's passages."""
    rng, engine = random.Random(0), ranker.engine
    passages = ranker.prepare(read_corpus(SAMPLE / "corpus.jsonl").values(), dtype="bfloat16").states
    store = StateStore(folder, engine.fingerprint, torch.bfloat16, engine.settings)
    documents = StoredDocuments(folder)
    for first in range(0, count, WRITTEN):
        numbers = range(first, min(first + WRITTEN, count))
        stored = [StoredDocument(f"{number}", " ".join([f"text {number}"] * 40)) for number in numbers]
        states = [_recombined(*rng.choices(passages, k=2)) for _ in numbers]
        texts = [document.text for document in stored]
        store.append(texts, states)
        documents.put(stored, [*map(text_digest, texts)])


def _recombined(one: DocumentStates, other: DocumentStates) -> DocumentStates:
    end, start = -(-len(one.ids) // 2), len(other.ids) // 2
    keys = torch.cat([one.tensors[HEAD_KEY][:end], other.tensors[HEAD_KEY][start:]])
    return DocumentStates(one.ids[:end] + other.ids[start:], False, {HEAD_KEY: keys})


def resident_mb() -> float:
    """Most memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure_time(folder: Path, queries: Sequence[str], what: str) -> None:
    """Print one row of a store, read from the files' cache of the system; a disk that is slower adds its own time."""
    ranker = BlockRankReranker.from_pretrained()
    ranker.rank(queries[0], queries)
    before, started = resident_mb(), time.perf_counter()
    ranker.search(folder, queries[0], 10)
    cold, memory = time.perf_counter() - started, resident_mb() - before
    ranker.search(folder, queries[0], 10, approximate=True)  # makes the pooled keys
    cells, found = [], {}
    for approximate in (False, True):
        for top_k in (10, 100):
            times, run = [], found.setdefault((approximate, top_k), {})
            for query in queries:
                started = time.perf_counter()
                ranking = ranker.search(folder, query, top_k, approximate=approximate)
                times.append(1e3 * (time.perf_counter() - started))
                run[query] = [document.index for document in ranking]
            cells.append(statistics.median(times))
    cells += [100 * recall(found[True, top_k], found[False, top_k], top_k) for top_k in (10, 100)]
    print(f"{what:>20} {cold:9.1f} {memory:9.0f}", *(f"{cell:9.1f}" for cell in cells), flush=True)


def main_time(documents: list[int], queries: int, store: Path | None) -> None:
    require_green("tests/ranking/test_search.py")
    print(machine(), f"{torch.get_num_threads()} threads")
    asked = [*read_collection(SAMPLE).queries.values()][:queries]
    names = ("first s", "memory MB", "top 10 ms", "top 100", "approx 10", "100", "rec.@10", "rec.@100")
    print(f"{'store':>20}", *(f"{name:>9}" for name in names))
    if store is not None:
        measure_time(store, asked, store.name)
        return
    ranker = BlockRankReranker.from_pretrained()
    for count in documents:
        with tempfile.TemporaryDirectory() as name:
            recombined_store(ranker, Path(name), count)
            measure_time(Path(name), asked, f"{count} recombined")


def searched(ranker: BlockRankReranker, store: Path, task: Task, depth: int, approximate: bool) -> dict:
    """A run of searching: for each query so many documents."""
    collection, corpus, _ = task
    own = own_documents(collection.queries, corpus)
    run = {}
    for name, query in collection.queries.items():
        found = ranker.search(store, query, depth + 1, approximate=approximate)
        kept = [document for document in found if not (document.id == name and name in own)][:depth]
        run[name] = {document.id: float(len(kept) - rank) for rank, document in enumerate(kept)}
    return run


def found_share(run: dict, other: dict, qrels: dict, least: int) -> float:
    """Share of relevant documents that a run has and another one lacks."""
    relevant = [(q, d) for q, grades in qrels.items() if q in run for d, grade in grades.items() if grade >= least]
    return sum(d in run[q] and d not in other.get(q, {}) for q, d in relevant) / len(relevant)


def recall(run: dict, exact: dict, depth: int) -> float:
    """Share of the exact run's first documents that a run has among its first; documents of each query in order."""
    shares = [len({*[*run[q]][:depth]} & {*[*exact[q]][:depth]}) / min(depth, len(exact[q])) for q in exact]
    return statistics.mean(shares)


def main_quality(collections: Path, only: list[str], stores: Path | None, depth: int) -> None:
    print(machine())
    names = ("documents", "BM25", "reranked", "search", "approx.", "only here", "only BM25", "rec.@10", "rec.@100")
    print(f"{'collection':>16}", *(f"{name:>9}" for name in names))
    ranker = BlockRankReranker.from_pretrained()
    for folder in evaluation_sets.collections(collections, only):
        source = evaluation_sets.source(folder, None, depth)
        task, least = source.read(), source.min_relevance
        with tempfile.TemporaryDirectory() as name:
            store = Path(name) if stores is None else stores / folder.name
            corpus = ({"id": key, **_fields(document)} for key, document in task.corpus.items())
            ranker.prepare_store(store, corpus)
            stored = BlockRankReranker.from_pretrained(store=store)
            reranked = rerank_run(stored, task.first_stage, task.collection.queries, task.corpus).run
            exact = searched(ranker, store, task, depth, approximate=False)
            approximate = searched(ranker, store, task, depth, approximate=True)
        qrels = task.collection.qrels
        ndcg = [
            100 * evaluate_run(qrels, run, least)["nDCG@10"] for run in (task.first_stage, reranked, exact, approximate)
        ]
        shares = [found_share(exact, reranked, qrels, least), found_share(reranked, exact, qrels, least)]
        cells = [*ndcg, *(100 * share for share in shares)]
        cells += [100 * recall(approximate, exact, at) for at in (10, depth)]
        print(f"{folder.name:>16} {len(task.corpus):9}", *(f"{cell:9.1f}" for cell in cells), flush=True)


def _fields(document: object) -> dict[str, str]:
    return {"text": document} if isinstance(document, str) else {**document}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    timed = commands.add_parser("time")
    timed.add_argument("--documents", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    timed.add_argument("--queries", type=int, default=20)
    timed.add_argument("--store", type=Path)
    timed.set_defaults(run=main_time)
    judged = commands.add_parser("quality")
    judged.add_argument("collections", type=Path)
    judged.add_argument("--only", action="append", default=[])
    judged.add_argument("--stores", type=Path)
    judged.add_argument("--depth", type=int, default=100)
    judged.set_defaults(run=main_quality)
    given = vars(parser.parse_args())
    given.pop("run")(**given)
