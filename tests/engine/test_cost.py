"""What is computed and allocated, counted and not timed."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.batch import Batch
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS, save_model

LENGTHS = [3, 40, 9, 17, 2, 28, 11, 5]


class LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.fixture(scope="module", params=["llama", "gemma2", "bert"])
def engine(request, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp(request.param), request.param)
    config = CONFIG if request.param != "bert" else BERT_CONFIG
    if request.param == "bert":
        from blockrank_rerank.model.scoring_head import ScoringHead

        ScoringHead(32).save(folder)
    if request.param == "gemma2":
        config = BERT_CONFIG.__class__(scoring_layer=3, query_offset=64, prompt=CONFIG.prompt)
    config.save(folder)
    return BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu").engine


def request(engine, copies):
    documents = [" ".join((WORDS * 5)[:length]) for length in LENGTHS] * copies
    return engine.prompt.encode("what treats it", documents)


def test_every_matrix_product_sees_exactly_the_tokens_of_the_blocks(engine):
    encoded, rows = request(engine, 2), []
    linear = [module for module in engine.backbone.model.modules() if isinstance(module, torch.nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[:-1].numel())) for m in linear]
    engine.score(Batch([encoded]))
    for hook in hooks:
        hook.remove()
    assert len(rows) >= 9
    assert set(rows) == {encoded.num_tokens}


def test_the_largest_tensor_grows_with_the_tokens_and_not_with_their_square(engine):
    largest, tokens = [], []
    for copies in (5, 20):
        encoded = request(engine, copies)
        with LargestTensor() as mode:
            engine.score(Batch([encoded]))
        largest.append(mode.elements)
        tokens.append(encoded.num_tokens)
    assert largest[1] <= 1.3 * largest[0] * tokens[1] / tokens[0]
    assert largest[1] < tokens[1] ** 2 / 4
