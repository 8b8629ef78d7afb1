"""Documents that early layers drop: survivors keep their scores, the others come last in the early order."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import budget
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.engine.engine import staged_engine
from blockrank_rerank.evaluation.rerank_run import rerank_run
from blockrank_rerank.model import devices
from blockrank_rerank.model.families import layers_of
from blockrank_rerank.model.layout import build_layout
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS

QUERY = "what treats a heart attack"
DOCUMENTS = [" ".join(random.Random(seed).choices(WORDS, k=4 + seed % 9)) for seed in range(24)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    config = replace(BERT_CONFIG, abstention=True)
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", config)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("llama"), "llama", replace(CONFIG, scoring_layer=3))


def load(folder, **options):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu", **options)


def early_order(folder, layer):
    """Documents by raw score after some layers, computed by a model that is cut off there."""
    engine = load(folder).engine
    config = replace(engine.config, scoring_layer=layer, abstention=False)
    early = staged_engine(engine, config)
    assert early.config == config
    lse = early.backbone.document_lse(build_layout([engine.prompt.encode(QUERY, DOCUMENTS)], config.query_offset))
    raw = lse[0].documents.mean((0, 1)).tolist()
    return sorted(range(len(raw)), key=lambda index: -raw[index]), raw


def test_the_best_after_an_early_layer_keep_their_scores_and_the_others_follow(encoder):
    order, raw = early_order(encoder, 1)
    ranked = load(encoder, prune={1: 10}).rank(QUERY, DOCUMENTS)
    whole = {document.index: document for document in load(encoder).rank(QUERY, DOCUMENTS)}
    kept, dropped = ranked[:10], ranked[10:]
    assert {document.index for document in kept} == set(order[:10])
    assert [document.index for document in dropped] == order[10:]
    assert [d.index for d in kept] == [index for index in whole if index in set(order[:10])]
    for document in kept:
        assert document.raw_score == pytest.approx(whole[document.index].raw_score, abs=1e-5)
        assert document.probability == pytest.approx(whole[document.index].probability, abs=1e-5)
        assert not document.pruned
    assert sum(document.score for document in kept) == pytest.approx(1)
    for document in dropped:
        assert (document.pruned, document.score, document.probability) == (True, 0.0, None)
        assert document.raw_score == pytest.approx(raw[document.index], abs=1e-5)
        assert document.text == DOCUMENTS[document.index]


@pytest.fixture(scope="module", params=["bert", "modernbert", "llama", "gemma3_text"])
def independent(request, tmp_path_factory):
    """Models of several families whose documents no query changes."""
    config = replace(BERT_CONFIG, abstention=request.param == "bert")
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, config)


class Counted:
    """Rows that go through each layer of a ranker's model."""

    def __init__(self, ranker):
        self.rows = {}
        for index, layer in enumerate(layers_of(ranker.engine.backbone.model)):
            self.rows[index] = 0
            # A copy of a layer has its hooks too, but not those of what is inside.
            inside = next(module for module in layer.modules() if isinstance(module, torch.nn.Linear))
            inside.register_forward_pre_hook(partial(self._count, index))

    def _count(self, index, module, inputs):
        self.rows[index] += inputs[0].shape[1]


@pytest.mark.parametrize("prune", [{1: 8}, {2: 8}, {1: 12, 2: 5}])
def test_survivors_go_on_from_where_they_are(independent, prune):
    pruning, whole = load(independent, prune=prune), load(independent)
    counted = Counted(pruning)
    ranked = pruning.rank(QUERY, DOCUMENTS)
    expected = {document.index: document for document in whole.rank(QUERY, DOCUMENTS)}
    engine = pruning.engine
    everything = engine.prompt.encode(QUERY, DOCUMENTS)
    last = sum(not document.pruned for document in ranked)
    for document in ranked[:last]:
        assert document.raw_score == pytest.approx(expected[document.index].raw_score, abs=2e-5)
    assert last == min(prune.values())
    assert counted.rows[0] == everything.num_tokens  # once
    alone = replace(everything, documents=[everything.documents[document.index] for document in ranked[:last]])
    assert counted.rows[2] == alone.num_tokens
    # Lists that are not pruned, and those whose states would be too much, are read as ever.
    assert pruning.rank(QUERY, DOCUMENTS[:5]) == whole.rank(QUERY, DOCUMENTS[:5])
    limited = load(independent, prune=prune, max_memory="20kB")
    assert not limited.engine.budget.holds_hidden(everything.num_tokens)
    for one, other in zip(limited.rank(QUERY, DOCUMENTS), ranked, strict=True):
        assert (one.index, one.pruned) == (other.index, other.pruned)
        assert one.raw_score == pytest.approx(other.raw_score, abs=2e-5)


