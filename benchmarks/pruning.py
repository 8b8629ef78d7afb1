"""Measure nDCG@10 and time of pruning on a folder of collections: what early layers may drop without loss.

    python benchmarks/pruning.py FOLDER --queries 50 [--depth 100] [--prune 2:50 --prune 2:30,4:15]

FOLDER holds BEIR folders. Every setting ranks the same candidates. Times are one pass each: run it on a quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from evaluation_sets import read_task

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import evaluate_ranker
from blockrank_rerank.options.values import parse_prune

SETTINGS = ["1:50", "2:50", "2:30", "2:20", "3:50", "3:30", "3:20"]


def measure(rankers: dict[str, BlockRankReranker], task: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """nDCG@10 and seconds of every ranker."""
    results = {name: evaluate_ranker(ranker, **task) for name, ranker in rankers.items()}
    return {name: (result.after["nDCG@10"], result.reranked.seconds) for name, result in results.items()}


def main(collections: Path, queries: int | None, depth: int, prune: Sequence[str], model: str) -> None:
    settings = prune or SETTINGS
    rankers = {"none": BlockRankReranker.from_pretrained(model)}
    rankers |= {name: BlockRankReranker.from_pretrained(model, prune=parse_prune(name.split(","))) for name in settings}
    for ranker in rankers.values():
        ranker.rank("warm", ["up"] * 60)
    print(machine())
    print(f"{'collection':12} " + " ".join(f"{name:>14}" for name in rankers))
    folders = sorted(path for path in collections.iterdir() if path.is_dir())
    means = {name: [0.0, 0.0] for name in rankers}
    for folder in folders:
        measured = measure(rankers, read_task(folder, queries, depth))
        whole = measured["none"][1]
        for name, (quality, seconds) in measured.items():
            means[name][0] += quality / len(folders)
            means[name][1] += seconds / whole / len(folders)
        print(f"{folder.name:12} " + " ".join(f"{q:.4f} {s / whole:6.2f}x" for q, s in measured.values()), flush=True)
    print(f"{'mean':12} " + " ".join(f"{q:.4f} {s:6.2f}x" for q, s in means.values()))
    print(f"nDCG@10 and time against the unpruned model; depth {depth}, torch threads {torch.get_num_threads()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, help="folder of BEIR folders")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--prune", action="append", default=[], help="LAYER:COUNT, several with commas")
    parser.add_argument("--model", default="default")
    main(**vars(parser.parse_args()))
