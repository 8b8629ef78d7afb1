"""An encoder gets a scoring layer: what is written ranks at once, trains, and nothing else is taken for an encoder."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, BertForSequenceClassification

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune.starting_model import write_starting_model
from tests.finetune.runs import arguments
from tests.tiny_models import save_model

TEXTS = ["heart attack", "the liver stores sugar", "aspirin thins blood", "who treats it", "a blocked artery"]


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert"])
def encoder(request, tmp_path_factory):
    return as_embedding_model(save_model(tmp_path_factory.mktemp(request.param) / "an encoder", request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return as_embedding_model(save_model(tmp_path_factory.mktemp("plain") / "bert", "bert"))


def as_embedding_model(folder):
    (folder / "modules.json").write_text("[]")
    return folder


def init(*words):
    return main(["init", *map(str, words)])


def refused(capsys, code, *words):
    assert init(*words) == code
    return " ".join(capsys.readouterr().err.split())


def test_the_untrained_model_puts_identical_texts_first(encoder, tmp_path):
    write_starting_model(encoder, tmp_path / "start")
    ranker = BlockRankReranker.from_pretrained(tmp_path / "start", dtype="float32", device="cpu")
    for index, text in enumerate(TEXTS):
        assert ranker.rank(text, TEXTS)[0].index == index


@pytest.mark.parametrize("start_token", ["shared", "each"])
def test_its_raw_scores_are_log_sum_exps_of_cosines(bert, tmp_path, start_token):
    write_starting_model(bert, tmp_path / "start", start_token=start_token, temperature=0.1, length_weight=-0.5)
    ranker = BlockRankReranker.from_pretrained(tmp_path / "start", dtype="float32", device="cpu")
    query, (first, second) = TEXTS[0], TEXTS[:2]
    encoded = ranker.engine.prompt.encode(query, [first, second])
    network = ranker.engine.backbone.model
    for document, ranked in zip(
        encoded.documents, sorted(ranker.rank(query, [first, second]), key=lambda r: r.index), strict=True
    ):
        states = [unit_states(bert, encoded.instruction, block) for block in (encoded.query, document)]
        logits = states[0] @ states[1].T / 0.1
        expected = (logits.logsumexp(-1) - 0.5 * torch.tensor(float(len(document))).log()).mean()
        assert ranked.raw_score == pytest.approx(float(expected), abs=1e-3)
    assert network.config.num_hidden_layers == 3


def test_at_a_low_temperature_and_without_a_weight_of_length_it_ranks_by_maxsim_as_the_docs_say(bert, tmp_path):
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^blockrank-finetune (init ENCODER build/maxsim .*)$", page, re.MULTILINE)
    names = {"ENCODER": str(bert), "build/maxsim": str(tmp_path / "maxsim")}
    assert main([names.get(word, word) for word in line.split()]) == 0
    ranker = BlockRankReranker.from_pretrained(tmp_path / "maxsim", dtype="float32", device="cpu")
    query, documents = TEXTS[0], [*TEXTS[1:], f"{TEXTS[1]} {TEXTS[0]}"]
    encoded = ranker.engine.prompt.encode(query, documents)
    asked = unit_states(bert, [], encoded.query)
    maxsim = [float((asked @ unit_states(bert, [], block).T).amax(-1).mean()) for block in encoded.documents]
    ranked = ranker.rank(query, documents)
    assert [document.index for document in ranked] == sorted(range(len(documents)), key=lambda i: -maxsim[i])
    # A sum of n exponentials exceeds the largest by n times at most.
    longest = max(map(len, encoded.documents))
    for document in ranked:
        assert 0 <= 0.005 * document.raw_score - maxsim[document.index] + 1e-4 <= 0.005 * math.log(longest) + 2e-4


def unit_states(folder, instruction, block):
    """States of a block right after the instruction, as the encoder itself computes them without ours."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager").eval()
    ids = torch.tensor([instruction + block])
    # The instruction sees itself alone.
    mask = torch.ones(ids.shape[1], ids.shape[1])
    mask[: len(instruction), len(instruction) :] = 0
    bias = torch.where(mask.bool(), 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=bias).last_hidden_state[0, len(instruction) :]
    return torch.nn.functional.normalize(states, dim=-1)


