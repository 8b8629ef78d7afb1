"""Programs that take a model's name and give it to sentence-transformers rank with our folders, or say why not."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, from the train extra")

from sentence_transformers import CrossEncoder

import blockrank_rerank
from blockrank_rerank import BlockRankReranker
from tests.integrations.conftest import CUT, QUESTION, TEXTS
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model, save_scoring_head

RELEASE = tuple(map(int, version("sentence-transformers").split(".")[:2]))
SHIPPED = str(Path(blockrank_rerank.__file__).parent / "default_model")
EXTRA_FILES = ("modules.json", "config_sentence_transformers.json")

with_modules = pytest.mark.skipif(RELEASE < (5, 5), reason="earlier releases refuse our folders")


def raw_scores(ranker, texts=TEXTS, query=QUESTION):
    return [found.raw_score for found in sorted(ranker.rank(query, texts), key=lambda found: found.index)]


def ranked(ranker, texts=TEXTS):
    return [found.index for found in ranker.rank(QUESTION, texts)]


def loaded(folder, **options):
    named = {"device": "cpu", "trust_remote_code": True, "model_kwargs": {"dtype": "float32"}, **options}
    return CrossEncoder(str(folder), **named)


def encoder(folder, config=BERT_CONFIG):
    """A tiny model that is saved by its ranker."""
    save_scoring_head(save_model(folder / "given", "bert"))
    config.save(folder / "given")
    BlockRankReranker.from_pretrained(folder / "given").save_pretrained(folder / "saved")
    return folder / "saved"


@pytest.fixture(scope="module")
def ranker():
    return BlockRankReranker.from_pretrained(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def saved(ranker, tmp_path_factory):
    ranker.save_pretrained(folder := tmp_path_factory.mktemp("saved") / "model")
    return folder


@pytest.mark.parametrize("folder", ["shipped", "saved"])
def test_the_files_for_sentence_transformers_lie_in_the_folder(folder, saved):
    folder = Path(SHIPPED) if folder == "shipped" else saved
    assert json.loads((folder / "modules.json").read_text()) == json.loads((saved / "modules.json").read_text())
    for name in EXTRA_FILES:
        assert (folder / name).read_text() == (saved / name).read_text()
    assert (
        "BlockRankCrossEncoder" in json.loads((folder / "config.json").read_text())["sentence_transformers"]["version"]
    )


@with_modules
@pytest.mark.parametrize("folder", ["shipped", "saved"])
def test_a_pair_scores_as_in_the_rankers_list(folder, saved, ranker):
    model = loaded(SHIPPED if folder == "shipped" else saved)
    expected = raw_scores(ranker)
    found = model.predict([(QUESTION, text) for text in TEXTS])
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-4)
    assert [entry["corpus_id"] for entry in model.rank(QUESTION, TEXTS)] == ranked(ranker)
    assert float(model.predict((QUESTION, TEXTS[1]))) == pytest.approx(expected[1], abs=1e-4)


@with_modules
def test_pairs_of_several_queries_in_any_order_and_batch_keep_their_scores(ranker):
    queries = [QUESTION, "how is bread baked"]
    pairs = [[query, text] for text in TEXTS for query in queries]
    by_query = {query: raw_scores(ranker, TEXTS, query) for query in queries}
    expected = [by_query[query][TEXTS.index(text)] for query, text in pairs]
    model = loaded(SHIPPED)
    for size in (1, 3, 32):
        assert model.predict(pairs, batch_size=size) == pytest.approx(expected, abs=1e-4)


@with_modules
def test_an_activation_that_is_asked_for_is_applied_to_raw_scores(ranker):
    pairs = [(QUESTION, text) for text in TEXTS]
    expected = torch.tensor(raw_scores(ranker)).sigmoid().tolist()
    assert loaded(SHIPPED).predict(pairs, activation_fn=torch.nn.Sigmoid()) == pytest.approx(expected, abs=1e-4)
    assert isinstance(loaded(SHIPPED).activation_fn, torch.nn.Identity)


@with_modules
def test_long_documents_are_split_whatever_max_length_says(ranker):
    short = ranker.with_config(max_document_tokens=20)
    texts = [CUT, TEXTS[2]]
    expected = raw_scores(ranker, texts)
    assert loaded(SHIPPED, max_length=16).predict([(QUESTION, text) for text in texts]) == pytest.approx(
        expected, abs=1e-4
    )
    assert raw_scores(short, texts)[0] != pytest.approx(expected[0], abs=1e-4)


@with_modules
def test_the_settings_that_a_ranker_saved_are_in_force(tmp_path, ranker):
    short = ranker.with_config(max_document_tokens=20)
    short.save_pretrained(tmp_path / "short")
    model = loaded(tmp_path / "short")
    assert model.max_seq_length == 20
    assert model.predict([(QUESTION, CUT)]) == pytest.approx(raw_scores(short, [CUT]), abs=1e-4)


@with_modules
def test_a_models_own_dtype_may_be_named(ranker):
    model = loaded(SHIPPED, model_kwargs={"dtype": "bfloat16"})
    expected = raw_scores(BlockRankReranker.from_pretrained(device="cpu", dtype="bfloat16"))
    assert model.predict([(QUESTION, text) for text in TEXTS]) == pytest.approx(expected, abs=1e-2)
    assert model.predict([(QUESTION, TEXTS[1])])[0] != pytest.approx(raw_scores(ranker)[1], abs=1e-6)


@with_modules
def test_a_tiny_encoder_ranks_too(tmp_path):
    folder = encoder(tmp_path)
    texts = ["the liver stores sugar", "aspirin thins blood", "a blocked artery"]
    expected = raw_scores(BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32"), texts)
    assert loaded(folder).predict([(QUESTION, text) for text in texts]) == pytest.approx(expected, abs=1e-4)


@with_modules
@pytest.mark.parametrize("where", ["layer", "prompt"])
def test_models_that_read_a_list_together_are_refused(tmp_path, where):
    if where == "layer":
        CONFIG.save(save_model(tmp_path / "given", "llama"))
        BlockRankReranker.from_pretrained(tmp_path / "given").save_pretrained(tmp_path / "saved")
    else:
        encoder(tmp_path, replace(BERT_CONFIG, prompt=replace(BERT_CONFIG.prompt, document="{index} {text}[SEP]")))
    why = "its query sees them before the scoring layer" if where == "layer" else "its prompt numbers the documents"
    with pytest.raises(ValueError, match=rf"{why}.*rank lists, with BlockRankReranker\.rank"):
        loaded(tmp_path / "saved")


@with_modules
@pytest.mark.parametrize(
    "options",
    [
        {"model_kwargs": {"attn_implementation": "eager"}},
        {"config_kwargs": {"num_labels": 3}},
        {"num_labels": 2},
    ],
)
def test_what_the_model_cannot_do_is_refused_where_it_is_loaded(options):
    with pytest.raises(ValueError, match=r"a BlockRank model takes .*use blockrank_rerank\.BlockRankCrossEncoder"):
        loaded(SHIPPED, **options)


@with_modules
def test_one_label_may_be_named(ranker):
    found = loaded(SHIPPED, num_labels=1).predict([(QUESTION, TEXTS[1])])
    assert found == pytest.approx([raw_scores(ranker)[1]], abs=1e-4)


@with_modules
def test_prompts_training_and_saving_are_refused(tmp_path):
    model = loaded(SHIPPED)
    with pytest.raises(ValueError, match="the model has a prompt of its own"):
        model.predict([(QUESTION, TEXTS[0])], prompt="query: ")
    with pytest.raises(RuntimeError, match="use blockrank-finetune train"):
        model.train()({"pairs": [(QUESTION, TEXTS[0])]})
    with pytest.raises(ValueError, match=r"\.save_pretrained\(FOLDER\)"):
        model.save_pretrained(str(tmp_path / "saved"))


@with_modules
def test_the_model_is_not_read_before_it_is_used_and_goes_where_it_is_sent():
    model = loaded(SHIPPED)
    assert model.device == torch.device("cpu")
    assert model[0]._scorer is None
    model.to("meta")
    assert model.device == torch.device("meta")


@with_modules
def test_a_copy_for_another_process_scores_alike_and_holds_no_token():
    model = loaded(SHIPPED, token="hf_secret")
    expected = model.predict([(QUESTION, text) for text in TEXTS])
    parcel = pickle.dumps(model[0])
    assert b"hf_secret" not in parcel
    copied = pickle.loads(parcel).eval()
    found = copied({"pairs": [(QUESTION, text) for text in TEXTS]})["scores"]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.skipif(RELEASE < (6, 0), reason="earlier releases trust folders")
def test_without_trust_nothing_is_loaded():
    with pytest.raises(ValueError, match=r"(?s)sentence_transformers_blockrank.*trust_remote_code=True"):
        CrossEncoder(SHIPPED, device="cpu")


@with_modules
def test_code_in_the_folder_does_not_run(saved):
    for name in ("sentence_transformers_blockrank.py", "module.py"):
        (saved / name).write_text("raise SystemExit('this must not run')")
    try:
        assert type(loaded(saved)[0]).__module__ == "sentence_transformers_blockrank.module"
    finally:
        for name in ("sentence_transformers_blockrank.py", "module.py"):
            (saved / name).unlink()


@pytest.mark.skipif(RELEASE >= (5, 5), reason="later releases rank with our folders")
@pytest.mark.parametrize("trust", [True, False])
def test_releases_that_cannot_rank_with_our_folders_say_so(trust):
    with pytest.raises((ValueError, ImportError), match=r"5\.5.*blockrank_rerank\.BlockRankCrossEncoder"):
        CrossEncoder(SHIPPED, device="cpu", trust_remote_code=trust)


def test_a_release_that_is_too_old_for_modules_is_told(monkeypatch):
    from sentence_transformers_blockrank import module

    monkeypatch.setattr(module, "version", lambda name: "5.4.1")
    with pytest.raises(ImportError, match=r"needs sentence-transformers 5\.5 or newer, got 5\.4\.1"):
        module.RawScores.load(SHIPPED)


@with_modules
def test_llama_indexs_reranker_takes_the_folder(ranker):
    pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
    from llama_index.core.postprocessor import SentenceTransformerRerank
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    texts = [text for text in TEXTS if text]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    reranker = SentenceTransformerRerank(model=SHIPPED, top_n=3, device="cpu")
    found = reranker.postprocess_nodes(nodes, QueryBundle(QUESTION))
    expected = ranked(ranker, texts)[:3]
    assert [node.text for node in found] == [texts[index] for index in expected]
    scores = [raw_scores(ranker, texts)[index] for index in expected]
    assert [node.score for node in found] == pytest.approx(scores, rel=0.02)  # the dtype is the machine's own


@with_modules
@pytest.mark.parametrize("scaled", [True, False])
def test_haystacks_ranker_takes_the_folder(ranker, scaled):
    """Its package is `sentence-transformers-haystack` since Haystack 3."""
    try:
        from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker
    except ImportError:
        rankers = pytest.importorskip("haystack.components.rankers", reason="needs the haystack extra")
        if not hasattr(rankers, "SentenceTransformersSimilarityRanker"):
            pytest.skip("needs sentence-transformers-haystack")
        SentenceTransformersSimilarityRanker = rankers.SentenceTransformersSimilarityRanker
    from haystack import Document

    texts = [text for text in TEXTS if text]
    component = SentenceTransformersSimilarityRanker(model=SHIPPED, trust_remote_code=True, scale_score=scaled, top_k=3)
    component.warm_up()
    found = component.run(query=QUESTION, documents=[Document(content=text) for text in texts])["documents"]
    assert [document.content for document in found] == [texts[index] for index in ranked(ranker, texts)[:3]]
