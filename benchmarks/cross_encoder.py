"""Measure throughput against a sentence-transformers CrossEncoder of the same shape, on the CPU.

    python benchmarks/cross_encoder.py [--documents 100] [--repeats 5] [--output FILE.json]

The peer has the default model's encoder with a random classification head: what it ranks is nonsense, what it
computes is what a cross-encoder of this size computes. Both are cold (nothing is prepared or cached), read the
same texts, cut at the same number of tokens, with the same threads; calls take turns. Batch size of the peer: its
default, 32, and the best of some.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from common import median_ms, require_green
from scaling import passages
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

DEFAULT_MODEL = Path(__file__).parent.parent / "blockrank_rerank/default_model"
QUERY = "What are the symptoms of iron-deficiency anemia in adults?"
BATCH_SIZES = (8, 32, 100)
MAX_TOKENS = 512


def cross_encoder(dtype: torch.dtype, folder: str) -> CrossEncoder:
    """The default model's encoder with a random head for pairs."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(DEFAULT_MODEL, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEFAULT_MODEL).save_pretrained(folder)
    return CrossEncoder(folder, device="cpu", max_length=MAX_TOKENS, model_kwargs={"dtype": dtype})


def measure(count: int, repeats: int) -> list[dict[str, object]]:
    """One row per contestant, all timed in turns."""
    documents = passages(count)
    pairs = [(QUERY, document) for document in documents]
    functions = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        ranker = BlockRankReranker.from_pretrained(dtype=dtype)
        functions["blockrank", name, ""] = lambda ranker=ranker: ranker.rank(QUERY, documents)
        with tempfile.TemporaryDirectory() as folder:
            peer = cross_encoder(dtype, folder)
        for size in BATCH_SIZES:
            functions["CrossEncoder", name, f"batch {size}"] = lambda peer=peer, size=size: peer.predict(
                pairs, batch_size=size, show_progress_bar=False
            )
    times = median_ms(functions, repeats)
    return [
        {"model": model, "dtype": dtype, "batch": batch, "documents": count, "ms": round(ms, 1)}
        for (model, dtype, batch), ms in times.items()
    ]


def report(rows: list[dict[str, object]]) -> None:
    """Times, and the ratios that the project promises."""
    for row in rows:
        print(f"{row['model']:13} {row['dtype']:9} {row['batch']:10} {row['ms']:9} ms")
    ours = {row["dtype"]: row["ms"] for row in rows if row["model"] == "blockrank"}
    for dtype in ours:
        peers = {row["batch"]: row["ms"] for row in rows if row["model"] != "blockrank" and row["dtype"] == dtype}
        best = min(peers.values())
        usual = peers["batch 32"]
        print(f"{dtype}: {usual / ours[dtype]:.2f} x the CrossEncoder by default, {best / ours[dtype]:.2f} x its best")
    default = next(row["ms"] for row in rows if (row["dtype"], row["batch"]) == ("float32", "batch 32"))
    print(f"bfloat16 against the CrossEncoder's float32 default: {default / ours['bfloat16']:.2f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    require_green("tests/core/test_reranker.py", "tests/core/test_cost.py")
    print(machine())
    print(f"{arguments.documents} documents of about 120 words, cold, medians of {arguments.repeats}")
    rows = measure(arguments.documents, arguments.repeats)
    report(rows)
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": str(machine()), "rows": rows}, indent=2) + "\n")
