"""A limit on memory changes no score, holds, and leaves nothing on the disk."""

from __future__ import annotations

import random
import tempfile
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import engine, store_preparation, workers
from blockrank_rerank.engine.budget import MIN_TOKENS
from blockrank_rerank.engine.store_preparation import trim_heap
from blockrank_rerank.states import spill as spilled_states
from blockrank_rerank.states.document_states import DocumentStates, compress
from blockrank_rerank.states.pack import StatePack
from tests.states.test_prepared import assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS

QUERY = "what treats a heart attack"
DOCUMENTS = [" ".join((WORDS * 2)[number % 7 : number % 7 + 8 + number % 5]) for number in range(480)]


class PeakMemory:
    """Bytes of all tensors that live at one time, at most, whichever worker made them."""

    def __init__(self):
        self._live, self._bytes, self.peak, self._lock = {}, 0, 0, threading.RLock()
        self._patch = pytest.MonkeyPatch()

    def __enter__(self):
        self._patch.setattr(
            engine, "in_workers", lambda function, *rest: workers.in_workers(self._counted(function), *rest)
        )
        self._mode = Counting(self)
        self._mode.__enter__()
        return self

    def __exit__(self, *exception):
        self._mode.__exit__(*exception)
        self._patch.undo()

    def _counted(self, function):
        def counted(item):
            with Counting(self):  # a mode of this thread
                return function(item)

        return counted

    def add(self, storage):
        with self._lock:
            if storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                self._bytes += storage.nbytes()
                self.peak = max(self.peak, self._bytes)
                weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key):
        with self._lock:
            self._bytes -= self._live.pop(key)


class Counting(TorchDispatchMode):
    def __init__(self, memory):
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._memory.add(leaf.untyped_storage())
        return out


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("llama"), "llama", replace(CONFIG, scoring_layer=3))


def load(folder, **options):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu", **options)


def peak_of(ranker, documents=DOCUMENTS):
    _ = ranker.device
    with PeakMemory() as memory:
        ranked = ranker.rank(QUERY, documents)
    return memory.peak, ranked


