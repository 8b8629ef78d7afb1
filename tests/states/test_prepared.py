"""States that are kept give the scores of the documents themselves."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import replace

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import budget, engine
from blockrank_rerank.model import devices
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.states.cache import StateCache, parse_bytes
from blockrank_rerank.states.pack import StatePack
from blockrank_rerank.text.tokenizer import TextTokenizer
from tests.model.test_families import global_layers
from tests.tiny_models import BERT_CONFIG, BERT_PROMPT, CONFIG, FAMILIES, PROMPT, randomise, save_model

DOCUMENTS = [
    "a heart attack is a blocked artery",
    "sugar",
    {"title": "the liver", "text": "stores sugar " * 9},
    "",
    "aspirin thins the blood",
    "sugar",
]
QUERIES = ["what treats a heart attack", "who stores sugar", "it"]


def save_ranker(folder, family, config, seed=1):
    save_model(folder, family)
    if config.scoring_head:
        head = ScoringHead(32, num_heads=2)
        randomise(head, seed)
        head.save(folder)
    config.save(folder)
    return folder


def save_family(folder, family):
    """A model of a family that scores at the last of its layers without a window."""
    prompt = BERT_PROMPT if "bert" in family else PROMPT
    return save_ranker(folder, family, replace(CONFIG, scoring_layer=global_layers(family)[-1], prompt=prompt))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)


def assert_same(got, expected, tolerance=1e-5):
    by_index = {document.index: document for document in expected}
    assert [document.index for document in got] == [document.index for document in expected]
    for document in got:
        other = by_index[document.index]
        assert document.score == pytest.approx(other.score, abs=tolerance)
        assert document.raw_score == pytest.approx(other.raw_score, abs=10 * tolerance)
        assert (document.text, document.truncated) == (other.text, other.truncated)
        assert document.probability == pytest.approx(other.probability, abs=tolerance)


@pytest.mark.parametrize("family", [name for name in FAMILIES if global_layers(name)])
def test_prepared_documents_rank_as_the_documents_do(family, tmp_path):
    ranker = BlockRankReranker.from_pretrained(save_family(tmp_path, family), dtype="float32").query_free()
    prepared = ranker.prepare(DOCUMENTS)
    for query in QUERIES:
        assert_same(ranker.rank(query, prepared), ranker.rank(query, DOCUMENTS))


@pytest.mark.parametrize("family", [name for name in FAMILIES if global_layers(name)])
def test_within_a_limit_kept_states_are_read_in_parts_and_rank_alike(family, tmp_path, monkeypatch):
    folder = save_family(tmp_path, family)
    expected = BlockRankReranker.from_pretrained(folder, dtype="float32").query_free()
    limited = BlockRankReranker.from_pretrained(folder, dtype="float32", max_memory=1).query_free()
    monkeypatch.setattr(budget, "MIN_TOKENS", 20)
    parts, split = [], StatePack.split
    monkeypatch.setattr(StatePack, "split", lambda *given: (found := split(*given), parts.append(len(found)))[0])
    prepared = limited.prepare(DOCUMENTS)
    for query in QUERIES:
        assert_same(limited.rank(query, prepared), expected.rank(query, DOCUMENTS))
        assert_same(limited.rank(query, DOCUMENTS), expected.rank(query, DOCUMENTS))
    assert parts == [3] * len(QUERIES)


@pytest.mark.parametrize("changes", [{}, {"abstention": True}, {"query_documents_from_layer": 1}], ids=str)
def test_a_list_beyond_the_budget_goes_through_in_groups_with_the_same_scores(changes, tmp_path, monkeypatch):
    folder = save_ranker(tmp_path, "llama", replace(CONFIG, **changes))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu")
    expected = [ranker.rank(query, DOCUMENTS) for query in QUERIES]
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=100))
    for query, ranking in zip(QUERIES, expected, strict=True):
        assert_same(ranker.rank(query, DOCUMENTS), ranking)


def test_a_sliding_window_at_the_scoring_layer_is_refused_for_kept_documents_too(tmp_path):
    config = replace(CONFIG, query_offset=80)
    ranker = BlockRankReranker.from_pretrained(save_ranker(tmp_path, "mistral-window", config), dtype="float32")
    ranker = ranker.query_free()
    with pytest.raises(ValueError, match="sliding window of 12 positions"):
        ranker.rank(QUERIES[0], ranker.prepare(DOCUMENTS))


@pytest.mark.parametrize(
    "changes",
    [
        {"query_documents_from_layer": 1},
        {"query_documents_from_layer": CONFIG.scoring_layer},
        {"query_documents_from_layer": CONFIG.scoring_layer + 1},
        {"heads": (3, 0)},
        {"abstention": True},
        {"signal_tokens": "all", "reduction": "softmax_of_mean"},
        {"max_document_tokens": 14},
    ],
    ids=str,
)
def test_whatever_the_settings_kept_states_score_alike(changes, tmp_path):
    folder = save_ranker(tmp_path, "llama", replace(CONFIG, **changes))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32").query_free()
    assert_same(ranker.rank(QUERIES[0], ranker.prepare(DOCUMENTS)), ranker.rank(QUERIES[0], DOCUMENTS))


def test_many_queries_share_a_pass_and_mix_with_requests_that_are_not_prepared(folder):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    prepared = ranker.prepare(DOCUMENTS)
    requests = [(QUERIES[0], prepared), (QUERIES[1], prepared), (QUERIES[2], DOCUMENTS), (QUERIES[0], prepared[:2])]
    plain = [(query, list(documents)) for query, documents in requests]
    passes = []
    rankings = ranker.rank_batch(requests, on_progress=lambda count, tokens: passes.append(count))
    for got, expected in zip(rankings, ranker.rank_batch(plain), strict=True):
        assert_same(got, expected)
    assert passes == [2, 1, 1]


def test_prepared_documents_are_the_sequence_of_the_documents(folder):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    prepared = ranker.prepare(DOCUMENTS)
    assert list(prepared) == DOCUMENTS
    assert len(prepared) == len(DOCUMENTS)
    assert prepared[2] == DOCUMENTS[2]
    assert list(prepared[1:3]) == DOCUMENTS[1:3]
    chosen = prepared.select([4, 0])
    assert_same(ranker.rank(QUERIES[0], chosen), ranker.rank(QUERIES[0], [DOCUMENTS[4], DOCUMENTS[0]]))
    assert list(prepared.select([-1])) == DOCUMENTS[-1:]
    with pytest.raises(IndexError):
        prepared.select([len(DOCUMENTS)])
    assert prepared.nbytes == sum(states.nbytes for states in prepared.states) > 0
    assert ranker.rank(QUERIES[0], ranker.prepare([])) == []
    best = ranker.explain(QUERIES[0], prepared).documents[0].ranked
    assert best.text == ranker.rank(QUERIES[0], prepared)[0].text


def test_documents_that_are_changed_after_preparing_stay_as_they_were_read(folder):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    mine = copy.deepcopy(DOCUMENTS)
    prepared = ranker.prepare(mine)
    mine[2]["text"] = "another"
    assert_same(ranker.rank(QUERIES[0], prepared), ranker.rank(QUERIES[0], DOCUMENTS))
    assert list(prepared) == DOCUMENTS


def test_states_of_another_model_are_refused(folder, tmp_path):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    prepared = ranker.prepare(DOCUMENTS)
    others = [
        BlockRankReranker.from_pretrained(save_ranker(tmp_path, "bert", BERT_CONFIG, seed=7), dtype="float32"),
        BlockRankReranker.from_pretrained(folder, dtype="bfloat16"),
        ranker.with_config(max_document_tokens=40),
    ]
    for other in others:
        with pytest.raises(ValueError, match="prepared by another model"):
            other.rank(QUERIES[0], prepared)
    same = BlockRankReranker.from_pretrained(folder, dtype="float32")
    assert_same(same.rank(QUERIES[0], prepared), ranker.rank(QUERIES[0], prepared))


def test_a_prompt_that_repeats_the_query_cannot_be_prepared(tmp_path):
    ranker = BlockRankReranker.from_pretrained(save_ranker(tmp_path, "llama", CONFIG), dtype="float32")
    with pytest.raises(ValueError, match=r"use ranker\.query_free\(\)"):
        ranker.prepare(DOCUMENTS)
    with pytest.raises(ValueError, match="cache and store need documents that do not depend"):
        BlockRankReranker.from_pretrained(tmp_path, cache="1MB")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_smaller_states_score_nearly_alike(folder, dtype):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    exact, small = ranker.prepare(DOCUMENTS), ranker.prepare(DOCUMENTS, dtype=dtype)
    assert small.nbytes < 0.6 * exact.nbytes
    expected = {d.index: d.score for d in ranker.rank(QUERIES[0], exact)}
    for document in ranker.rank(QUERIES[0], small):
        assert document.score == pytest.approx(expected[document.index], abs=0.01)
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, float16, int8, got 'int4'"):
        ranker.prepare(DOCUMENTS, dtype="int4")


def test_a_cache_reads_each_document_once_and_changes_no_score(folder):
    plain = BlockRankReranker.from_pretrained(folder, dtype="float32")
    cached = BlockRankReranker.from_pretrained(folder, dtype="float32", cache="1MB")
    for query in QUERIES:
        assert_same(cached.rank(query, DOCUMENTS), plain.rank(query, DOCUMENTS))
    info = cached.cache_info
    # One of the six documents is there twice.
    assert (info.misses, info.hits, info.documents) == (5, 10, 5)
    assert 0 < info.nbytes < info.max_bytes == 10**6
    assert plain.cache_info is None


def test_a_known_document_is_not_tokenised_again_and_a_split_one_is_split_again(folder, monkeypatch):
    options = {"dtype": "float32", "max_document_tokens": 20, "long_documents": "split"}
    plain = BlockRankReranker.from_pretrained(folder, **options)
    cached = BlockRankReranker.from_pretrained(folder, cache="10MB", **options)
    whole, split = "the liver stores sugar. " * 2, "aspirin thins blood. " * 20
    expected = plain.rank(QUERIES[0], [whole, split])
    assert [document.passage is None for document in sorted(expected, key=lambda d: d.index)] == [True, False]
    assert_same(cached.rank(QUERIES[0], [whole, split]), expected)
    encoded, encode = [], TextTokenizer.encode
    monkeypatch.setattr(TextTokenizer, "encode", lambda self, blocks: encoded.extend(blocks) or encode(self, blocks))
    again = cached.rank(QUERIES[0], [whole, split])
    assert_same(again, expected)
    texts = ["".join(piece.content for piece in block) for block in encoded]
    assert not any("liver" in text for text in texts)
    assert sum("aspirin" in text for text in texts) == 1


def test_requests_with_kept_documents_share_passes_within_the_budget(folder, monkeypatch):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu")
    prepared = ranker.prepare(DOCUMENTS)
    tokens = prepared.pack.num_tokens
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=2 * tokens))
    passes, run = [], engine.Engine._score_states
    monkeypatch.setattr(
        engine.Engine,
        "_score_states",
        lambda self, requests, states: passes.append([id(pack) for pack in states]) or run(self, requests, states),
    )
    expected = [ranker.rank(query, DOCUMENTS) for query in QUERIES]
    requests = [(query, documents) for documents in (prepared, prepared[:], prepared[:]) for query in QUERIES]
    for ranked, number in zip(ranker.rank_batch(requests), range(9), strict=True):
        assert_same(ranked, expected[number % 3])
    # The states of one list are joined once for all of its queries; a third list's do not fit beside two.
    assert [len(set(one)) for one in passes] == [2, 1]
    assert [len(one) for one in passes] == [6, 3]


@pytest.mark.parametrize("instruction", ["", "Documents:"])
def test_a_list_that_is_known_costs_no_pass_of_its_own(tmp_path, monkeypatch, instruction):
    config = replace(CONFIG, prompt=replace(CONFIG.prompt, instruction=instruction))
    save_ranker(tmp_path, "llama", config)
    cached = BlockRankReranker.from_pretrained(tmp_path, dtype="float32", cache="10MB")
    first = cached.rank(QUERIES[0], DOCUMENTS)
    engine = cached.engine
    monkeypatch.setattr(engine.backbone, "document_states", lambda layout: 1 / 0)
    assert_same(cached.rank(QUERIES[0], DOCUMENTS), first)
    assert list(engine.document_states([], torch.float32)) == []


def test_a_cache_drops_what_was_used_longest_ago_and_stays_within_its_bytes(folder):
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    size = {text: ranker.prepare([text]).nbytes for text in ("sugar", "liver", "blood")}
    cached = BlockRankReranker.from_pretrained(folder, dtype="float32", cache=size["sugar"] + size["liver"])
    for text in ("sugar", "liver", "sugar", "blood", "sugar"):
        cached.rank("it", [text])
        assert cached.cache_info.nbytes <= cached.cache_info.max_bytes
    assert cached.cache_info.hits == 2
    long = "sugar " * 60
    assert_same(cached.rank("it", [long, "sugar"]), ranker.rank("it", [long, "sugar"]))


def test_copies_share_a_cache_and_pickles_start_an_empty_one(folder):
    cached = BlockRankReranker.from_pretrained(folder, dtype="float32", cache="1MB")
    cached.rank("it", ["sugar"])
    assert copy.deepcopy(cached).cache_info == cached.cache_info
    restored = pickle.loads(pickle.dumps(cached))
    assert (restored.cache_info.documents, restored.cache_info.max_bytes) == (0, 10**6)


def test_threads_may_share_a_cache(folder):
    cached = BlockRankReranker.from_pretrained(folder, dtype="float32", cache=20_000)
    expected = [cached.rank(query, DOCUMENTS) for query in QUERIES]
    failures = []

    def work(number):
        for turn in range(10):
            place = (number + turn) % len(QUERIES)
            try:
                assert_same(cached.rank(QUERIES[place], DOCUMENTS), expected[place])
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert cached.cache_info.nbytes <= 20_000


@pytest.mark.parametrize(
    ("text", "count"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("10k", 10_000), ("7", 7), (12, 12)]
)
def test_bytes_are_read_as_people_write_them(text, count):
    assert parse_bytes("cache", text) == count


def test_more_bytes_than_a_float_can_count_are_bytes():
    assert parse_bytes("cache", "9" * 400) > 10**399


@pytest.mark.parametrize("value", ["", "many", "2 XB", "-1GB", "0.4", 0, -5, True, 1.5, None])
def test_what_is_no_number_of_bytes_is_refused_by_name(value):
    with pytest.raises(ValueError, match="cache must be a number of bytes above 0"):
        parse_bytes("cache", value)


def test_states_larger_than_the_whole_cache_are_not_kept(folder):
    cache = StateCache(10)
    (states,) = BlockRankReranker.from_pretrained(folder, dtype="float32").prepare(["sugar"]).states
    cache.put("sugar", states)
    assert cache.info().documents == 0
    assert torch.is_tensor(next(iter(states.tensors.values())))
