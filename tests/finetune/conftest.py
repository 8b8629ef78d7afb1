"""Tiny models and data to train on."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from blockrank_rerank.model.scoring_head import ScoringHead
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS, save_model

pytest.importorskip("accelerate", reason="needs the train extra: pip install '.[train]'")

from blockrank_rerank.finetune import training_run


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("models") / "llama", "llama")
    CONFIG.save(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("models") / "bert", "bert")
    BERT_CONFIG.save(folder)
    ScoringHead(32).save(folder)
    return folder


@pytest.fixture(scope="session")
def training_data(tmp_path_factory) -> Path:
    """40 queries of two words; a document is relevant if it repeats them."""
    generator = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = []
    for _ in range(40):
        query = generator.sample(WORDS, 2)
        others = [" ".join(generator.choices([w for w in WORDS if w not in query], k=6)) for _ in range(5)]
        relevant = " ".join([*generator.choices(WORDS, k=3), *query])
        rows.append(
            {
                "query": " ".join(query),
                "pos": [relevant],
                "neg": others,
                "pos_scores": [0.9],
                "neg_scores": [generator.random() / 2 for _ in others],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Leaves out the plot of a run, which takes longer to draw than a tiny model to train: one test draws it."""
    monkeypatch.setattr(training_run, "write_plot", lambda *ignored: None)
