"""Reading models: what is read, and what is said where that fails."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.config import CONFIG_NAME, RELEASED, RELEASED_MODEL, with_scoring_layer
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME, ScoringHead
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("bert"), "bert")
    ScoringHead(32).save(folder)
    BERT_CONFIG.save(folder)
    return folder


@pytest.fixture
def folder(llama, tmp_path):
    return Path(shutil.copytree(llama, tmp_path / "model"))


@pytest.fixture
def bert_folder(bert, tmp_path):
    return Path(shutil.copytree(bert, tmp_path / "model"))


def rank(model, **arguments):
    return BlockRankReranker.from_pretrained(model, device="cpu", **{"dtype": "float32", **arguments}).rank(
        QUERY, DOCUMENTS
    )


def refusal(model, error=(ValueError, FileNotFoundError), **arguments):
    """The message with which a model is refused: one line that names the model."""
    with pytest.raises(error) as refused:
        rank(model, **arguments)
    message = str(refused.value)
    assert str(model) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_the_parameters_name(folder, value):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    change_weights(folder, spoil)
    assert "non-finite weights in model.layers.1.mlp.up_proj.weight; the checkpoint is damaged" in refusal(folder)


def test_a_scoring_head_that_is_not_finite_is_refused_by_the_parameters_name(bert_folder):
    head = ScoringHead(32)
    with torch.no_grad():
        head.key.weight[0, 0] = float("nan")
    head.save(bert_folder)
    assert "non-finite weights in head.key.weight" in refusal(bert_folder)


def test_weights_that_overflow_the_dtype_asked_for_are_refused(folder):
    change_weights(folder, lambda weights: weights["model.layers.0.mlp.up_proj.weight"].mul_(1e6))
    assert "non-finite weights in model.layers.0.mlp.up_proj.weight" in refusal(folder, dtype="float16")


@pytest.mark.parametrize("size", [0, 4, 1000, -100])
def test_a_weights_file_that_was_cut_short_is_refused(folder, size):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:size])
    assert "cannot read the weights" in refusal(folder)


def test_a_weights_file_of_noise_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x93noise" * 1000)
    assert "cannot read the weights" in refusal(folder)


def test_a_missing_weights_file_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "cannot read the weights" in refusal(folder, FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.layers.1.self_attn.q_proj.bias", True),
        ("model.layers.3.self_attn.q_proj.bias", False),  # is not read at all
        ("model.layers.1.self_attn.rotary_emb.inv_freq", False),  # old files have it
        ("score.weight", False),
    ],
)
def test_a_weight_of_a_layer_that_is_not_read_is_said(folder, name, said):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {name: torch.ones(4)}, folder / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        rank(folder)
    assert [name in str(warning.message) for warning in warned] == [True] * said


@pytest.mark.skipif(not hasattr(Path, "symlink_to"), reason="this system has no links")
def test_a_link_that_leads_nowhere_is_in_nobodys_way(folder):
    (folder / ".#config.json").symlink_to("somebody@host.1234")
    assert rank(folder)


def test_a_missing_weight_is_refused_by_name(folder):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.v_proj.weight"))
    assert "is incomplete: 1 weights are missing, the first is layers.1.self_attn.v_proj.weight" in refusal(folder)


def test_a_weight_of_another_shape_is_refused(folder):
    def narrow(weights):
        weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(7, 32)

    change_weights(folder, narrow)
    refusal(folder)


def test_a_missing_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "cannot read the tokenizer" in refusal(folder)


def test_a_bert_without_its_tokenizer_is_refused_although_transformers_makes_one_up(tmp_path):
    folder = save_model(tmp_path, "bert")
    BERT_CONFIG.save(folder)
    ScoringHead(32).save(folder)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "its tokenizer.json is missing, or another model's" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "", "[]", '{"model": {"type": "Nonsense"}}'], ids=repr)
def test_a_damaged_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_text(content)
    assert "cannot read the tokenizer" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "", "[]", "{}", '{"model_type": "no-such-model"}'], ids=repr)
def test_a_damaged_model_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"version": 9}', "has format version 9"),
        ('{"version": 1, "scoring_layer": 1, "x": 1}', "unknown settings x; known"),
        ('{"version": 1, "scoring_layer": 77}', "scoring_layer must be in 0..3"),
    ],
)
def test_a_damaged_blockrank_config_is_refused(folder, content, message):
    (folder / CONFIG_NAME).write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        rank(folder)
    assert "\n" not in str(refused.value)


def test_an_empty_folder_is_refused(tmp_path):
    refusal(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_read(name):
    with pytest.raises(FileNotFoundError, match=rf"{Path(name).name}' does not exist or is not a folder"):
        BlockRankReranker.from_pretrained(name)


def test_a_file_is_no_model_folder(folder):
    with pytest.raises(FileNotFoundError, match="does not exist or is not a folder"):
        BlockRankReranker.from_pretrained(folder / "config.json")


@pytest.mark.parametrize("model", ["", None, 7], ids=repr)
def test_what_is_neither_folder_nor_hub_id_is_refused(model):
    with pytest.raises(ValueError, match=f"model must be a folder or a Hub id, got {model!r}"):
        BlockRankReranker.from_pretrained(model)


@pytest.mark.parametrize("model", ["some-owner/some-model-that-is-not-cached", RELEASED_MODEL, "bert-not-cached"])
def test_a_hub_model_that_is_not_cached_is_refused_offline(model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal(model, FileNotFoundError, local_files_only=True)
    assert message.endswith(". There is no folder of that name either.")
    assert ".. " not in message


@pytest.mark.parametrize("model", ["no spaces allowed", "a/../b", "ends-with-dash-/x y"])
def test_a_name_that_no_hub_model_can_have_is_refused(model):
    refusal(model, local_files_only=True)


def test_a_scoring_head_that_is_missing_is_refused_by_its_file(bert_folder):
    (bert_folder / SCORING_HEAD_NAME).unlink()
    assert f"has no {SCORING_HEAD_NAME}, which its config needs" in refusal(bert_folder, FileNotFoundError)


@pytest.mark.parametrize("damage", ["width", "noise", "names"])
def test_a_scoring_head_that_does_not_fit_is_refused_by_its_file(bert_folder, damage):
    path = bert_folder / SCORING_HEAD_NAME
    if damage == "width":
        ScoringHead(48).save(bert_folder)
    elif damage == "noise":
        path.write_bytes(b"noise" * 100)
    else:
        save_file({"weight": torch.zeros(3)}, path)
    assert f"{SCORING_HEAD_NAME} is no scoring head for hidden size 32" in refusal(bert_folder)


def test_a_scoring_head_is_saved_and_loaded_as_it_was(tmp_path):
    head = ScoringHead(12, num_heads=3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    head.save(tmp_path)
    loaded = ScoringHead.load(tmp_path / SCORING_HEAD_NAME, 12)
    torch.testing.assert_close(dict(loaded.state_dict()), dict(head.state_dict()))


def test_the_number_of_scoring_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="num_heads must divide hidden_size 32, got 5"):
        ScoringHead(32, num_heads=5)


def test_a_decoder_without_settings_gets_the_released_prompt_at_the_released_depth(folder):
    (folder / CONFIG_NAME).unlink()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"max_position_embeddings": 32768}))
    ranker = BlockRankReranker.from_pretrained(folder)
    with pytest.warns(UserWarning, match=rf"has no {CONFIG_NAME}: using scoring_layer=2 of 4, the relative depth"):
        config = ranker.config
    assert config == replace(RELEASED, scoring_layer=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = BlockRankReranker.from_pretrained(folder, scoring_layer=1)
        assert named.config == replace(RELEASED, scoring_layer=1)
        assert len(named.rank(QUERY, DOCUMENTS)) == 2


def test_a_decoder_that_is_too_short_for_the_released_positions_says_which_setting_to_change(folder):
    (folder / CONFIG_NAME).unlink()
    with pytest.raises(ValueError, match="query_offset must be below the model's limit of 256 positions, got 16384"):
        rank(folder, scoring_layer=1)


def test_an_encoder_without_settings_is_refused(bert_folder):
    (bert_folder / CONFIG_NAME).unlink()
    assert f"is an encoder without {CONFIG_NAME}; pass config=BlockRankConfig" in refusal(bert_folder, ValueError)


def test_a_trained_scoring_head_stays_where_it_was_trained(bert):
    with pytest.raises(ValueError, match=r"scoring_layer must stay 3, where .* was trained, got 2"):
        rank(bert, scoring_layer=2)
    assert rank(bert, scoring_layer=3) == rank(bert)


def test_another_scoring_layer_changes_nothing_else():
    assert with_scoring_layer(RELEASED, None) is RELEASED
    assert with_scoring_layer(RELEASED, 20) is RELEASED
    assert with_scoring_layer(RELEASED, 7) == replace(RELEASED, scoring_layer=7)


def test_a_folder_may_be_a_string_a_path_or_a_relative_name(folder, monkeypatch):
    expected = rank(folder)
    assert rank(str(folder)) == expected
    monkeypatch.chdir(folder.parent)
    assert rank(folder.name) == expected
    assert rank(f"./{folder.name}") == expected


def test_weights_may_come_in_several_files(llama, tmp_path):
    from transformers import AutoModelForCausalLM

    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(llama)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert rank(tmp_path) == rank(llama)


def test_half_precision_weights_are_read_in_the_dtype_asked_for(folder):
    change_weights(folder, lambda weights: weights.update({name: w.half() for name, w in weights.items()}))
    ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
    assert {parameter.dtype for parameter in ranker.engine.backbone.parameters()} == {torch.float32}


def test_loading_says_nothing_and_leaves_the_log_level_alone(folder, capfd):
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    rank(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bar)


def test_a_refused_model_leaves_the_log_level_alone(folder):
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    (folder / "model.safetensors").unlink()
    refusal(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bar)


def test_a_model_folder_is_only_read(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rank(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_options_reach_the_loaders_of_transformers():
    checkpoint = Checkpoint(model="owner/name", revision="v2", local_files_only=True, trust_remote_code=True)
    assert checkpoint.options == {"revision": "v2", "local_files_only": True, "trust_remote_code": True, "token": None}


def test_settings_given_as_config_need_no_file(folder):
    (folder / CONFIG_NAME).unlink()
    assert rank(folder, config=CONFIG) == rank(folder, config=BlockRankConfig(**vars(CONFIG)))
