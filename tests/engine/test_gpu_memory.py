"""Passes fit a GPU's memory: by its size, and by going on with half where it does not suffice. No GPU is needed."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakValueDictionary

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import budget as budget_module
from blockrank_rerank.engine import shared
from blockrank_rerank.engine.budget import Budget, free_memory
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.ranking import batches
from tests.states.test_prepared import assert_same, save_family, save_ranker
from tests.tiny_models import BERT_CONFIG, WORDS

QUERY = "what treats a heart attack"
RUN = Backbone._run
DOCUMENTS = [" ".join((WORDS * 2)[number % 7 : number % 7 + 8 + number % 5]) for number in range(120)]


@pytest.fixture(scope="module", params=["bert", "llama", "independent"])
def folder(request, tmp_path_factory):
    if request.param == "independent":
        return save_ranker(tmp_path_factory.mktemp("bert"), "bert", BERT_CONFIG)
    saved = save_family(tmp_path_factory.mktemp(request.param) / "model", request.param)
    BlockRankReranker.from_pretrained(saved).query_free().config.save(saved)
    return saved


def load(folder, **options):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu", **options)


@pytest.fixture
def small_gpu(folder, monkeypatch):
    """Makes passes fail that read or join more than a part of all documents' tokens; returns those that do."""

    def start(part=0.6):
        failures, limit = [], part * load(folder).engine.prompt.encode(QUERY, DOCUMENTS).num_tokens

        def limited(self, forward):
            packs = [pack.num_tokens for packs in forward.document_states or () for pack in packs]
            tokens = max([forward.layout.num_tokens, *packs])
            if tokens > limit:
                failures.append(tokens)
                raise torch.OutOfMemoryError("CUDA out of memory")
            return RUN(self, forward)

        monkeypatch.setattr(budget_module, "MIN_TOKENS", 8)
        monkeypatch.setattr(shared, "_engines", WeakValueDictionary())  # of budgets that nothing has halved
        monkeypatch.setattr(Backbone, "_run", limited)
        return failures

    return start


def gpu_budget(gib, width=4096, dtype=torch.bfloat16, **options):
    return Budget(torch.device("cuda"), dtype, width, free_memory=gib << 30, **options)


def test_a_list_of_500_documents_is_one_pass_of_a_7b_model_where_40_gib_are_free():
    assert gpu_budget(40).tokens >= 500 * 200 + 224
    assert gpu_budget(4).tokens < 20_000


def test_a_gpus_budget_falls_with_the_width_and_with_the_free_memory():
    assert gpu_budget(8, 8192).tokens == gpu_budget(4).tokens == gpu_budget(8).tokens // 2
    assert gpu_budget(8, dtype=torch.float32).tokens == gpu_budget(4).tokens
    assert gpu_budget(80, max_memory=4 << 30).tokens == gpu_budget(4).tokens
    assert gpu_budget(10_000).tokens == gpu_budget(20_000).tokens


def test_free_memory_counts_what_torch_holds_and_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    assert free_memory(torch.device("cuda", 1)) == 14
    assert free_memory(torch.device("cpu")) is None


WAYS = {
    "rank": lambda ranker: [ranker.rank(QUERY, DOCUMENTS)],
    "batch": lambda ranker: ranker.rank_batch([(QUERY, DOCUMENTS[start : start + 24]) for start in range(0, 120, 24)]),
    "prepared": lambda ranker: [ranker.rank(QUERY, ranker.prepare(DOCUMENTS))],
}


@pytest.mark.parametrize("way", WAYS)
def test_where_memory_does_not_suffice_half_the_budget_goes_on_with_the_same_scores(folder, small_gpu, way):
    expected = WAYS[way](load(folder))
    failures, ranker = small_gpu(), load(folder)
    before = ranker.engine.budget.tokens
    for got, wanted in zip(WAYS[way](ranker), expected, strict=True):
        assert_same(got, wanted)
    failed = len(failures)
    assert 1 <= failed <= 2  # a pass of documents, and one of a query over all of them
    assert ranker.engine.budget.tokens <= failures[0] // 2 < before
    WAYS[way](ranker)
    assert len(failures) == failed


def test_pruning_a_cache_and_explanations_go_on_too(folder, small_gpu):
    ways = {"prune": {1: 40}, "cache": "1MB"}
    expected = [load(folder, **{name: value}).rank(QUERY, DOCUMENTS) for name, value in ways.items()]
    explained = load(folder).explain(QUERY, DOCUMENTS[:15])
    failures = small_gpu()
    for (name, value), wanted in zip(ways.items(), expected, strict=True):
        assert_same(load(folder, **{name: value}).rank(QUERY, DOCUMENTS), wanted)
    assert len(failures) >= 2
    for got, wanted in zip(load(folder).explain(QUERY, DOCUMENTS[:15]), explained, strict=True):
        assert [word.weight for word in got.words] == pytest.approx([word.weight for word in wanted.words], abs=1e-5)


