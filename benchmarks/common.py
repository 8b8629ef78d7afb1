"""Parts that every benchmark shares: tests first, timing, random models and requests."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaModel

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.backbone import ATTENTION_NAME, Backbone
from blockrank_rerank.text.prompt import EncodedRequest

K = TypeVar("K")

ROOT = Path(__file__).parent.parent


def require_green(*tests: str) -> None:
    """Run the operation's tests and stop where one fails: a wrong result has no speed."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def times_ms(
    functions: dict[K, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[K, list[float]]:
    """Times of each function, taken in turns so that a slow minute of the machine hits all of them."""
    times: dict[K, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(1e3 * (clock() - start))
    # The first round warms caches and compiles nothing that later rounds would not reuse.
    return {name: values[1:] for name, values in times.items()}


def median_ms(functions: dict[K, Callable[[], object]], repeats: int) -> dict[K, float]:
    """Median time of each function; see `times_ms`."""
    return {name: statistics.median(values) for name, values in times_ms(functions, repeats).items()}


def random_decoder(layers: int, width: int, dtype: torch.dtype) -> Backbone:
    """A random Llama whose last layer is the scoring layer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=32768,
        attn_implementation=ATTENTION_NAME,
    )
    model = LlamaModel(config).to(dtype).eval().requires_grad_(False)
    return Backbone(model, BlockRankConfig(scoring_layer=layers - 1), None)


def skewed_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Lengths of which the longest is four times the mean."""
    generator = random.Random(seed)
    lengths = [generator.randint(longest // 16, longest // 16 * 7) for _ in range(count - 1)]
    scale = (longest / 4 * count - longest) / sum(lengths)
    return [*(max(1, round(length * scale)) for length in lengths), longest]


def random_request(instruction: int, documents: list[int], query: int) -> EncodedRequest:
    """Token ids of a request with the given block lengths."""
    generator = random.Random(0)

    def block(length: int) -> list[int]:
        return [generator.randrange(8192) for _ in range(length)]

    return EncodedRequest(block(instruction), [block(n) for n in documents], block(query), [False] * len(documents))