def test_survivors_of_lists_that_are_several_passes_go_on_too(independent, monkeypatch):
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=40))
    monkeypatch.setattr(budget, "MIN_TOKENS_PER_WORKER", 16)
    pruning, whole = load(independent, prune={1: 8}), load(independent)
    assert len(pruning.engine.budget.groups(pruning.engine.prompt.encode(QUERY, DOCUMENTS))[0]) > 3
    expected = {document.index: document.raw_score for document in whole.rank(QUERY, DOCUMENTS)}
    ranked = pruning.rank(QUERY, DOCUMENTS)
    assert [d.raw_score for d in ranked[:8]] == pytest.approx([expected[d.index] for d in ranked[:8]], abs=2e-5)


def test_pruned_lists_go_through_a_batch_beside_others(independent):
    pruning = load(independent, prune={1: 8})
    batch = [
        (WORDS[3], DOCUMENTS[:4]),
        (QUERY, DOCUMENTS),
        (WORDS[5], DOCUMENTS),
        (WORDS[4], DOCUMENTS[:3]),
        (QUERY, []),
    ]
    for single, ranking in zip(batch, pruning.rank_batch(batch), strict=True):
        alone = pruning.rank(*single)
        assert [d.index for d in ranking] == [d.index for d in alone]
        assert [d.raw_score for d in ranking] == pytest.approx([d.raw_score for d in alone], abs=2e-5)


def test_what_cannot_go_on_is_read_anew(encoder, decoder, tmp_path, monkeypatch):
    engine = load(encoder, prune={1: 8}).engine
    request = engine.prompt.encode(QUERY, DOCUMENTS)
    assert engine.budget.holds_hidden(request.num_tokens)
    assert engine.documents_are_independent
    monkeypatch.setattr(budget, "HIDDEN_TOKENS", request.num_tokens - 1)
    assert not engine.budget.holds_hidden(request.num_tokens)
    monkeypatch.undo()
    # A query that sees documents below the scoring layer is another one without them.
    config = replace(BERT_CONFIG, query_documents_from_layer=1)
    dependent = save_ranker(tmp_path, "bert", config)
    for folder in (decoder, dependent):
        engine = load(folder, prune={1: 8}).engine
        assert not engine.documents_are_independent
    order, _ = early_order(dependent, 1)
    alone = load(dependent).rank(QUERY, [DOCUMENTS[index] for index in sorted(order[:8])])
    ranked = load(dependent, prune={1: 8}).rank(QUERY, DOCUMENTS)[:8]
    assert [d.raw_score for d in ranked] == pytest.approx([d.raw_score for d in alone], abs=2e-5)


def test_half_precision_survivors_go_on_in_packs_with_padding(encoder):
    half = partial(BlockRankReranker.from_pretrained, encoder, dtype="bfloat16", device="cpu")
    whole = {document.index: document.raw_score for document in half().rank(QUERY, DOCUMENTS)}
    for document in half(prune={1: 8}).rank(QUERY, DOCUMENTS)[:8]:
        assert document.raw_score == pytest.approx(whole[document.index], abs=0.02)


def test_survivors_of_a_decoder_are_scored_as_a_list_of_their_own(decoder):
    order, _ = early_order(decoder, 1)
    survivors = sorted(order[:8])
    ranked = load(decoder, prune={1: 8}).rank(QUERY, DOCUMENTS)
    assert {document.index for document in ranked[:8]} == set(survivors)
    # The numbers in front of the documents stay those of the whole list.
    engine = load(decoder).engine
    encoded = engine.prompt.encode(QUERY, DOCUMENTS)
    alone = replace(encoded, documents=[encoded.documents[index] for index in survivors])
    lse = engine.score(Batch([replace(alone, truncated=[False] * 8)]))[0].documents
    share = dict(zip(survivors, lse.softmax(-1).mean((0, 1)).tolist(), strict=True))
    for document in ranked[:8]:
        assert document.score == pytest.approx(share[document.index], abs=1e-5)


def test_stages_follow_each_other_and_later_ones_rank_above_earlier_ones(encoder):
    both = load(encoder, prune={2: 5, 1: 12}).rank(QUERY, DOCUMENTS)
    first, _ = early_order(encoder, 1)
    second, _ = early_order(encoder, 2)
    left = [index for index in second if index in set(first[:12])]
    assert {document.index for document in both[:5]} == set(left[:5])
    assert [document.index for document in both[5:]] == left[5:] + first[12:]


