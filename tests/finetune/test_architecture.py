"""Models of another class than the one that is asked for."""

import json

import pytest

from blockrank_rerank.finetune.architecture import check_embedding_model, check_trained_architecture
from blockrank_rerank.finetune.mining import mine_negatives
from blockrank_rerank.model.model_folder import FOR_SENTENCE_TRANSFORMERS
from tests.finetune.data_files import write_jsonl

OURS = {name.removesuffix(".json"): content for name, content in FOR_SENTENCE_TRANSFORMERS.items()}


def folder_of(tmp_path, architecture, **files):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    for name, record in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return str(tmp_path)


@pytest.mark.parametrize(
    "architecture", ["BertForSequenceClassification", "BertForQuestionAnswering", "LlamaForCausalLM", "GPT2LMHeadModel"]
)
def test_a_model_with_another_head_is_no_embedding_model(tmp_path, architecture):
    with pytest.raises(ValueError, match=rf"expected an embedding model, got .*, which is a {architecture}"):
        check_embedding_model(folder_of(tmp_path, architecture))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"config_sentence_transformers": {"model_type": "CrossEncoder"}, "modules": []}, "a CrossEncoder"),
        ({"config_sentence_transformers": {"model_type": "SparseEncoder"}, "modules": []}, "a SparseEncoder"),
        ({"blockrank_config": {}, "modules": []}, "a BlockRank reranker"),
        ({"blockrank_config": {}, **OURS}, "a BlockRank reranker"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_kinds_of_models_are_named(tmp_path, files, found):
    with pytest.raises(ValueError, match=f"which is {found}"):
        check_embedding_model(folder_of(tmp_path, "BertModel", **files))


def test_embedding_models_pass_whatever_they_were_made_of(tmp_path, recwarn):
    check_embedding_model(folder_of(tmp_path, "Qwen3ForCausalLM", modules=[]))
    assert not recwarn.list


def test_a_model_that_does_not_say_that_it_embeds_is_used_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"\(BertModel\) has no modules\.json of an embedding model"):
        check_embedding_model(folder_of(tmp_path, "BertModel"))


def test_mining_refuses_a_cross_encoder_as_teacher_and_as_model(tmp_path):
    data = write_jsonl(tmp_path / "d.jsonl", [{"query": "q", "pos": ["p"]}, {"query": "r", "pos": ["s"]}])
    model = folder_of(tmp_path, "BertForSequenceClassification")
    for options in ({"teacher": model}, {"method": "embeddings", "model": model}):
        with pytest.raises(ValueError, match="BertForSequenceClassification"):
            mine_negatives(data, **options)


def test_training_says_that_it_leaves_the_head_of_a_classifier_out():
    with pytest.warns(UserWarning, match="is a LlamaForSequenceClassification: its layers are trained"):
        check_trained_architecture("m", ["LlamaForSequenceClassification"], language_model=False)
    with pytest.raises(ValueError, match="needs a causal language model, got a LlamaForSequenceClassification"):
        check_trained_architecture("m", ["LlamaForSequenceClassification"], language_model=True)


def test_training_takes_what_it_is_made_for_without_a_word(recwarn):
    for architectures in (["LlamaForCausalLM"], ["BertModel"], None):
        check_trained_architecture("m", architectures, language_model=architectures != ["BertModel"])
    assert not recwarn.list
