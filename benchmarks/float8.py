"""Measure what linear layers in 8-bit floating point do to rankings: nDCG@10 and Kendall's tau against bf16.

    pip install '.[eval,float8]'
    python benchmarks/float8.py FOLDER [--model default] [--queries 50] [--depth 100] [--on-cpu]

FOLDER holds BEIR folders; the candidates are the same for both. On a GPU of compute capability 8.9 or newer. With
--on-cpu torch's own products of the same numbers are used, which are slow there and which neither torchao nor this
package would choose: for the effect on scores, not for time. (A GPU may add up with fewer bits.)
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from blockrank_kernels.gpu import Verdict
from evaluation_sets import read_task
from prepared import kendall

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import evaluate_ranker
from blockrank_rerank.formats import Run
from blockrank_rerank.model.devices import float8_on, resolve_device


def taus(one: Run, other: Run) -> float:
    """Mean over queries of Kendall's tau between two rankings of the same documents."""
    return statistics.mean(kendall([*one[query]], [*other[query]]) for query in one if len(one[query]) > 1)


def main(collections: Path, model: str, queries: int | None, depth: int) -> None:
    rankers = {
        name: BlockRankReranker.from_pretrained(model, dtype="bfloat16", quantization=name, cache="4GB")
        for name in (None, "float8")
    }
    print(machine())
    print(f"{'collection':12} queries    bf16  float8     tau")
    for folder in sorted(path for path in collections.iterdir() if path.is_dir()):
        task = read_task(folder, queries, depth)
        plain, rounded = (evaluate_ranker(ranker, **task) for ranker in rankers.values())
        tau = taus(plain.reranked.run, rounded.reranked.run)
        scores = f"{plain.after['nDCG@10']:.4f}  {rounded.after['nDCG@10']:.4f}"
        print(f"{folder.name:12} {plain.queries:7}  {scores}  {tau:.4f}", flush=True)
    print(f"{model}; depth {depth}; threads {torch.get_num_threads()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, help="folder of BEIR folders")
    parser.add_argument("--model", default="default")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--on-cpu", action="store_true")
    options = vars(parser.parse_args())
    if options.pop("on_cpu"):
        allowed = Verdict(True, "asked for")
        with (
            patch("torchao.quantization.quant_api._check_hardware_support"),
            patch("blockrank_rerank.model.devices.float8_on", lambda device: allowed),
        ):
            main(**options)
    elif (verdict := float8_on(resolve_device(None))).usable:
        main(**options)
    else:
        sys.exit(f"float8 cannot run here: {verdict.reason}; --on-cpu shows its effect on scores")