def test_short_lists_and_prepared_documents_are_not_pruned(encoder):
    pruning, whole = load(encoder, prune={1: 24}), load(encoder)
    assert pruning.rank(QUERY, DOCUMENTS) == whole.rank(QUERY, DOCUMENTS)
    pruning = load(encoder, prune={1: 3})
    assert not any(document.pruned for document in pruning.rank(QUERY, pruning.prepare(DOCUMENTS)))
    assert pruning.rank(QUERY, []) == []


def test_limits_apply_to_what_was_dropped(encoder):
    pruning = load(encoder, prune={1: 3})
    assert len(pruning.rank(QUERY, DOCUMENTS, min_probability=0.0)) == 24
    assert all(not d.pruned for d in pruning.rank(QUERY, DOCUMENTS, min_probability=1e-9))
    assert len(pruning.rank(QUERY, DOCUMENTS, top_k=5)) == 5
    assert pruning.rank_batch([(QUERY, DOCUMENTS)] * 2) == [pruning.rank(QUERY, DOCUMENTS)] * 2
    explained = pruning.explain(QUERY, DOCUMENTS, top_k=5)
    assert [one.ranked.pruned for one in explained.documents] == [False] * 3 + [True] * 2
    likely = pruning.explain(QUERY, DOCUMENTS, min_probability=1e-9).ranking
    assert {(len(found), found.pruned) for found in (likely, pruning.rank(QUERY, DOCUMENTS, min_probability=1e-9))} == {
        (3, 21)
    }


@pytest.mark.parametrize("count", range(1, 8))
def test_copies_survive_in_the_order_of_the_list(decoder, count):
    documents = [DOCUMENTS[number % 4] for number in (0, 1, 2, 3, 1, 0, 1, 2, 1, 3)]
    ranked = load(decoder, prune={1: count}).rank(QUERY, documents)
    for text in set(documents):
        copies = [document.index for document in ranked if document.text == text]
        assert copies == sorted(copies)


def test_dropped_documents_fall_by_whole_numbers_in_a_run(encoder):
    corpus = {f"d{number}": text for number, text in enumerate(DOCUMENTS)}
    first = {"q": dict.fromkeys(corpus, 1.0)}
    reranked = rerank_run(load(encoder, prune={1: 20}), first, {"q": QUERY}, corpus).run["q"]
    scores = list(reranked.values())
    assert scores[20:] == [-20.0, -21.0, -22.0, -23.0]
    assert min(scores[:20]) > 0


def test_a_split_document_survives_with_all_of_its_passages(encoder):
    options = {"max_document_tokens": 14, "long_documents": "split"}
    long = [*DOCUMENTS, " ".join(DOCUMENTS[:5])]
    whole = load(encoder, **options).rank(QUERY, long)
    pruned = load(encoder, prune={1: 12}, **options).rank(QUERY, long)
    expected = {document.index: document for document in whole}
    for document in pruned[:12]:
        assert document.raw_score == pytest.approx(expected[document.index].raw_score, abs=1e-5)
        assert document.passage == expected[document.index].passage
    assert expected[24].passage is not None


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ({0: 5}, "prune must map layers to numbers of documents, both above 0"),
        ({1: 0}, "both above 0"),
        ({1: 0.3}, "both above 0"),
        ([1, 5], "prune must map"),
        ({1: 5, 2: 5}, "fewer documents at later layers"),
    ],
)
def test_pruning_that_means_nothing_is_refused(encoder, prune, message):
    with pytest.raises(ValueError, match=message):
        load(encoder, prune=prune)


