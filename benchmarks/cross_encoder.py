"""Measure throughput against CrossEncoders of the same shape on the CPU: on torch, and in 8 bits on faster runtimes.

    python benchmarks/cross_encoder.py [--documents 100] [--repeats 5] [--threads 1] [--cpu-time] [--output FILE.json]
    pip install onnx onnxruntime openvino nncf    # for the peers in 8 bits; openvino for quantization="int8"

The peers have the default model's encoder with a random classification head: what they rank is nonsense, what they
compute is what a cross-encoder of this size computes. All are cold (nothing is prepared or cached), read the same
texts, cut at the same number of tokens, with the same threads; calls take turns, and a ratio is the median of those of
each turn. Batch size of a peer: its default, 32, and others. What is not installed is left out with a line.
--cpu-time counts the process's seconds on the CPU, for one thread on a machine that has other work.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import require_green, times_ms
from int8_peers import int8_peers
from scaling import passages
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

DEFAULT_MODEL = Path(__file__).parent.parent / "blockrank_rerank/default_model"
QUERY = "What are the symptoms of iron-deficiency anemia in adults?"
BATCH_SIZES = (8, 32, 100)
MAX_TOKENS = 512
OURS = "blockrank"

Contestants = dict[tuple[str, str, str], Callable[[], object]]
"""By model, numbers and batch."""


def save_cross_encoder(folder: str) -> None:
    """Write the default model's encoder with a random head for pairs."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(DEFAULT_MODEL, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEFAULT_MODEL).save_pretrained(folder)


def cross_encoder(folder: str, dtype: str) -> CrossEncoder:
    """What `save_cross_encoder` saved, on torch."""
    return CrossEncoder(folder, device="cpu", max_length=MAX_TOKENS, model_kwargs={"dtype": getattr(torch, dtype)})


def own_settings(dtypes: list[str]) -> dict[str, dict[str, Any]]:
    """Options of the default model in some dtypes and, with OpenVINO, in 8 bits beside the machine's own, by name."""
    settings: dict[str, dict[str, Any]] = {dtype: {"dtype": dtype} for dtype in dtypes}
    if importlib.util.find_spec("openvino") is None:
        print("no quantization int8: pip install openvino")
    else:
        settings["int8"] = {"quantization": "int8"}
    return settings


def ours(documents: list[str], dtypes: list[str]) -> Contestants:
    """The default model in all of these."""
    own = own_settings(dtypes).items()
    rankers = {name: BlockRankReranker.from_pretrained(device="cpu", **chosen) for name, chosen in own}
    return {(OURS, name, ""): lambda ranker=ranker: ranker.rank(QUERY, documents) for name, ranker in rankers.items()}


def peers(documents: list[str], dtypes: list[str], batch_sizes: list[int]) -> Contestants:
    """CrossEncoders on torch in some dtypes, and in 8 bits on what is installed."""
    pairs = [(QUERY, document) for document in documents]
    with tempfile.TemporaryDirectory() as folder:
        save_cross_encoder(folder)
        predicts: dict[tuple[str, str], Callable[[int], object]] = {}
        for dtype in dtypes:
            model = cross_encoder(folder, dtype)
            predicts["torch", dtype] = lambda size, model=model: model.predict(
                pairs, batch_size=size, show_progress_bar=False
            )
        classifier = BertForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, peer in int8_peers(classifier, tokenizer, pairs, MAX_TOKENS, Path(folder)).items():
            runtime, bits = name.rsplit(maxsplit=1)
            predicts[runtime, bits] = lambda size, peer=peer: peer.predict(pairs, size)
    return {
        (f"CrossEncoder, {runtime}", bits, f"batch {size}"): lambda predict=predict, size=size: predict(size)
        for (runtime, bits), predict in predicts.items()
        for size in batch_sizes
    }


def report(times: dict[tuple[str, str, str], list[float]]) -> list[dict[str, object]]:
    """Print times, and how many times as long every peer takes as each of ours; the rows."""
    own = [key for key in times if key[0] == OURS]
    print(f"{'':27} {'':8} {'':9} {'ms':>8}  " + "  ".join(f"/ {key[1]:>8}" for key in own))
    rows = []
    for key, values in times.items():
        ratios = {
            ranker[1]: statistics.median(a / b for a, b in zip(values, times[ranker], strict=True)) for ranker in own
        }
        model, numbers, batch = key
        ms = statistics.median(values)
        print(
            f"{model:27} {numbers:8} {batch:9} {ms:8.0f}  " + "  ".join(f"{ratio:10.2f}" for ratio in ratios.values())
        )
        rows.append({"model": model, "dtype": numbers, "batch": batch, "ms": round(ms, 1), "ratios": ratios})
    return rows


def main(
    documents: int,
    repeats: int,
    threads: int | None,
    dtype: list[str],
    batch: list[int],
    cpu_time: bool,
    output: Path | None,
) -> None:
    """Time all contestants in turns, print the table and write it."""
    if threads is not None:
        torch.set_num_threads(threads)
    print(machine())
    texts, dtypes = passages(documents), dtype or ["float32", "bfloat16"]
    contestants = ours(texts, dtypes) | peers(texts, dtypes, batch or [*BATCH_SIZES])
    kind = "CPU time" if cpu_time else "time"
    print(f"{documents} documents of about 120 words, cold, medians of {repeats} turns, {kind}")
    rows = report(times_ms(contestants, repeats, time.process_time if cpu_time else time.perf_counter))
    if output:
        output.write_text(
            json.dumps({"machine": str(machine()), "documents": documents, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dtype", action="append", default=[], help="float32 and bfloat16, if not given")
    parser.add_argument("--batch", action="append", type=int, default=[], help="8, 32 and 100, if not given")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--output", type=Path)
    require_green("tests/test_reranker.py", "tests/engine/test_cost.py", "tests/model/test_int8.py")
    main(**vars(parser.parse_args()))
