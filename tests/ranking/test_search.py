"""Searching a store gives what ranking all of its documents gives."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import pytest
import torch
from blockrank_kernels import document_lse

from blockrank_rerank import BlockRankReranker, StoredDocuments
from blockrank_rerank.engine.search_index import search_index
from blockrank_rerank.model.quantized_query import QuantizedQuery
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.ranking import search
from blockrank_rerank.states.document_states import HEAD_KEY, DocumentStates
from blockrank_rerank.states.pack import StatePack
from blockrank_rerank.states.quantized_keys import QuantizedKeys, joined
from blockrank_rerank.states.store import StateStore
from tests.engine.test_tuned import saved, tuning_of
from tests.states.test_prepared import QUERIES, assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS

CONFIG_OF_SEARCH = replace(BERT_CONFIG, abstention=True, long_documents="split", max_document_tokens=30)


def corpus(count=60, seed=0):
    """Documents of one passage and of several, copies among them, without ids too, and what nobody can read."""
    rng = random.Random(seed)
    documents = [{"id": n, "text": " ".join(rng.choices(WORDS, k=rng.randint(0, 50)))} for n in range(count)]
    copies = [{"id": f"copy{n}", "title": "", "text": documents[n]["text"]} for n in range(3)]
    return [
        *documents,
        *copies,
        {"id": "unread", "text": "日本 語"},
        "sugar 日本",
        {"id": "t", "title": "who", "text": "it"},
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("bert"), "bert", CONFIG_OF_SEARCH)


@pytest.fixture(scope="module")
def ranker(model):
    return BlockRankReranker.from_pretrained(model, dtype="float32")


@pytest.fixture(scope="module")
def store(ranker, tmp_path_factory):
    """A store that no test writes to."""
    ranker.prepare_store(folder := tmp_path_factory.mktemp("store"), corpus())
    return folder


pytestmark = pytest.mark.filterwarnings("ignore:more than 25%")


def test_keys_of_what_was_replaced_again_and_again_do_not_pile_up(ranker, tmp_path):
    for seed in range(6):
        ranker.prepare_store(tmp_path / "store", corpus(10, seed)[:10])
        documents = StoredDocuments(tmp_path / "store")
        got = ranker.search(documents, QUERIES[0], None)
        assert_same(
            sorted(got, key=lambda found: found.index),
            sorted(ranker.rank(QUERIES[0], list(documents)), key=lambda found: found.index),
        )
        index = search_index(ranker.engine, documents)
        assert len(index._numbers) == sum(len(part.lengths) for part in index._searched.parts)
        in_use = {block for place in documents.places() for block in place.blocks}
        assert len(index._numbers) <= 3 * len(in_use)


@pytest.fixture
def own_store(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    return tmp_path / "store"


def ranked_whole(ranker, folder, query, top_k=None, **options):
    """What ranking everything gives, by the states of the store."""
    stored = BlockRankReranker.from_pretrained(ranker.model, dtype="float32", store=folder, **options)
    return stored.rank(query, [*StoredDocuments(folder)], top_k=top_k)


def assert_whole(ranker, folder, query, top_k=10, **options):
    found = ranker.search(folder, query, top_k)
    # The share of what was not chosen is known to 8 bits.
    assert_same(found, ranked_whole(ranker, folder, query, top_k, **options), tolerance=2e-4)
    return found


@pytest.mark.parametrize("query", [*QUERIES, "日本 sugar", "日本"])
@pytest.mark.parametrize("top_k", [1, 10, 1000, None])
def test_the_best_documents_of_a_store_are_those_of_ranking_everything(ranker, store, query, top_k):
    found = assert_whole(ranker, store, query, top_k)
    assert [document.id for document in found] == [[*StoredDocuments(store)][document.index].id for document in found]
    assert {document.served_from for document in found} == {"stored"}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_states_of_any_dtype_are_searched_as_they_are_ranked(ranker, tmp_path, dtype):
    ranker.prepare_store(tmp_path, corpus(), dtype=dtype)
    for query in QUERIES:
        assert_whole(ranker, tmp_path, query)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("reduction", ["softmax_of_mean", "mean_of_softmax"])
def test_weights_of_either_sign_and_both_rules_give_the_whole_ranking(tmp_path, sign, reduction):
    folder = save_ranker(tmp_path / "model", "bert", replace(CONFIG_OF_SEARCH, reduction=reduction))
    head = ScoringHead.load(folder / "scoring_head.safetensors", 32)
    with torch.no_grad():
        head.length_weight.copy_(torch.tensor([0.7, 1.3]) * sign)
    head.save(folder)
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    ranker.prepare_store(tmp_path / "store", corpus())
    for query in QUERIES:
        assert_whole(ranker, tmp_path / "store", query)


def test_copies_tie_in_the_order_in_which_they_came(ranker, tmp_path):
    ranker.prepare_store(tmp_path, [{"id": n, "text": "aspirin"} for n in (3, 1, 2)] + [{"id": 0, "text": "the liver"}])
    found = [document.id for document in ranker.search(tmp_path, "aspirin", 3)]
    assert [name for name in found if name != "0"] == ["3", "1", "2"][: len(found) - ("0" in found)]


def random_states(lengths, heads, dim):
    keys = torch.nn.functional.normalize(torch.randn(sum(lengths), heads, dim), dim=-1)
    return [DocumentStates((7,) * len(part), False, {HEAD_KEY: part}) for part in keys.split(lengths)]


@pytest.mark.parametrize("temperature", [0.05, 0.002])
@pytest.mark.parametrize("heads", [1, 3])
def test_bounds_of_raw_scores_hold_and_are_narrow(temperature, heads):
    torch.manual_seed(0)
    pack = StatePack(random_states([1, 40, 7, 300], heads, 16))
    queries = torch.nn.functional.normalize(torch.randn(5, heads, 16), dim=-1) / temperature
    weights, length_weights = torch.rand(5, heads), torch.randn(heads)
    keys = QuantizedKeys.of(pack, None)
    middle, error = QuantizedQuery.of(queries, weights, length_weights, torch.zeros(5)).raw_scores(keys)
    lse = document_lse(queries.double(), pack.get(HEAD_KEY, queries.double()), pack.offsets, scale=1.0)
    exact = (weights[..., None] * (lse + length_weights[:, None] * keys.lengths.log())).mean((0, 1))
    assert ((exact - middle).abs() <= error).all()
    if temperature == 0.05:  # below, some exponentials vanish beside the largest that could be
        assert (error < 0.02 / temperature).all()


def test_chosen_keys_have_the_bounds_that_they_have_among_all():
    torch.manual_seed(0)
    states = random_states([5, 9, 1, 30], 2, 16)
    states[2] = replace(states[2], ids=(3,))
    keys = joined([QuantizedKeys.of(StatePack(part), 3) for part in (states[:1], states[1:])])
    query = QuantizedQuery.of(torch.randn(4, 2, 16), torch.rand(4, 2), torch.ones(2), torch.tensor([0.0, -9, 0, 0]))
    chosen = torch.tensor([2, 0, 3])
    torch.testing.assert_close(query.raw_scores(keys.select(chosen)), query.raw_scores(keys)[:, chosen])


@pytest.fixture
def scored(monkeypatch):
    """How many documents were scored from their states, of each search."""
    counts, whole = [], search.check_request
    monkeypatch.setattr(search, "check_request", lambda pair: (counts.append(len(pair[1])), whole(pair))[1])
    return counts


def test_documents_that_cannot_win_are_not_scored_from_their_states(ranker, store, scored):
    ranker.search(store, QUERIES[0], 5)
    assert scored[0] < 20


def test_an_approximate_search_looks_closely_at_some_and_scores_these_exactly(ranker, store, scored, monkeypatch):
    exact = {document.index: document for document in ranker.search(store, QUERIES[0], None)}
    monkeypatch.setattr(search, "LEAST_LOOKED_AT", 12)
    found = ranker.search(store, QUERIES[0], 2, approximate=True)
    assert scored[1] <= 12
    assert len({document.index for document in found} & {*[*exact][:4]}) == 2
    for document in found:
        assert document.raw_score == pytest.approx(exact[document.index].raw_score, abs=1e-4)
        assert document.probability == pytest.approx(exact[document.index].probability, abs=1e-4)
        assert document.score >= exact[document.index].score - 1e-4


def test_an_approximate_search_of_a_small_store_is_exact(ranker, store):
    assert_same(ranker.search(store, QUERIES[1], approximate=True), ranker.search(store, QUERIES[1]))


def test_a_store_is_read_once_and_shared_by_rankers_of_one_model(ranker, model, own_store, monkeypatch):
    read, get_block = [], StateStore.get_block
    monkeypatch.setattr(StateStore, "get_block", lambda self, block: (read.append(block), get_block(self, block))[1])
    ranker.search(own_store, QUERIES[0], 1)
    first = len(read)
    BlockRankReranker.from_pretrained(model, dtype="float32").search(StoredDocuments(own_store), QUERIES[0], 1)
    assert first > 60
    assert len(read) - first < 10


def test_a_tuning_searches_the_keys_that_are_there_as_it_ranks_them(ranker, model, store, tmp_path, monkeypatch):
    file = saved(tmp_path / "own.safetensors", tuning_of(ranker, size=2.0))
    tuned = BlockRankReranker.from_pretrained(model, dtype="float32", tuning={"own": file})
    tuned.search(store, QUERIES[0])
    monkeypatch.delattr(QuantizedKeys, "of")  # reads what is not in memory yet
    for query in QUERIES:
        assert_whole(tuned.tuned("own"), store, query, tuning=file)
    orders = [[found.index for found in one.search(store, QUERIES[0])] for one in (tuned, tuned.tuned("own"))]
    assert orders[0] != orders[1]


def test_what_is_added_replaced_and_deleted_is_seen_by_the_next_search(ranker, own_store):
    assert_whole(ranker, own_store, "aspirin")
    ranker.prepare_store(own_store, [{"id": "new", "text": "aspirin aspirin"}, {"id": 0, "text": "aspirin thins"}])
    assert "new" in [document.id for document in assert_whole(ranker, own_store, "aspirin", None)]
    StoredDocuments(own_store).delete(["new"])
    assert "new" not in [document.id for document in assert_whole(ranker, own_store, "aspirin", None)]


def test_another_store_in_the_folder_s_place_is_searched(ranker, own_store):
    ranker.search(own_store, "aspirin")
    shutil.rmtree(own_store)
    ranker.prepare_store(own_store, [{"id": "other", "text": "the liver"}, {"id": "second", "text": "aspirin"}])
    assert {document.id for document in assert_whole(ranker, own_store, "aspirin")} == {"second", "other"}


def test_probabilities_can_be_asked_for(ranker, store):
    everything = ranker.search(store, QUERIES[0], None)
    least = everything[3].probability
    found = ranker.search(store, QUERIES[0], None, min_probability=least)
    assert [document.index for document in found] == [d.index for d in everything if d.probability >= least]


# What cannot be searched


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("llama", CONFIG, "the scoring layer is one of its own"),
        ("bert", replace(CONFIG_OF_SEARCH, query_documents_from_layer=1), "its query sees them from layer 1 of 3 on"),
    ],
)
def test_models_whose_query_sees_documents_earlier_are_refused(tmp_path, store, family, config, reason):
    ranker = BlockRankReranker.from_pretrained(save_ranker(tmp_path / "model", family, config), dtype="float32")
    with pytest.raises(ValueError, match=f"appended scoring layer alone, and of .* {reason}: let a first stage"):
        ranker.search(store, "aspirin")


def test_another_model_s_store_is_refused(tmp_path, store):
    other = save_ranker(tmp_path / "model", "bert", CONFIG_OF_SEARCH, seed=2)
    with pytest.raises(ValueError, match="prepared by another model"):
        BlockRankReranker.from_pretrained(other, dtype="float32").search(store, "aspirin")


def test_a_store_without_documents_is_refused(ranker, tmp_path):
    ranker.prepare_store(tmp_path, [])
    with pytest.raises(ValueError, match="holds no documents to be searched: prepare the corpus"):
        ranker.search(tmp_path, "aspirin")


def test_a_folder_that_is_no_store_is_refused(ranker, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no prepared documents"):
        ranker.search(tmp_path, "aspirin")


def test_lost_states_are_named_and_come_back_with_the_corpus(ranker, own_store):
    (own_store / "group-000000.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has lost states of its documents.*prepare the corpus again"):
        ranker.search(own_store, "aspirin")
    ranker.prepare_store(own_store, corpus())
    assert_whole(ranker, own_store, "aspirin")


@pytest.mark.parametrize(
    ("query", "top_k", "message"),
    [("", 3, "query must not be empty"), ("liver", -1, "top_k must be"), ("liver " * 300, 3, "query")],
)
def test_bad_arguments_are_named(ranker, store, query, top_k, message):
    with pytest.raises(ValueError, match=message):
        ranker.search(store, query, top_k)
