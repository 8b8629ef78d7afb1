"""Cross-encoders in 8-bit integers as people run them on CPUs: by ONNX Runtime and by OpenVINO.

Both come from one export of the same model. ONNX Runtime's is rounded as its quantize_dynamic does, with scales that
are found for every input; OpenVINO's as NNCF does for transformers, with scales measured on some of the texts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
NEEDS = {"ONNX Runtime int8": ("onnx", "onnxruntime"), "OpenVINO int8": ("onnx", "openvino", "nncf")}
"""Packages of every peer."""

CALIBRATION_PAIRS = 32

Pair = tuple[str, str]
Network = Callable[[dict[str, np.ndarray]], Any]


def missing(peer: str) -> list[str]:
    """Packages of a peer that are not installed."""
    return [name for name in NEEDS[peer] if importlib.util.find_spec(name) is None]


class Pairs:
    """Scores pairs in batches of about the same length, as CrossEncoder.predict does."""

    def __init__(self, tokenizer: Any, network: Network, max_tokens: int) -> None:
        self._tokenizer, self._network, self._max_tokens = tokenizer, network, max_tokens

    def encode(self, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
        """What the network reads of some pairs."""
        settings: Any = {"padding": True, "truncation": True, "max_length": self._max_tokens}
        encoded = self._tokenizer([*pairs], return_tensors="np", **settings)
        return {name: encoded[name].astype(np.int64) for name in NAMES}

    def predict(self, pairs: Sequence[Pair], batch_size: int) -> list[float]:
        """The logit of every pair."""
        order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
        scores = [0.0] * len(pairs)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logits = self._network(self.encode([pairs[index] for index in batch]))
            for index, score in zip(batch, logits[:, 0], strict=True):
                scores[index] = float(score)
        return scores


class _Logits(torch.nn.Module):
    """A classifier that takes its inputs in order, and returns a tensor, as exporters want it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(NAMES, inputs, strict=True))).logits


def export(model: torch.nn.Module, tokenizer: Any, path: Path) -> Path:
    """Write a classifier as ONNX, for any number of pairs of any length."""
    encoded = tokenizer([("a query", "a text"), ("another", "a longer text")], padding=True, return_tensors="pt")
    torch.onnx.export(
        _Logits(model).eval(),
        tuple(encoded[name] for name in NAMES),
        path,
        input_names=NAMES,
        output_names=["logits"],
        dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in NAMES},
        dynamo=False,
        opset_version=17,
    )
    return path


def onnx_network(exported: Path, threads: int) -> Network:
    """The exported model in ONNX Runtime, in 8 bits."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rounded = exported.with_suffix(".int8.onnx")
    quantize_dynamic(exported, rounded, weight_type=QuantType.QInt8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(rounded, settings, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino_network(exported: Path, threads: int, examples: Sequence[dict[str, np.ndarray]]) -> Network:
    """The exported model in OpenVINO, in 8 bits with scales of some examples."""
    import nncf
    import openvino

    core = openvino.Core()
    rounded = nncf.quantize(
        core.read_model(exported),
        nncf.Dataset(examples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(examples),
    )
    compiled = core.compile_model(
        rounded, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    )
    return lambda inputs: compiled(inputs)[0]


def int8_peers(
    model: torch.nn.Module, tokenizer: Any, pairs: Sequence[Pair], max_tokens: int, folder: Path
) -> dict[str, Pairs]:
    """Those peers whose packages are there, of one classifier."""
    peers: dict[str, Pairs] = {}
    exported, threads = folder / "model.onnx", torch.get_num_threads()
    for name in NEEDS:
        if lacking := missing(name):
            print(f"no CrossEncoder on {name}: pip install {' '.join(lacking)}")
            continue
        if not exported.exists():
            export(model, tokenizer, exported)
        examples = Pairs(tokenizer, lambda inputs: None, max_tokens)
        peers[name] = Pairs(
            tokenizer,
            onnx_network(exported, threads)
            if name.startswith("ONNX")
            else openvino_network(exported, threads, [examples.encode([pair]) for pair in pairs[:CALIBRATION_PAIRS]]),
            max_tokens,
        )
    return peers
