"""What splitting long documents is worth: nDCG@10 with splitting and with truncation, and the time of both.

    python benchmarks/long_documents.py FOLDER [FOLDER …] [--queries 50] [--depth 50] [--max-tokens N]

BM25's candidates; --max-tokens makes more documents long.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import machine

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation import bm25_run, evaluate_ranker
from blockrank_rerank.formats import read_collection, read_corpus


def main(folders: list[Path], queries: int, depth: int, max_tokens: int | None) -> None:
    ranker = BlockRankReranker.from_pretrained(max_document_tokens=max_tokens)
    modes = {mode: ranker.with_config(long_documents=mode) for mode in ("truncate", "split")}
    print(machine())
    for folder in folders:
        collection = read_collection(folder, "test").sample(queries, seed=0)
        corpus = read_corpus(folder / "corpus.jsonl")
        run = bm25_run(collection.queries, corpus, depth)
        for mode, one in modes.items():
            start = time.perf_counter()
            after = evaluate_ranker(one, collection, corpus, run, depth=depth).after
            seconds = time.perf_counter() - start
            print(f"{folder.name:16} {mode:9} nDCG@10 {after['nDCG@10']:.4f}  {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=None)
    main(**vars(parser.parse_args()))
