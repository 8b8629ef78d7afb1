"""Scores corrected by a query that asks nothing: what is subtracted, and by which ways it must come out the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.errors import SettingsError
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.layout import build_layout
from tests.model.test_families import global_layers
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, PROMPT, save_model

QUERY = "what treats a heart attack"
OTHER = "the liver"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood and who", "a blocked artery", "", "sugar", "heart"]
QUERY_FREE = replace(PROMPT, instruction="Documents:", query_free_instruction="Documents:")
CLOSE = {"abs": 1e-5}


def config_for(family, **changes):
    layer = global_layers(family)[-1]
    return replace(
        CONFIG, scoring_layer=layer, prompt=QUERY_FREE, signal_tokens=3, reduction="softmax_of_mean", **changes
    )


@pytest.fixture(scope="module", params=["llama", "qwen2-window", "gemma2", "gemma3_text"])
def folder(request, tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, config_for(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("llama"), "llama", config_for("llama"))


def load(folder, **options):
    return BlockRankReranker.from_pretrained(
        folder, device="cpu", dtype="float32", **{"content_free_query": "N/A"} | options
    )


def raw(ranking):
    return {document.text: document.raw_score for document in ranking}


def shares(ranking):
    return {document.text: document.score for document in ranking}


def test_what_the_content_free_query_sees_is_subtracted_from_each_signal_and_head(folder):
    engine = load(folder, content_free_query=None).engine
    query, nothing = (
        engine.score(Batch([engine.prompt.encode(text, DOCUMENTS)]))[0].documents for text in (QUERY, "N/A")
    )
    expected = query - nothing.mean(0)
    corrected = load(folder)
    (lse,) = corrected.engine.score(Batch([corrected.engine.prompt.encode(QUERY, DOCUMENTS)]))
    torch.testing.assert_close(lse.documents, expected, atol=1e-5, rtol=1e-4)
    ranking = {document.index: document for document in corrected.rank(QUERY, DOCUMENTS)}
    for index, share in enumerate(expected.mean((0, 1)).softmax(-1).tolist()):
        assert ranking[index].score == pytest.approx(share, **CLOSE)
        assert ranking[index].raw_score == pytest.approx(float(expected.mean((0, 1))[index]), **CLOSE)


def test_the_content_free_query_itself_sees_no_document_more_than_another(llama):
    ranker = load(llama)
    (lse,) = ranker.engine.score(Batch([ranker.engine.prompt.encode("N/A", DOCUMENTS)]))
    torch.testing.assert_close(lse.documents.mean(0), torch.zeros_like(lse.documents[0]), atol=1e-5, rtol=0)


def test_corrected_scores_are_the_same_by_every_way(folder, tmp_path):
    ranker = load(folder)
    expected = raw(ranker.rank(QUERY, DOCUMENTS))
    assert raw(ranker.rank(QUERY, ranker.prepare(DOCUMENTS))) == pytest.approx(expected, **CLOSE)
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    stored = load(folder, store=tmp_path / "store", cache="1MB")
    for _ in range(2):
        ranking = stored.rank(QUERY, DOCUMENTS)
        assert raw(ranking) == pytest.approx(expected, **CLOSE)
    assert {document.served_from for document in ranking} == {"cached"}
    several = ranker.rank_batch([(OTHER, DOCUMENTS[:3]), (QUERY, DOCUMENTS), (OTHER, DOCUMENTS)])
    assert raw(several[1]) == pytest.approx(expected, **CLOSE)
    assert raw(several[2]) == pytest.approx(raw(ranker.rank(OTHER, DOCUMENTS)), **CLOSE)
    prepared = ranker.prepare(DOCUMENTS)
    several = ranker.rank_batch([(OTHER, prepared), (QUERY, prepared)])
    assert raw(several[1]) == pytest.approx(expected, **CLOSE)


def test_a_list_that_goes_through_in_groups_is_corrected_alike(folder):
    documents = [f"{text} {number}" for number in range(16) for text in DOCUMENTS[:3]]
    grouped = load(folder, max_memory="1KB")
    assert load(folder).engine.prompt.encode(QUERY, documents).num_tokens > grouped.engine.budget.tokens
    expected = raw(load(folder).rank(QUERY, documents))
    assert raw(grouped.rank(QUERY, documents)) == pytest.approx(expected, **CLOSE)
    assert raw(grouped.rank(QUERY, grouped.prepare(documents))) == pytest.approx(expected, **CLOSE)


def test_survivors_of_pruning_are_corrected_as_a_list_of_their_own(llama):
    ranking = load(llama, prune={1: 3}).rank(QUERY, DOCUMENTS)
    survivors = [document for document in ranking if not document.pruned]
    assert len(survivors) == 3
    early = raw(load(llama, config=replace(config_for("llama"), scoring_layer=1)).rank(QUERY, DOCUMENTS))
    assert {d.text for d in survivors} == set(sorted(early, key=early.get)[-3:])
    texts = [text for text in DOCUMENTS if text in {document.text for document in survivors}]
    assert raw(survivors) == pytest.approx(raw(load(llama).rank(QUERY, texts)), **CLOSE)


@pytest.mark.parametrize("content_free", [None, "N/A"])
def test_the_order_of_the_documents_changes_no_score(folder, content_free):
    ranker = load(folder, content_free_query=content_free)
    straight, turned = ranker.rank(QUERY, DOCUMENTS), ranker.rank(QUERY, DOCUMENTS[::-1])
    assert raw(turned) == pytest.approx(raw(straight), **CLOSE)
    assert shares(turned) == pytest.approx(shares(straight), **CLOSE)


def test_the_correction_costs_its_own_block_and_nothing_else(llama):
    plain, corrected = (load(llama, content_free_query=query).engine for query in (None, "N/A"))
    block = plain.prompt.encode("N/A", []).query
    requests = [engine.prompt.encode(QUERY, DOCUMENTS) for engine in (plain, corrected)]
    assert requests[1].num_tokens == requests[0].num_tokens + len(block)
    layout = build_layout([requests[1]], corrected.config.query_offset)
    assert layout.positions[slice(*layout.requests[0].content_free)].tolist() == list(range(128, 128 + len(block)))


def test_states_do_not_depend_on_the_correction(llama):
    plain, corrected = (load(llama, content_free_query=query) for query in (None, "N/A"))
    assert plain.engine.fingerprint == corrected.engine.fingerprint
    assert raw(corrected.rank(QUERY, plain.prepare(DOCUMENTS))) == pytest.approx(
        raw(corrected.rank(QUERY, DOCUMENTS)), **CLOSE
    )


def test_a_model_that_may_abstain_is_corrected_with_its_instruction(llama):
    config = replace(config_for("llama"), abstention=True)
    plain, corrected = (load(llama, config=config, content_free_query=query).engine for query in (None, "N/A"))
    query, nothing = (plain.score(Batch([plain.prompt.encode(text, DOCUMENTS)]))[0].nothing for text in (QUERY, "N/A"))
    (lse,) = corrected.score(Batch([corrected.prompt.encode(QUERY, DOCUMENTS)]))
    torch.testing.assert_close(lse.nothing, query - nothing.mean(0), atol=1e-5, rtol=1e-4)


# Settings


def test_it_takes_the_query_free_prompt_and_says_so(llama):
    released = replace(config_for("llama"), prompt=replace(PROMPT, query_free_instruction="Documents:"))
    released = replace(released, reduction="mean_of_softmax")
    with pytest.warns(UserWarning, match="content_free_query takes the query-free prompt.* softmax_of_mean"):
        config = load(llama, config=released).config
    assert config.reduction == "softmax_of_mean"
    assert config.content_free_query == "N/A"
    assert config.prompt == released.prompt.without_query()


def test_it_is_saved_with_the_model(llama, tmp_path):
    ranker = load(llama)
    ranker.save_pretrained(tmp_path / "saved")
    saved = load(tmp_path / "saved", content_free_query=None)
    assert saved.config.content_free_query == "N/A"
    assert raw(saved.rank(QUERY, DOCUMENTS)) == pytest.approx(raw(ranker.rank(QUERY, DOCUMENTS)), **CLOSE)
    plain = saved.with_config(content_free_query=None)
    assert raw(plain.rank(QUERY, DOCUMENTS)) != pytest.approx(raw(ranker.rank(QUERY, DOCUMENTS)), **CLOSE)


@pytest.mark.parametrize("query", ["", " \n"])
def test_an_empty_content_free_query_is_refused(llama, query):
    for make in (lambda: load(llama, content_free_query=query), lambda: config_for("llama", content_free_query=query)):
        with pytest.raises(ValueError, match=r'content_free_query must have text, such as "N/A", got'):
            make()


def test_a_content_free_query_that_is_no_text_is_refused(llama):
    with pytest.raises(ValueError, match="content_free_query must be a text or None, got int"):
        load(llama, content_free_query=3)


def test_a_content_free_query_that_is_too_long_is_named(llama):
    with pytest.raises(SettingsError, match="content_free_query: query must have at most 128 tokens") as refused:
        _ = load(llama, content_free_query="x" * 200).engine
    assert "long_queries" not in str(refused.value)  # nothing cuts this one


def test_settings_with_a_prompt_that_repeats_the_query_are_refused():
    with pytest.raises(ValueError, match="content_free_query needs a prompt whose instruction does not repeat"):
        replace(CONFIG, content_free_query="N/A", reduction="softmax_of_mean")
    with pytest.raises(ValueError, match="content_free_query needs reduction 'softmax_of_mean', got 'mean_of_softmax'"):
        replace(config_for("llama"), content_free_query="N/A", reduction="mean_of_softmax")


def test_a_trained_scoring_layer_refuses_it(tmp_path):
    with pytest.raises(ValueError, match=r"this model has a trained scoring layer \(scoring_head\)"):
        _ = load(save_ranker(tmp_path, "bert", BERT_CONFIG)).config


def test_a_window_that_hides_documents_from_the_content_free_query_is_refused(tmp_path):
    config = config_for("gemma2", content_free_query="N/A and nothing else at all", query_offset=2)
    folder = save_ranker(tmp_path, "gemma2", replace(config, scoring_layer=0))
    with pytest.raises(ValueError, match="scoring_layer 0 has a sliding window of 12 positions"):
        _ = load(folder, content_free_query=None).engine


def test_training_refuses_it(tmp_path):
    folder = save_model(tmp_path, "llama")
    config = config_for("llama", content_free_query="N/A")
    settings = FinetuneSettings(model=str(folder), output=str(tmp_path / "out"), data="x.jsonl")
    with pytest.raises(ValueError, match="content_free_query is for models that nobody trained to rank"):
        TrainingModel.load(Checkpoint(model=str(folder)), config, settings)


def test_a_config_file_without_the_setting_has_no_correction(llama):
    assert '"content_free_query": null' in (llama / CONFIG_NAME).read_text()
    text = (llama / CONFIG_NAME).read_text().replace('"content_free_query": null,', "")
    (llama.parent / "old.json").write_text(text)
    assert BlockRankConfig.load(llama.parent / "old.json").content_free_query is None
