"""Measure time and peak memory of the default model as the list grows.

    python benchmarks/scaling.py [--dtype auto]

Each list length runs in a process of its own, so that peak memory belongs to it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from common import ROOT, median_ms, require_green

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

SIZES = (50, 100, 200, 500, 1000)


def passages(count: int) -> list[str]:
    """Real passages of about 120 words, repeated from the shipped sample as often as needed."""
    path = ROOT / "examples/data/medquad-sample/corpus.jsonl"
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [texts[index % len(texts)] for index in range(count)]


def measure(count: int, dtype: str) -> dict[str, float]:
    """Median milliseconds, tokens, and peak memory above the loaded model in MB."""
    ranker = BlockRankReranker.from_pretrained(dtype=dtype)
    ranker.rank("warm-up", ["one document"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    query, documents, tokens = "What causes iron-deficiency anemia?", passages(count), []

    def run() -> None:
        ranker.rank_batch([(query, documents)], on_progress=lambda requests, done: tokens.append(done))

    time_ms = median_ms({"rank": run}, repeats=3)["rank"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": time_ms, "tokens": tokens[0], "peak_mb": (peak - before) / 1024}


def main(dtype: str, count: int | None) -> None:
    if count is not None:
        print(json.dumps(measure(count, dtype)))
        return
    require_green("tests/kernels")
    print(machine())
    print(" documents   tokens       ms  ms/document  tokens/s  peak MB above the model")
    for size in SIZES:
        command = [sys.executable, __file__, "--dtype", dtype, "--count", str(size)]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"{size:10} {result['tokens']:8} {result['ms']:8.0f} {result['ms'] / size:12.2f} "
            f"{1e3 * result['tokens'] / result['ms']:9.0f} {result['peak_mb']:10.0f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    main(**vars(parser.parse_args()))
