"""A pack that is rounded up says the same about its blocks."""

from __future__ import annotations

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import engine
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.text.prompt import EncodedRequest
from tests.model.test_families import global_layers
from tests.states.test_prepared import assert_same, save_family, save_ranker
from tests.tiny_models import CONFIG, FAMILIES

REQUESTS = [
    EncodedRequest([1, 2], [[3] * 40, [], [4] * 7], [5, 6], [False] * 3, [7]),
    EncodedRequest([], [[8] * 300], [], [True]),
]


def test_blocks_lie_where_they_lay_and_nothing_sees_what_follows_them():
    assert build_layout(REQUESTS, 64, round_length_up=True).num_tokens == build_layout(REQUESTS, 64).num_tokens == 352
    rounded = build_layout(REQUESTS[:1], 64, round_length_up=True)
    assert rounded.num_tokens == 64
    plain = build_layout(REQUESTS[:1], 64)
    tokens = plain.num_tokens
    assert rounded.input_ids[:tokens].equal(plain.input_ids)
    assert rounded.positions[:tokens].equal(plain.positions)
    assert [one.query for one in rounded.requests] == [one.query for one in plain.requests]
    for name in ("segments", "segments_before"):
        ours, theirs = getattr(rounded, name), getattr(plain, name)
        assert ours.offsets.tolist() == [*theirs.offsets.tolist(), 64]
        assert ours.context_ends.tolist() == [*theirs.context_ends.tolist(), tokens]
        assert ours.context_starts.tolist() == [*theirs.context_starts.tolist(), tokens]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 255, 256, 257, 500, 1000, 4097, 8000])
def test_rounded_lengths_are_near_and_shared(length):
    def rounded(tokens):
        return build_layout([EncodedRequest([1] * tokens, [], [], [])], 64, round_length_up=True).num_tokens

    assert length <= rounded(length) <= max(length + 15, length * 17 / 16)
    assert rounded(rounded(length)) == rounded(length)
    assert len({rounded(other) for other in range(length, 2 * length, max(length // 100, 1))}) <= 17


@pytest.mark.parametrize("family", [name for name in FAMILIES if global_layers(name)])
def test_rounding_up_changes_no_score(family, tmp_path, monkeypatch):
    ranker = BlockRankReranker.from_pretrained(save_family(tmp_path, family), dtype="float32", device="cpu")
    requests = [("who stores sugar", ["the liver stores sugar", "", "aspirin"]), ("it", ["a heart attack " * 5])]

    def everything():
        query, documents = requests[0]
        free = ranker.query_free()
        prepared = free.rank(query, free.prepare(documents))
        return [*ranker.rank_batch(requests), prepared, [*ranker.explain(query, documents)]]

    plain, lengths = everything(), []

    def rounded(*arguments, round_length_up, **options):
        assert round_length_up is False  # fp32 needs none
        layout = build_layout(*arguments, round_length_up=True, **options)
        lengths.append(layout.num_tokens)
        return layout

    monkeypatch.setattr(engine, "build_layout", rounded)
    got = everything()
    assert lengths
    assert all(length % 16 == 0 for length in lengths)
    for one, other in zip(got[:3], plain[:3], strict=True):
        assert_same(one, other)
    for one, other in zip(got[3], plain[3], strict=True):
        assert [word.weight for word in one.words] == pytest.approx([word.weight for word in other.words], abs=1e-5)


def test_products_in_16_bits_get_few_lengths_on_a_cpu(tmp_path):
    folder = save_ranker(tmp_path, "llama", CONFIG)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="bfloat16", device="cpu")
    rows = []
    for module in ranker.engine.backbone.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    ranker.rank("who stores sugar", ["the liver stores sugar", "aspirin"])
    assert len(set(rows)) == 1
    assert rows[0] % 16 == 0