def test_settings_and_numbers_are_those_that_were_asked_for(bert, tmp_path, capsys):
    prefixes = ["--query-prefix", "query {x}: ", "--document-prefix", "passage: ", "--start-token", "each"]
    numbers = ["--temperature", "0.02", "--length-weight", "0", "--dtype", "float16"]
    assert init(bert, tmp_path / "start", *prefixes, *numbers) == 0
    assert str(tmp_path / "start") in "".join(capsys.readouterr().out.split("\n"))
    config = BlockRankConfig.load(tmp_path / "start")
    assert (config.scoring_layer, config.scoring_head, config.query_offset) == (3, True, 0)
    assert (config.prompt.instruction, config.prompt.document) == ("", "[CLS]passage: {text}[SEP]")
    assert config.prompt.query == "[CLS]query {{x}}: {query}[SEP]"
    head = load_file(tmp_path / "start/scoring_head.safetensors")
    assert float(head["log_temperature"].exp()) == pytest.approx(0.02)
    assert float(head["length_weight"]) == 0
    weights = load_file(tmp_path / "start/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert json.loads((tmp_path / "start/config.json").read_text())["dtype"] == "float16"
    assert not [name for name in weights if "pooler" in name]
    assert len(BlockRankReranker.from_pretrained(tmp_path / "start").rank(TEXTS[0], TEXTS)) == 5


def test_the_defaults_keep_the_encoders_weights_as_they_are(bert, tmp_path):
    config = write_starting_model(bert, tmp_path / "start")
    assert (config.query_offset, config.prompt.instruction, config.prompt.query) == (1, "[CLS]", "{query}[SEP]")
    before, after = load_file(bert / "model.safetensors"), load_file(tmp_path / "start/model.safetensors")
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype for name, tensor in after.items()
    )
    head = load_file(tmp_path / "start/scoring_head.safetensors")
    assert float(head["log_temperature"].exp()) == pytest.approx(0.05)
    assert float(head["length_weight"]) == pytest.approx(-0.3)


def written(prompt):
    return prompt.query, prompt.document


