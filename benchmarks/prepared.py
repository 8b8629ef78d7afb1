"""Measure what prepared documents save: cold, prepared, from disk, and a CrossEncoder on five documents, in turns.

    python benchmarks/prepared.py [--documents 100] [--repeats 7] [--corpus 10000 [--max-memory 400MB]]

One query over documents of about 120 words with the default model on the CPU, in fp32, in bf16 and, where OpenVINO is
installed, with quantization="int8" beside the machine's own dtype. With --corpus, also the throughput of
preparing that many passages into a store, within a budget where one is given, against ranking them cold without one, in
turns, and the anonymous memory that preparing takes above the loaded model (Linux).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path
from typing import Any

from common import median_ms, require_green
from cross_encoder import QUERY, cross_encoder, own_settings, save_cross_encoder
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

FEW = 5


def contestants(count: int, name: str, settings: dict[str, Any], folder: Path) -> dict[str, object]:
    """Functions that rank once, with these options."""
    documents = passages(count)
    ranker = BlockRankReranker.from_pretrained(device="cpu", **settings)
    dtype = str(ranker.engine.dtype).removeprefix("torch.")
    kept = {kind: ranker.prepare(documents, dtype=kind) for kind in (dtype, "int8")}
    ranker.prepare_store(folder / name, documents)
    save_cross_encoder(str(folder / "peer"))
    peer = cross_encoder(str(folder / "peer"), dtype)
    pairs = [(QUERY, document) for document in documents[:FEW]]

    def from_disk() -> None:
        # A new ranker opens the store anew; the model stays loaded, as the other one holds it.
        BlockRankReranker.from_pretrained(device="cpu", store=folder / name, **settings).rank(QUERY, documents)

    return {
        "cold": lambda: ranker.rank(QUERY, documents),
        "prepared": lambda: ranker.rank(QUERY, kept[dtype]),
        "prepared, states in int8": lambda: ranker.rank(QUERY, kept["int8"]),
        "prepared, from disk": from_disk,
        f"CrossEncoder, {FEW} documents": lambda: peer.predict(pairs, show_progress_bar=False),
    }


def same_rankings(count: int) -> None:
    """Kendall's tau between cold and prepared rankings."""
    documents = passages(count)
    for dtype, kept in (("float32", "float32"), ("float32", "int8"), ("bfloat16", "bfloat16"), ("bfloat16", "int8")):
        ranker = BlockRankReranker.from_pretrained(dtype=dtype)
        cold, prepared = (
            [ranked.index for ranked in ranker.rank(QUERY, given)]
            for given in (documents, ranker.prepare(documents, dtype=kept))
        )
        print(f"Kendall's tau, {dtype}, states in {kept}: {kendall(cold, prepared):.4f}")


def kendall(one: list[int], other: list[int]) -> float:
    """Of two orders of the same things."""
    place = {index: rank for rank, index in enumerate(other)}
    pairs = [(a, b) for i, a in enumerate(one) for b in one[i + 1 :]]
    return sum(1 if place[a] < place[b] else -1 for a, b in pairs) / len(pairs)


def corpus(count: int, max_memory: str | None, folder: Path) -> None:
    """Throughput and memory of preparing many passages, against ranking the same cold."""
    ranker = BlockRankReranker.from_pretrained(max_memory=max_memory)
    documents = [f"{number} {text}" for number, text in enumerate(passages(count))]
    ranker.rank(QUERY, documents[:100])
    with PeakOfProcess() as memory:
        done = ranker.prepare_store(folder / "first", documents)
    unlimited = BlockRankReranker.from_pretrained()
    times = median_ms(
        {
            "cold": lambda: unlimited.rank(QUERY, documents),
            # A folder for every time, since what is there is not read again.
            "prepared": lambda: ranker.prepare_store(tempfile.mkdtemp(dir=folder), documents),
        },
        1,
    )
    cold, prepared = times["cold"] / 1e3, times["prepared"] / 1e3
    print(
        f"{count} passages, max_memory {max_memory}: preparing {prepared:.1f} s, +{memory.megabytes:.0f} MB, "
        f"{done.nbytes / done.blocks / 1e3:.0f} KB each; cold {cold:.1f} s (preparing has {cold / prepared:.0%} of its "
        "throughput)"
    )


class PeakOfProcess:
    """Anonymous memory of this process above what it had, at most, looked at every 20 ms."""

    def __enter__(self) -> PeakOfProcess:
        self._before, self._most, self._done = _anonymous(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._most = max(self._most, _anonymous())

    @property
    def megabytes(self) -> float:
        """The growth."""
        return (self._most - self._before) / 1e6


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def main(documents: int, repeats: int, passages_in_corpus: int, max_memory: str | None) -> None:
    require_green("tests/states/test_prepared.py")
    print(machine())
    print(f"{documents} documents of about 120 words, medians of {repeats}")
    with tempfile.TemporaryDirectory() as folder:
        if passages_in_corpus:
            # First, while the process is young: what others leave in its heap would hide what this takes.
            corpus(passages_in_corpus, max_memory, Path(folder))
        for model, settings in own_settings(["float32", "bfloat16"]).items():
            times = median_ms(contestants(documents, model, settings, Path(folder)), repeats)
            for name, ms in times.items():
                print(f"{model:9} {name:28} {ms:9.1f} ms {times['cold'] / ms:8.1f} x cold")
        same_rankings(documents)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--corpus", type=int, default=0, dest="passages_in_corpus")
    parser.add_argument("--max-memory")
    main(**vars(parser.parse_args()))