def test_a_limited_decoder_scores_alike_through_files_that_are_gone_afterwards(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    written, save = [], spilled_states.save_file
    monkeypatch.setattr(
        spilled_states, "save_file", lambda tensors, path: (written.append(path), save(tensors, path))[1]
    )
    assert_same(load(decoder, max_memory="300KB").rank(QUERY, DOCUMENTS), load(decoder).rank(QUERY, DOCUMENTS))
    assert len(written) > 2
    assert all(path.is_relative_to(tmp_path) for path in written)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torch_threads", [1, 2, 4])
def test_a_limit_holds_and_without_one_the_list_takes_more(decoder, set_threads, torch_threads):
    set_threads(torch_threads)
    limit = 2_000_000
    without, expected = peak_of(load(decoder))
    within, ranked = peak_of(load(decoder, max_memory=limit))
    assert within < limit < without / 4
    assert_same(ranked, expected)


def test_what_a_decoder_holds_within_a_limit_does_not_grow_with_the_list(decoder):
    limit = 2_000_000
    assert all(peak_of(load(decoder, max_memory=limit), DOCUMENTS * times)[0] < limit for times in (1, 8))
    assert peak_of(load(decoder), DOCUMENTS * 8)[0] > 20 * limit


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_states_that_a_cache_keeps_and_that_it_lacks_are_within_the_limit_too(family, tmp_path):
    prompt = CONFIG.prompt.without_query()
    config = BERT_CONFIG if family == "bert" else replace(CONFIG, scoring_layer=3, prompt=prompt)
    folder, limit = save_ranker(tmp_path, family, config), 1_000_000
    drawn = random.Random(0)
    documents = [" ".join(drawn.choices(WORDS, k=14)) for _ in range(1_500)]
    ranker = load(folder, max_memory=limit, cache="100KB")
    expected = {document.index: document.raw_score for document in load(folder).rank(QUERY, documents)}
    for _ in range(2):  # the second time, some are known
        peak, ranked = peak_of(ranker, documents)
        assert peak < limit
        assert {document.index: document.raw_score for document in ranked} == pytest.approx(expected, abs=1e-4)
    if family == "llama":  # the other one joins nothing of a long list, with a limit or without
        assert peak_of(load(folder, cache="100KB"), documents)[0] > 3 * limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_parts_are_within_the_limit_as_they_are_read_and_not_as_they_are_stored(dtype):
    states = [
        DocumentStates(tuple(range(10)), False, compress({"1.key": torch.randn(10, 2, 8)}, dtype)) for _ in range(40)
    ]
    limit, one = 4_000, 10 * 2 * 8 * 4
    with spilled_states.spill(states, limit, torch.float32) as parts:
        keys = [part.get("1.key", torch.empty(0)) for part in parts]
        assert all(key.nbytes <= limit + one for key in keys)
        expected = StatePack(states).get("1.key", torch.empty(0))
        torch.testing.assert_close(torch.cat(keys), expected, rtol=0, atol=0)
    assert len(keys) > 5


def test_files_go_when_a_ranking_fails(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ranker = load(decoder, max_memory="300KB")

    def fail(*arguments):
        assert list(tmp_path.iterdir()) != []
        raise RuntimeError("no")

    monkeypatch.setattr(ranker.engine.backbone, "document_lse", fail)
    with pytest.raises(RuntimeError, match="no"):
        ranker.rank(QUERY, DOCUMENTS)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_with_a_scoring_layer_only_takes_smaller_passes(tmp_path):
    folder = save_ranker(tmp_path, "bert", BERT_CONFIG)
    small = load(folder, max_memory=1)
    assert small.engine.budget.tokens == MIN_TOKENS
    assert load(folder, max_memory="100GB").engine.budget.tokens == load(folder).engine.budget.tokens
    assert_same(small.rank(QUERY, DOCUMENTS), load(folder).rank(QUERY, DOCUMENTS))


@pytest.mark.parametrize("queries", [1, 5])
def test_kept_states_are_joined_a_part_at_a_time_within_a_limit(queries, tmp_path):
    folder = save_ranker(tmp_path, "bert", BERT_CONFIG)
    peaks, rankings = [], []
    for limit in (None, "300KB"):
        ranker = load(folder, max_memory=limit)
        prepared = ranker.prepare(DOCUMENTS, dtype="int8")
        with PeakMemory() as memory:
            rankings.append(ranker.rank_batch([(QUERY, prepared)] * queries))
        peaks.append(memory.peak)
    for within, without in zip(*rankings, strict=True):
        assert_same(within, without)
    assert peaks[1] < peaks[0] / 4


@pytest.mark.parametrize("limit", [None, "50MB"])
def test_preparing_within_a_limit_gives_freed_memory_back_after_every_group(tmp_path, monkeypatch, limit):
    ranker = load(save_ranker(tmp_path / "model", "bert", BERT_CONFIG), max_memory=limit)
    monkeypatch.setattr(store_preparation, "GROUP_BYTES", 4_000)
    trims = []
    monkeypatch.setattr(store_preparation, "trim_heap", lambda: trims.append(trim_heap()))
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    groups = len([*(tmp_path / "store").glob("group-*.safetensors")])
    assert groups > 1
    assert len(trims) == (0 if limit is None else groups)


def test_what_preparing_holds_follows_the_limit_and_not_the_corpus(tmp_path):
    ranker = load(save_ranker(tmp_path / "model", "bert", BERT_CONFIG), max_memory="600KB")
    ranker.prepare_store(tmp_path / "first", DOCUMENTS[:3])  # loads, and reads the weights for their fingerprint
    for count in (300, 900):
        corpus = [f"{text} {number}" for number, text in enumerate((DOCUMENTS * 2)[:count])]
        with PeakMemory() as memory:
            done = ranker.prepare_store(tmp_path / str(count), corpus)
        assert done.nbytes > 1_800 * count
        assert memory.peak < 600_000


@pytest.mark.parametrize("prune", [{1: 300}, {1: 400, 2: 300}, {2: 5}])
def test_a_limit_holds_where_survivors_of_pruning_go_on_and_no_list_adds_to_another(tmp_path, prune):
    folder = save_ranker(tmp_path, "bert", replace(BERT_CONFIG, abstention=True))
    whole = BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu").engine
    encoded = whole.prompt.encode(QUERY, DOCUMENTS)
    limit = 4 * encoded.num_tokens * 32 * 4
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu", max_memory=limit, prune=prune)
    assert ranker.engine.budget.holds_hidden(encoded.num_tokens)
    ranker.rank(QUERY, DOCUMENTS)
    with PeakMemory() as one:
        ranker.rank(QUERY, DOCUMENTS)
    with PeakMemory() as several:
        ranker.rank_batch([(QUERY, DOCUMENTS)] * 3)
    assert one.peak <= limit
    assert several.peak <= 1.1 * one.peak


def test_a_limit_that_is_no_number_of_bytes_is_refused(decoder):
    with pytest.raises(ValueError, match="max_memory must be a number of bytes above 0"):
        load(decoder, max_memory="much")