@pytest.mark.parametrize(
    ("prompts", "query", "document"),
    [
        ({"query": "ask {x}: "}, "ask {{x}}: {query}[SEP]", "{text}[SEP]"),
        ({"query": "query: ", "passage": "passage: "}, "query: {query}[SEP]", "passage: {text}[SEP]"),
        ({"passage": "p: ", "document": "d: "}, "{query}[SEP]", "d: {text}[SEP]"),
        ({"query": None, "document": 3}, "{query}[SEP]", "{text}[SEP]"),
        (["query: "], "{query}[SEP]", "{text}[SEP]"),
    ],
)
def test_prefixes_that_come_with_the_encoder_are_taken_unless_others_are_given(
    bert, tmp_path, capsys, prompts, query, document
):
    encoder = shutil.copytree(bert, tmp_path / "encoder")
    (encoder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    assert init(encoder, tmp_path / "own") == 0
    assert written(BlockRankConfig.load(tmp_path / "own").prompt) == (query, document)
    assert f"it reads {query} and {document}" in " ".join(capsys.readouterr().out.split())
    none = write_starting_model(encoder, tmp_path / "none", query_prefix="", document_prefix="")
    assert written(none.prompt) == ("{query}[SEP]", "{text}[SEP]")
    other = write_starting_model(encoder, tmp_path / "other", query_prefix="q: ", document_prefix="t: ")
    assert written(other.prompt) == ("q: {query}[SEP]", "t: {text}[SEP]")


# The advice


def test_the_advice_for_an_encoder_without_settings_works_to_the_letter(
    encoder, training_data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="blockrank-finetune init") as error:
        BlockRankReranker.from_pretrained(encoder).rank("heart", TEXTS)
    assert main(["train", *arguments(encoder, training_data, "trained", steps=2)]) == 2
    assert "blockrank-finetune init" in capsys.readouterr().err
    command = re.search(r"blockrank-finetune (init .*?) \(that folder", str(error.value))[1]
    words = shlex.split(command)
    assert words == ["init", str(encoder), "an encoder-reranker"]
    assert main(words) == 0
    assert BlockRankReranker.from_pretrained("./an encoder-reranker").rank(TEXTS[1], TEXTS)[0].index == 1
    assert main(["train", *arguments("an encoder-reranker", training_data, "trained", steps=2)]) == 0
    ranking = BlockRankReranker.from_pretrained("./trained").rank(TEXTS[1], TEXTS)
    assert sorted(document.index for document in ranking) == [*range(5)]


# What is refused


def test_what_is_written_says_to_sentence_transformers_what_it_is(bert, tmp_path):
    write_starting_model(bert, tmp_path / "model")
    (module,) = json.loads((tmp_path / "model/modules.json").read_text())
    assert module["type"] == "sentence_transformers_blockrank.module.RawScores"
    settings = json.loads((tmp_path / "model/config_sentence_transformers.json").read_text())
    assert (settings["model_type"], settings["activation_fn"]) == ("CrossEncoder", "torch.nn.modules.linear.Identity")
    assert "no classifier" in AutoConfig.from_pretrained(tmp_path / "model").sentence_transformers["version"]


def test_a_folder_with_something_in_it_is_left_as_it_is(bert, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert "has something in it; name another one" in refused(capsys, 6, bert, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "got the file" in refused(capsys, 4, bert, tmp_path / "mine.txt")
    (tmp_path / "empty").mkdir()
    assert init(bert, tmp_path / "empty") == 0


def test_a_decoder_is_told_how_it_is_used(tmp_path, capsys, training_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "llama", "llama")
    message = refused(capsys, 2, tmp_path / "llama", tmp_path / "out")
    assert "a decoder (llama): it needs no scoring layer" in message
    assert f"blockrank rerank QUERY FILE --model {tmp_path / 'llama'}" in message
    assert f"blockrank-finetune train model={tmp_path / 'llama'} data=DATA output=FOLDER" in message
    assert not (tmp_path / "out").exists()


def test_a_cross_encoder_is_refused(bert, tmp_path, capsys):
    cross = shutil.copytree(bert, tmp_path / "cross")
    (cross / "modules.json").unlink()
    BertForSequenceClassification(AutoConfig.from_pretrained(bert, num_labels=1)).save_pretrained(cross)
    message = refused(capsys, 2, cross, tmp_path / "out")
    assert "which is a BertForSequenceClassification (a cross-encoder, most often)" in message
    assert "give an embedding model" in message
    told = shutil.copytree(bert, tmp_path / "told")
    (told / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    assert "which is a CrossEncoder" in refused(capsys, 2, told, tmp_path / "out")


def test_a_reranker_that_has_a_scoring_layer_keeps_it(bert, tmp_path, capsys):
    write_starting_model(bert, tmp_path / "start")
    message = refused(capsys, 2, tmp_path / "start", tmp_path / "out")
    assert "is a BlockRank reranker already: train it as it is (blockrank-finetune train model=" in message


def test_an_encoder_without_a_tokenizer_is_refused(bert, tmp_path, capsys):
    bare = shutil.copytree(bert, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert "tokenizer" in refused(capsys, 2, bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--temperature", "0", "temperature must be above 0, got 0.0"),
        ("--temperature", "nan", "temperature must be above 0, got nan"),
        ("--length-weight", "inf", "length_weight must be a finite number, got inf"),
        ("--start-token", "none", "start_token must be shared or each, got 'none'"),
        ("--dtype", "int8", "dtype must be one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_values_that_cannot_be_used_are_refused(bert, tmp_path, capsys, option, value, found):
    assert found in refused(capsys, 2, bert, tmp_path / "out", option, value)


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    assert "nowhere" in refused(capsys, 4, "./nowhere", tmp_path / "out")


def test_a_plain_language_model_is_taken_with_a_warning(tmp_path):
    save_model(tmp_path / "bert", "bert")
    with pytest.warns(UserWarning, match=r"has no modules\.json of an embedding model"):
        write_starting_model(tmp_path / "bert", tmp_path / "start")
    assert Path(tmp_path / "start/blockrank_config.json").exists()


def test_probabilities_need_the_start_token_that_the_message_names(bert, training_data, tmp_path, capsys):
    trained = {"steps": 1, "abstention_weight": 0.1, "empty_share": 0.1}
    write_starting_model(bert, tmp_path / "each", start_token="each")
    assert main(["train", *arguments(tmp_path / "each", training_data, tmp_path / "out", **trained)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert init(bert, tmp_path / "shared", *re.search(r"blockrank-finetune init (.*)\)", told)[1].split()) == 0
    assert main(["train", *arguments(tmp_path / "shared", training_data, tmp_path / "out", **trained)]) == 0
    assert BlockRankReranker.from_pretrained(tmp_path / "out").rank(TEXTS[0], TEXTS)[0].probability is not None
