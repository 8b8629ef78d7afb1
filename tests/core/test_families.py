"""Every supported family against plain Transformers, its eager attention and dense masks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.layout import build_layout
from tests.core import oracle
from tests.core.tiny_models import BERT_CONFIG, BERT_PROMPT, CONFIG, FAMILIES, byte_level_tokenizer, save_model

REQUESTS = [
    (
        "what treats a heart attack",
        ["aspirin", "the liver stores sugar and more " * 3, "", "aspirin thins the blood; who treats it"],
    ),
    ("liver", ["stores sugar", "a blocked artery is a heart attack is a blocked artery"]),
]
QUERY_OFFSET = 40
DTYPE = torch.float64
ENCODERS = ("bert", "modernbert")
DECODERS = tuple(name for name in FAMILIES if name not in ENCODERS)
# Norms, rotary tables and eager softmax are fp32 inside the models, whatever the dtype of the weights.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


class Family:
    """A saved random model, and what plain Transformers computes with it."""

    def __init__(self, name, folder):
        self.name, self.folder = name, save_model(folder, name)
        self.layers = FAMILIES[name][1]["num_hidden_layers"]
        prompt = BERT_PROMPT if name in ENCODERS else CONFIG.prompt
        self.config = replace(CONFIG, query_offset=QUERY_OFFSET, prompt=prompt)
        self.requests = [self.engine(0).prompt.encode(*request) for request in REQUESTS]
        self.oracle = oracle.run(folder, self.requests, QUERY_OFFSET, DTYPE)

    def ranker(self, layer, **changes):
        config = replace(self.config, scoring_layer=layer, **changes)
        return BlockRankReranker.from_pretrained(self.folder, config=config, dtype=DTYPE, device="cpu")

    def engine(self, layer, **changes):
        return self.ranker(layer, **changes)._handle.get()

    def windowed(self, layer):
        config = self.engine(layer).backbone.model.config
        types = getattr(config, "layer_types", None)
        if types is None:
            return getattr(config, "sliding_window", None) is not None
        return types[layer] == "sliding_attention"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return Family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def states_after_each_layer(engine, layout):
    """Outputs of the layers before the scoring layer, recorded by hooks."""
    states = []
    handles = [
        layer.register_forward_hook(lambda *call: states.append(oracle._tensor(call[2])[0]))
        for layer in oracle.layers_of(engine.backbone.model)
    ]
    with torch.no_grad():
        engine.backbone.document_scores(layout)
    for handle in handles:
        handle.remove()
    return states


def scores(ranking):
    return torch.tensor(
        [document.score for document in sorted(ranking, key=lambda document: document.index)], dtype=DTYPE
    )


def last_global_layer(family):
    return max(layer for layer in range(family.layers) if not family.windowed(layer))


def uniformly_windowed(name):
    return name in ("mistral-window", "phi3-window")


def test_the_state_after_every_layer_equals_the_dense_mask_oracle(family):
    if uniformly_windowed(family.name):
        # No layer of these may score a query this far away, so a query close by stands in.
        expected = oracle.run(family.folder, family.requests, 5, DTYPE, 0)
        engine, offset = wide_enough_engine(family), 5
    else:
        expected, engine, offset = family.oracle, family.engine(last_global_layer(family)), QUERY_OFFSET
    states = states_after_each_layer(engine, build_layout(family.requests, offset))
    assert len(states) == engine.config.scoring_layer > 0
    for got, wanted in zip(states, expected.states, strict=False):
        torch.testing.assert_close(got, wanted, **CLOSE)


def wide_enough_engine(family):
    engine = family.engine(family.layers - 1)
    # The scoring layer's own refusal is the last thing to happen; the layers before it are compared.
    engine.backbone.config = replace(engine.config, scoring_layer=family.layers - 1)
    return engine