def test_pruning_where_nothing_is_saved_is_refused(encoder):
    with pytest.raises(ValueError, match=r"prune: layers must be in 1\.\.2, below the scoring layer, got 3"):
        load(encoder, prune={3: 5}).rank(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def half_stored(encoder, tmp_path_factory):
    """A store of every second document."""
    folder = tmp_path_factory.mktemp("store") / "half"
    load(encoder).prepare_store(folder, DOCUMENTS[::2])
    return folder


def by_index(ranking):
    return {document.index: document for document in ranking}


def test_with_nothing_known_yet_a_cache_changes_nothing_of_a_pruned_list(encoder):
    for prune in ({1: 8}, {1: 12, 2: 5}, {1: 30, 2: 9}):
        plain = load(encoder, prune=prune).rank(QUERY, DOCUMENTS)
        cached = load(encoder, prune=prune, cache="1MB").rank(QUERY, DOCUMENTS)
        assert [(d.index, d.pruned, d.truncated) for d in cached] == [(d.index, d.pruned, d.truncated) for d in plain]
        for one, other in zip(cached, plain, strict=True):
            assert one.raw_score == pytest.approx(other.raw_score, abs=2e-5)
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert one.probability == pytest.approx(other.probability, abs=1e-5)


@pytest.mark.parametrize("kept", ["store", "cache"])
def test_known_documents_are_not_pruned_and_survivors_score_as_ever(encoder, half_stored, kept):
    options = {"store": half_stored} if kept == "store" else {"cache": "1MB"}
    pruning = load(encoder, prune={1: 5}, **options)
    if kept == "cache":
        pruning.rank(QUERY, DOCUMENTS[:10:2])  # five, of which none is dropped
        known = {0, 2, 4, 6, 8}
    else:
        known = set(range(0, 24, 2))
    ranked, whole = pruning.rank(QUERY, DOCUMENTS), by_index(load(encoder).rank(QUERY, DOCUMENTS))
    unknown = [index for index in range(24) if index not in known]
    early, _ = early_order(encoder, 1)
    expected = known | set([index for index in early if index in set(unknown)][:5])
    assert {document.index for document in ranked if not document.pruned} == expected
    for document in ranked[: len(expected)]:
        assert document.raw_score == pytest.approx(whole[document.index].raw_score, abs=2e-5)
        assert document.probability == pytest.approx(whole[document.index].probability, abs=1e-5)
        assert document.served_from == (
            {"store": "stored", "cache": "cached"}[kept] if document.index in known else "read"
        )
    assert [d.index for d in ranked[len(expected) :]] == [i for i in early if i not in expected]


@pytest.mark.parametrize("kept", ["store", "cache"])
def test_where_the_query_looked_is_shown_of_documents_that_were_dropped_too(encoder, half_stored, kept):
    options = {"store": half_stored} if kept == "store" else {"cache": "1MB"}
    ranking = load(encoder, prune={1: 3}, **options).rank(QUERY, DOCUMENTS)
    whole = {explained.ranked.index: explained for explained in load(encoder).explain(QUERY, DOCUMENTS)}
    shown = load(encoder, prune={1: 3}, **options).explain(QUERY, DOCUMENTS).documents
    assert [explained.ranked.index for explained in shown] == [document.index for document in ranking]
    assert any(explained.ranked.pruned for explained in shown)
    for explained in shown:
        expected = [word.weight for word in whole[explained.ranked.index].words]
        assert [word.weight for word in explained.words] == pytest.approx(expected, abs=1e-5)


def test_survivors_go_into_the_cache_from_where_they_are(independent):
    pruning, whole = load(independent, prune={1: 8}, cache="1MB"), load(independent)
    counted = Counted(pruning)
    first = pruning.rank(QUERY, DOCUMENTS)
    assert pruning.cache_info.documents == 8
    tokens = counted.rows[0]
    everything = pruning.engine.prompt.encode(QUERY, DOCUMENTS)
    query_alone = pruning.engine.prompt.encode(QUERY, []).num_tokens
    assert tokens == everything.num_tokens + query_alone  # once, and the query over the states
    again = pruning.rank(QUERY, [DOCUMENTS[document.index] for document in first[:8]])
    assert counted.rows[0] == tokens + query_alone
    expected = by_index(whole.rank(QUERY, DOCUMENTS))
    assert [d.raw_score for d in again] == pytest.approx([expected[d.index].raw_score for d in first[:8]], abs=2e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_pruning_beside_a_cache_reads_anew_where_it_must(family, tmp_path, monkeypatch):
    # A decoder in the paper's form, and an encoder without room for its hidden states.
    config = BERT_CONFIG if family == "bert" else replace(CONFIG, scoring_layer=3, prompt=CONFIG.prompt.without_query())
    folder = save_ranker(tmp_path, family, config)
    monkeypatch.setattr(budget, "HIDDEN_TOKENS", 1)
    plain = load(folder, prune={1: 6}).rank(QUERY, DOCUMENTS)
    for options in ({}, {"max_memory": "50kB"}):
        cached = load(folder, prune={1: 6}, cache="1MB", **options).rank(QUERY, DOCUMENTS)
        assert [(d.index, d.pruned) for d in cached] == [(d.index, d.pruned) for d in plain]
        assert [d.raw_score for d in cached] == pytest.approx([d.raw_score for d in plain], abs=2e-5)


def test_passages_and_copies_beside_a_store_are_pruned_as_without(encoder, half_stored):
    options = {"max_document_tokens": 14, "long_documents": "split", "prune": {1: 6}}
    long = [*DOCUMENTS[1::2], " ".join(DOCUMENTS[:5]), DOCUMENTS[1]]
    plain = load(encoder, **options).rank(QUERY, long)
    beside = load(encoder, cache="1MB", **options).rank(QUERY, long)
    assert [(d.index, d.pruned, d.passage) for d in beside] == [(d.index, d.pruned, d.passage) for d in plain]
    assert [d.raw_score for d in beside] == pytest.approx([d.raw_score for d in plain], abs=2e-5)