def test_preparing_in_many_groups_halves_the_budget_once(folder, small_gpu):
    failures, ranker = small_gpu(), load(folder)
    whole = ranker.engine.prompt.encode(QUERY, DOCUMENTS).num_tokens
    ranker.engine.budget = replace(ranker.engine.budget, most_tokens=int(0.8 * whole))  # of which 0.6 fit
    ranker.prepare(DOCUMENTS * 4)
    assert len(failures) == 1
    assert ranker.engine.budget.tokens >= 0.3 * whole


def test_survivors_of_pruning_that_do_not_fit_go_on_with_half_the_budget(folder, small_gpu):
    expected = load(folder, prune={1: 110}).rank(QUERY, DOCUMENTS)
    failures = small_gpu()
    assert_same(load(folder, prune={1: 110}).rank(QUERY, DOCUMENTS), expected)
    assert len(failures) >= 2


def test_what_does_not_fit_half_the_budget_either_is_an_error(folder, small_gpu):
    failures, ranker = small_gpu(0.001), load(folder)
    with pytest.raises(torch.OutOfMemoryError):
        ranker.rank(QUERY, DOCUMENTS[:1])
    assert len(failures) <= 4


def test_requests_that_are_packed_later_fit_the_smaller_budget(folder, small_gpu, monkeypatch):
    small_gpu()
    ranker, sizes = load(folder), []
    ranker.rank(QUERY, DOCUMENTS)
    room = batches.RequestBatch.has_room
    monkeypatch.setattr(
        batches.RequestBatch, "has_room", lambda self, found, tokens: sizes.append(tokens) or room(self, found, tokens)
    )
    ranker.rank_batch([(QUERY, DOCUMENTS[:4])] * 3)
    assert set(sizes) == {ranker.engine.budget.tokens}


def after(budget, fits, tokens=None):
    for _ in range(fits):
        budget = budget.fitted(budget.tokens if tokens is None else tokens)
    return budget


def test_a_halved_budget_doubles_after_some_passes_that_fit_until_it_is_what_it_was(monkeypatch):
    monkeypatch.setattr(budget_module, "free_memory", lambda device: 4 << 30)
    whole = gpu_budget(4)
    halved = whole.halved(whole.tokens)
    assert after(halved, budget_module.FITS - 1).tokens == halved.tokens == whole.tokens // 2
    assert after(halved, budget_module.FITS) == whole
    twice = after(halved.halved(halved.tokens), budget_module.FITS)
    assert twice.tokens == 2 * (halved.tokens // 2)
    assert after(twice, budget_module.FITS) == whole


def test_passes_far_below_the_budget_say_nothing_of_a_larger_one_and_one_that_fails_begins_anew():
    halved = gpu_budget(4).halved(10_000)
    assert after(halved, 2 * budget_module.FITS, tokens=halved.tokens // 2 - 1) == halved
    nearly = after(halved, budget_module.FITS - 1)
    assert nearly.halved(nearly.tokens).fits == 0


def test_memory_that_comes_free_after_loading_is_used_after_some_passes(monkeypatch):
    monkeypatch.setattr(budget_module, "free_memory", lambda device: 8 << 30)
    assert after(gpu_budget(4), budget_module.FITS) == gpu_budget(8)
    assert after(gpu_budget(16), budget_module.FITS) == gpu_budget(16)  # less for the moment, in the midst of a pass


def test_where_memory_is_not_the_limit_nothing_is_counted():
    for unlimited in (gpu_budget(10_000), Budget(torch.device("cpu"), torch.float32, 384, max_memory=1 << 20)):
        assert unlimited.fitted(unlimited.tokens) is unlimited


@pytest.mark.parametrize("way", WAYS)
def test_where_memory_suffices_again_lists_are_read_whole_again(folder, small_gpu, way, monkeypatch):
    monkeypatch.setattr(budget_module, "FITS", 2)
    failures, ranker = small_gpu(), load(folder)
    expected = WAYS[way](ranker)
    assert ranker.engine.budget.tokens < failures[0]
    monkeypatch.setattr(Backbone, "_run", RUN)
    for _ in range(16):
        for got, wanted in zip(WAYS[way](ranker), expected, strict=True):
            assert_same(got, wanted)
    assert ranker.engine.budget.tokens >= failures[0]
