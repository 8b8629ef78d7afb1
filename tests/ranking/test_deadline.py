"""Rankings by a deadline, on a machine whose clock goes by what was read and by nothing else."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.engine.machine_profile import MachineProfile
from blockrank_rerank.ranking import deadline, partial_reading
from blockrank_rerank.text.blocks import Blocks
from tests.engine.test_pruning import DOCUMENTS, QUERY, by_index, early_order, load
from tests.pretend_gpu import pretend_gpu
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG

TOKEN_LAYER_S = 1e-6
LAYERS = 3


@pytest.fixture(scope="module", params=["bert", "llama"])
def folder(request, tmp_path_factory):
    config = replace(BERT_CONFIG, abstention=request.param == "bert")
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, config)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("encoder"), "bert", replace(BERT_CONFIG, abstention=True))


class Machine:
    """Takes the same time for every token and layer: as much as its profile says, or some times that."""

    def __init__(self, monkeypatch, layer_s=0.0):
        self.now, self.slowness = 0.0, 1.0
        profile = MachineProfile(layer_s=layer_s, token_layer_s=TOKEN_LAYER_S, character_s=0.0)
        for module in (deadline, partial_reading):
            monkeypatch.setattr(module, "machine_profile", lambda engine: profile)
        monkeypatch.setattr(partial_reading, "RESULT_S", 0.0)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        read = Engine.read

        def timed(engine, batch):
            result = read(engine, batch)
            layers = engine.config.scoring_layer - (batch.hidden.layers if batch.hidden else 0)
            tokens = sum(request.num_tokens for request in batch.requests)
            self.now += profile.read_s(tokens, layers) * self.slowness
            return result

        monkeypatch.setattr(Engine, "read", timed)


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def passages(blocks):
    """Blocks of each document."""
    return [[b for b, of in enumerate(blocks.owners) if of == owner] for owner in sorted({*blocks.owners})]


def ms_for(ranker, share, documents=DOCUMENTS):
    """Milliseconds in which the machine reads a share of the list to the end."""
    return share * ranker.engine.prompt.encode(QUERY, documents).num_tokens * LAYERS * TOKEN_LAYER_S * 1e3


def assert_read_as_ever(ranking, expected):
    """Documents that were read to the end have the scores that they have without a deadline, and come first."""
    whole = [document for document in ranking if document.layers_read is None]
    assert ranking[: len(whole)] == whole
    assert not any(document.pruned for document in whole)
    for document in whole:
        assert document.raw_score == pytest.approx(expected[document.index].raw_score, abs=2e-5)
        assert document.probability == pytest.approx(expected[document.index].probability, abs=1e-5)
    order = [index for index in expected if index in {document.index for document in whole}]
    assert [document.index for document in whole] == order
    if whole:
        assert sum(document.score for document in whole) == pytest.approx(1)
    assert sorted(document.index for document in ranking) == sorted(expected)
    return whole


def test_with_time_enough_a_deadline_changes_nothing(folder, machine):
    ranker = load(folder)
    expected = ranker.rank(QUERY, DOCUMENTS)
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 20))
    assert [document.index for document in ranking] == [document.index for document in expected]
    assert len(assert_read_as_ever(ranking, by_index(expected))) == len(DOCUMENTS)
    for document, other in zip(ranking, expected, strict=True):
        assert document.score == pytest.approx(other.score, abs=1e-5)


def test_early_layers_read_all_and_the_best_of_them_are_read_to_the_end(folder, machine):
    ranker = load(folder)
    order, raw = early_order(folder, 1)
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 0.8))
    whole = assert_read_as_ever(ranking, by_index(load(folder).rank(QUERY, DOCUMENTS)))
    assert 3 < len(whole) < 20
    # Where the next best one was too long for the time left, a shorter one took its place.
    assert {document.index for document in whole} >= set(order[: len(whole) - 2])
    rest = ranking[len(whole) :]
    assert [document.index for document in rest] == [index for index in order if index not in {d.index for d in whole}]
    for document in rest:
        assert (document.layers_read, document.pruned, document.score, document.probability) == (1, True, 0.0, None)
        assert document.raw_score == pytest.approx(raw[document.index], abs=2e-5)


def test_the_best_are_compared_once_more_after_the_middle_layer(tmp_path, machine):
    folder = save_ranker(tmp_path, "llama", replace(BERT_CONFIG, scoring_layer=4, query_documents_from_layer=4))
    ranker = load(folder)
    first, _ = early_order(folder, 1)
    _, raw = early_order(folder, 2)
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 0.7) * 4 / LAYERS)
    whole = assert_read_as_ever(ranking, by_index(load(folder).rank(QUERY, DOCUMENTS)))
    seen_twice = [document for document in ranking if document.layers_read == 2]
    rest = [document.index for document in ranking if document.layers_read == 1]
    assert whole
    assert seen_twice
    assert rest
    assert ranking == [*whole, *seen_twice, *(document for document in ranking if document.layers_read == 1)]
    # Who was too long for the time left lets shorter ones take its place, here too.
    went_on = len(whole) + len(seen_twice)
    assert {document.index for document in [*whole, *seen_twice]} >= set(first[: went_on - 2])
    order = sorted((document.index for document in [*whole, *seen_twice]), key=lambda index: -raw[index])
    assert {document.index for document in whole} >= set(order[: len(whole) - 2])
    assert [document.index for document in seen_twice] == [i for i in order if i not in {d.index for d in whole}]
    for document in seen_twice:
        assert document.raw_score == pytest.approx(raw[document.index], abs=2e-5)


def test_what_nobody_had_time_for_comes_last_in_the_order_of_the_input(folder, machine):
    ranker = load(folder)
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 0.3))
    whole = assert_read_as_ever(ranking, by_index(load(folder).rank(QUERY, DOCUMENTS)))
    unread = [document for document in ranking if document.layers_read == 0]
    assert whole
    assert unread
    assert [document.index for document in unread] == sorted(document.index for document in unread)
    assert ranking[-len(unread) :] == unread
    least = min(document.raw_score for document in ranking if document.layers_read != 0)
    assert {(document.score, document.raw_score, document.pruned) for document in unread} == {(0.0, least, True)}


def test_without_any_time_the_input_comes_back(folder, machine):
    ranking = load(folder).rank(QUERY, DOCUMENTS, deadline_ms=1e-9)
    assert [document.index for document in ranking] == list(range(len(DOCUMENTS)))
    assert {(document.layers_read, document.score, document.raw_score) for document in ranking} == {(0, 0.0, 0.0)}
    assert load(folder).rank(QUERY, DOCUMENTS, deadline_ms=1e-9, top_k=3) == ranking[:3]


@pytest.mark.parametrize("share", [1e-9, 0.3, 0.8, 20])
def test_a_gpu_reads_as_far_as_the_cpu_does(folder, machine, share):
    ranker = load(folder)
    ms = ms_for(ranker, share)
    expected = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms)
    with pretend_gpu() as gpu:
        ranker = BlockRankReranker.from_pretrained(folder, dtype="float32", device=gpu, attention="sdpa")
        assert ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms) == expected


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_model_of_one_layer_reads_to_the_end_or_not_at_all(tmp_path, machine, share):
    config = replace(BERT_CONFIG, scoring_layer=1, query_documents_from_layer=1)
    ranker = load(save_ranker(tmp_path, "bert", config))
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, share) / LAYERS)
    assert assert_read_as_ever(ranking, by_index(ranker.rank(QUERY, DOCUMENTS)))
    assert {document.layers_read for document in ranking} == {None, 0}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("slowness", [0.3, 1.0, 1.5, 2.5])
def test_the_clock_corrects_a_plan_that_is_wrong(encoder, machine, share, slowness):
    ranker = load(encoder)
    machine.slowness = slowness
    ms = ms_for(ranker, share)
    start = machine.now
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms)
    longest = max(map(len, ranker.engine.prompt.encode(QUERY, DOCUMENTS).documents)) * LAYERS * TOKEN_LAYER_S * 1e3
    assert (machine.now - start) * 1e3 <= 1.1 * ms + max(slowness - 1, 0) * longest
    assert len(ranking) == len(DOCUMENTS)
    if share / slowness >= 2:
        assert all(document.layers_read is None for document in ranking)


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8, 0.9])
def test_no_time_is_left_that_is_not_worth_a_pass(encoder, monkeypatch, share):
    layer_s = 20 * TOKEN_LAYER_S
    machine = Machine(monkeypatch, layer_s)
    ranker = load(encoder)
    tokens = ranker.engine.prompt.encode(QUERY, DOCUMENTS).num_tokens
    ms = share * MachineProfile(layer_s, TOKEN_LAYER_S, 0.0).read_s(tokens, LAYERS) * 1e3

    def read_to_the_end():
        start = machine.now
        ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms)
        assert (machine.now - start) * 1e3 <= ms
        return sum(document.layers_read is None for document in ranking)

    found = read_to_the_end()
    monkeypatch.setattr(partial_reading, "WORTH", 0)
    assert read_to_the_end() < found


def test_known_documents_come_first(encoder, machine, tmp_path):
    plain = by_index(load(encoder).rank(QUERY, DOCUMENTS))
    load(encoder).prepare_store(tmp_path / "store", DOCUMENTS[12:])
    stored = load(encoder, store=tmp_path / "store")
    ranking = stored.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(stored, 0.02))
    whole = assert_read_as_ever(ranking, plain)
    assert {document.index for document in whole} == set(range(12, 24))
    assert {document.served_from for document in whole} == {"stored"}
    prepared = load(encoder).prepare(DOCUMENTS)
    ranking = load(encoder).rank(QUERY, prepared, deadline_ms=ms_for(stored, 0.02))
    assert len(assert_read_as_ever(ranking, plain)) == 24
    assert {document.served_from for document in ranking} == {"prepared"}


def test_documents_that_were_prepared_meanwhile_are_known(encoder, machine, tmp_path):
    load(encoder).prepare_store(tmp_path / "store", DOCUMENTS[:1])
    stored = load(encoder, store=tmp_path / "store")
    stored.rank(QUERY, DOCUMENTS[:2], deadline_ms=ms_for(stored, 2))
    load(encoder).prepare_store(tmp_path / "store", DOCUMENTS)
    ranking = stored.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(stored, 0.02))
    assert {document.served_from for document in ranking} == {"stored"}


def test_what_is_read_to_the_end_is_known_the_next_time(encoder, machine):
    ranker = load(encoder, cache="1MB")
    plain = by_index(load(encoder).rank(QUERY, DOCUMENTS))
    before = 0
    for _ in range(12):
        ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 0.4))
        whole = assert_read_as_ever(ranking, plain)
        assert len(whole) >= before
        assert ranker.cache_info.documents == len(whole)
        assert sum(document.served_from == "cached" for document in whole) == before
        before = len(whole)
    assert before == 24


def test_a_long_document_is_read_when_all_of_its_passages_are(encoder, machine):
    options = {"max_document_tokens": 14, "long_documents": "split"}
    long = [" ".join(DOCUMENTS[:6]), *DOCUMENTS[:6], " ".join(DOCUMENTS[6:12]), *DOCUMENTS[6:]]
    plain = by_index(load(encoder, **options).rank(QUERY, long))
    for share in (0.1, 0.3, 0.5, 0.8, 5):
        ranker = load(encoder, **options)
        ranking = ranker.rank(QUERY, long, deadline_ms=ms_for(ranker, share, long))
        for document in assert_read_as_ever(ranking, plain):
            assert document.passage == plain[document.index].passage
    cached = load(encoder, cache="1MB", **options)
    for _ in range(2):
        whole = assert_read_as_ever(cached.rank(QUERY, long, deadline_ms=ms_for(cached, 5, long)), plain)
        assert len(whole) == len(long)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_long_document_has_the_score_of_the_layer_that_all_of_it_was_read_by(encoder, machine, share):
    ranker = load(encoder, max_document_tokens=14, long_documents="split", cache="1MB")
    long = [" ".join(DOCUMENTS[start : start + 3]) for start in range(0, 24, 2)]
    engine = ranker.engine
    blocks, _ = Blocks.of(QUERY, long, long, engine.prompt)
    encoded = engine.prompt.encode(QUERY, blocks.texts)
    early, last = (engine.stage(n).score(Batch([encoded]))[0].documents.mean((0, 1)).tolist() for n in (1, LAYERS))
    known = {max(found, key=lambda block: last[block]) for found in passages(blocks)}
    ranker.rank(QUERY, [blocks.texts[block] for block in known])
    ranking = ranker.rank(QUERY, long, deadline_ms=ms_for(ranker, share, long))
    expected = [max(early[block] for block in found if block not in known) for found in passages(blocks)]
    begun = [document for document in ranking if document.layers_read == 1]
    assert begun
    for document in begun:
        assert document.raw_score == pytest.approx(expected[document.index], abs=2e-5)
    assert begun == sorted(begun, key=lambda document: -expected[document.index])
    least = min(document.raw_score for document in ranking if document.layers_read != 0)
    assert {document.raw_score for document in ranking if document.layers_read == 0} <= {least}
    if share > 0.5:  # early layers have read all, and the best of them went on
        assert expected[ranking[0].index] == max(expected)


def test_hidden_states_take_no_more_memory_than_they_may(encoder, machine):
    ranker = load(encoder, max_memory="20kB")
    ranking = ranker.rank(QUERY, DOCUMENTS, deadline_ms=ms_for(ranker, 0.6))
    assert_read_as_ever(ranking, by_index(load(encoder).rank(QUERY, DOCUMENTS)))
    assert any(document.layers_read == 0 for document in ranking)


def test_an_awaited_ranking_has_a_deadline_too(encoder, machine):
    ranker = load(encoder)
    ranking = asyncio.run(ranker.arank(QUERY, DOCUMENTS, deadline_ms=1e-9))
    assert {document.layers_read for document in ranking} == {0}


@pytest.mark.parametrize("deadline_ms", [0, -80, float("nan"), float("inf"), "80", True])
def test_what_is_no_time_is_refused_before_the_model_is_loaded(deadline_ms, tmp_path):
    ranker = BlockRankReranker.from_pretrained("nobody/nothing", local_files_only=True)
    with pytest.raises(ValueError, match="deadline_ms must be a number of milliseconds above 0, or None"):
        ranker.rank(QUERY, DOCUMENTS, deadline_ms=deadline_ms)
    assert ranker.rank(QUERY, [], deadline_ms=80) == []


def test_models_whose_scores_depend_on_the_rest_of_the_list_are_refused(tmp_path):
    folder = save_ranker(tmp_path, "llama", replace(CONFIG, scoring_layer=3))
    with pytest.raises(ValueError, match="deadline_ms needs a model whose query meets the documents in an appended"):
        load(folder).rank(QUERY, DOCUMENTS, deadline_ms=80)


def test_two_rules_for_what_is_read_are_refused(encoder):
    with pytest.raises(ValueError, match="deadline_ms cannot go together with prune"):
        load(encoder, prune={1: 5}).rank(QUERY, DOCUMENTS, deadline_ms=80)


def test_bad_documents_are_named_by_their_place_in_the_list(encoder, machine):
    ranker = load(encoder, max_document_tokens=14, long_documents="error", cache="1MB")
    ranker.rank(QUERY, DOCUMENTS[:4])
    with pytest.raises(ValueError, match=r"documents\[6\] has"):
        ranker.rank(QUERY, [*DOCUMENTS[:6], " ".join(DOCUMENTS)], deadline_ms=ms_for(ranker, 9))


def test_in_8_bits_documents_are_read_to_the_end_or_not_at_all(own_assets):
    pytest.importorskip("openvino")
    ranker = BlockRankReranker.from_pretrained(quantization="int8", device="cpu")
    expected = ranker.rank(QUERY, DOCUMENTS[:4])
    ranking = ranker.rank(QUERY, DOCUMENTS[:4], deadline_ms=60_000)
    assert [(document.index, document.layers_read) for document in ranking] == [(d.index, None) for d in expected]
    assert [d.raw_score for d in ranking] == pytest.approx([d.raw_score for d in expected], abs=1e-2)
    assert {document.layers_read for document in ranker.rank(QUERY, DOCUMENTS[:4], deadline_ms=1e-9)} == {0}


def test_in_8_bits_what_is_read_is_known_the_next_time(own_assets):
    pytest.importorskip("openvino")
    ranker = BlockRankReranker.from_pretrained(quantization="int8", device="cpu", cache="1MB")
    expected = BlockRankReranker.from_pretrained(quantization="int8", device="cpu").rank(QUERY, DOCUMENTS[:4])
    for source in ("read", "cached"):
        ranking = ranker.rank(QUERY, DOCUMENTS[:4], deadline_ms=60_000)
        assert [(d.index, d.layers_read, d.served_from) for d in ranking] == [(d.index, None, source) for d in expected]
        assert [d.raw_score for d in ranking] == pytest.approx([d.raw_score for d in expected], abs=1e-2)
        assert ranker.cache_info.documents == 4
