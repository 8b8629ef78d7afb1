"""Measure the ids of a store: opening it, reading the index, looking documents up, and the memory of the index.

    python benchmarks/stored_documents.py [--documents 50000]

Synthetic documents of about 1 KB under ids like URLs, without states. Times are of this process's CPU, where other
programs' work does not count, and the best of five.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch
from common import require_green

from blockrank_rerank import StoredDocument, StoredDocuments, UnknownIdsError
from blockrank_rerank.engine.store_preparation import LOOK_AHEAD
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.states.group_files import text_digest
from blockrank_rerank.states.store import StateStore

WORDS = 150
LOOKED_UP = 100


def write(folder: Path, count: int) -> float:
    """Keep documents as preparing does, so many at a time; return seconds of CPU."""
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(5_000)]
    documents = StoredDocuments(StateStore(folder, "synthetic", torch.float16).folder)
    started = time.process_time()
    for first in range(0, count, LOOK_AHEAD):
        chunk = [
            StoredDocument(f"https://example.org/{number:06d}", " ".join(rng.choices(vocabulary, k=WORDS)), f"{number}")
            for number in range(first, min(first + LOOK_AHEAD, count))
        ]
        documents.put(chunk, [text_digest(f"{document.title} {document.text}") for document in chunk])
    return time.process_time() - started


def best_ms(work: Callable[[], object], repeats: int = 5) -> float:
    """Milliseconds of CPU, at best."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times) * 1e3


def read(folder: Path) -> StoredDocuments:
    """Documents of a store whose ids are read."""
    documents = StoredDocuments(folder)
    len(documents)
    return documents


def look_for_nothing(documents: StoredDocuments) -> None:
    """Ask for an id that is not there."""
    try:
        documents.get(["absent"])
    except UnknownIdsError:
        return


def main(documents: int) -> None:
    require_green("tests/states/test_stored_documents.py")
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        seconds = write(folder, documents)
        nbytes = sum(path.stat().st_size for path in folder.glob("documents-*"))
        print(f"{documents} documents, {nbytes / 1e6:.1f} MB, written in {seconds:.1f} s")
        tracemalloc.start()
        opened = read(folder)
        print(f"memory of the index: {tracemalloc.get_traced_memory()[0] / 1e6:.1f} MB")
        tracemalloc.stop()
        ids = random.Random(1).sample(opened.ids, LOOKED_UP)
        work = {
            "open": lambda: StoredDocuments(folder),
            "open and read all ids": lambda: read(folder),
            "one document": lambda: opened.get(ids[:1]),
            f"{LOOKED_UP} documents": lambda: opened.get(ids),
            "an unknown id": lambda: look_for_nothing(opened),
            "all documents": lambda: [*opened],
        }
        for what, function in work.items():
            print(f"{what:24} {best_ms(function):8.2f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=50_000)
    main(**vars(parser.parse_args()))
