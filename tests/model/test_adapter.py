"""LoRA adapters: merged as peft merges them, or refused by what they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.scoring_head import ScoringHead
from tests.tiny_models import BERT_CONFIG, CONFIG, save_lora, save_model

peft = pytest.importorskip("peft")

DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood"]
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "ranks and alphas": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8},
        "alpha_pattern": {"q_proj": 5, "layers.1.mlp.up_proj": 1},
    },
    "embeddings": {"target_modules": ["embed_tokens", "v_proj"]},
    "biases": {"bias": "lora_only", "target_modules": ["q_proj", "k_proj"]},
    "saved whole": {"target_modules": ["o_proj"], "modules_to_save": ["embed_tokens"]},
    "some layers": {"target_modules": ["down_proj"], "layers_to_transform": [0, 3]},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    for name in ("llama", "qwen2", "bert"):
        save_model(folder / name, name)
    CONFIG.save(folder / "llama")
    CONFIG.save(folder / "qwen2")
    BERT_CONFIG.save(folder / "bert")
    ScoringHead(32).save(folder / "bert")
    return folder


def merged(adapter: Path, base: Path, task: str = "CAUSAL_LM"):
    """What peft makes of both."""
    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModel
    return peft.PeftModel.from_pretrained(kind.from_pretrained(base), adapter).merge_and_unload()


def read(adapter: Path, layers: int, **options):
    checkpoint = Checkpoint(model=str(adapter))
    return checkpoint.truncated_model(checkpoint.model_config(), layers, torch.float32, "eager", **options)


def assert_same(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_merged_as_peft_merges_it(bases, tmp_path, kind):
    base = bases / ("qwen2" if kind == "biases" else "llama")
    adapter = save_lora(tmp_path, base, **KINDS[kind])
    theirs = merged(adapter, base)
    assert_same(read(adapter, 4), theirs.model)
    assert_same(read(adapter, 2), theirs.model)


def test_a_language_model_is_merged_with_its_head(bases, tmp_path):
    adapter = save_lora(tmp_path, bases / "llama", target_modules=["lm_head", "q_proj"])
    assert_same(read(adapter, 4, language_model=True), merged(adapter, bases / "llama"))
    read(adapter, 2)  # without its head


@pytest.mark.parametrize("task", ["FEATURE_EXTRACTION", None])
def test_an_encoders_adapter_is_merged_as_peft_merges_it(bases, tmp_path, task):
    adapter = save_lora(tmp_path, bases / "bert", task=task)
    assert_same(read(adapter, 3), merged(adapter, bases / "bert", "FEATURE_EXTRACTION"))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_an_adapter_ranks_as_the_merged_model_does(bases, tmp_path, name):
    task = "CAUSAL_LM" if name == "llama" else "FEATURE_EXTRACTION"
    adapter = save_lora(tmp_path / "adapter", bases / name, task=task)
    whole = Path(shutil.copytree(bases / name, tmp_path / "whole"))
    merged(adapter, bases / name, task).save_pretrained(whole)
    scores = [[d.raw_score for d in rank(model)] for model in (adapter, whole, bases / name)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[0] != pytest.approx(scores[2], abs=1e-2)


def rank(model, **options):
    return BlockRankReranker.from_pretrained(model, device="cpu", dtype="float32", **options).rank("who", DOCUMENTS)


def test_settings_and_tokenizer_of_the_adapter_come_before_those_of_its_base(bases, tmp_path):
    adapter = save_lora(tmp_path, bases / "llama")
    first = BlockRankReranker.from_pretrained(adapter, device="cpu", dtype="float32")
    assert first.config == CONFIG
    CONFIG.__class__(**vars(CONFIG) | {"scoring_layer": 1}).save(adapter)
    assert BlockRankReranker.from_pretrained(adapter, device="cpu").config.scoring_layer == 1
    tokenizer = Checkpoint(model=str(adapter)).tokenizer(AutoConfig.from_pretrained(bases / "llama").vocab_size)
    tokenizer.add_tokens(["<mine>"])
    tokenizer.save_pretrained(adapter)
    assert "<mine>" in Checkpoint(model=str(adapter)).tokenizer(300).get_vocab()


def test_a_base_may_lie_relative_to_the_adapter(bases, tmp_path, monkeypatch):
    shutil.copytree(bases / "llama", tmp_path / "base")
    adapter = save_lora(tmp_path / "adapter", bases / "llama", base="../base")
    assert rank(adapter) == rank(save_lora(tmp_path / "other", bases / "llama"))
    monkeypatch.chdir(tmp_path)
    save_lora(tmp_path / "third", bases / "llama", base="base")
    assert rank(tmp_path / "third") == rank(adapter)


def test_a_base_that_changes_makes_another_model(bases, tmp_path):
    base = Path(shutil.copytree(bases / "llama", tmp_path / "base"))
    checkpoint = Checkpoint(model=str(save_lora(tmp_path / "adapter", base)))
    before = checkpoint.version()
    (base / "model.safetensors").write_bytes(b"another")
    assert checkpoint.version() != before


def refusal(adapter, **options):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        rank(adapter, **options)
    message = str(refused.value)
    assert str(adapter) in message
    assert "adapter" in message.replace(str(adapter), "")
    assert "\n" not in message
    return message


@pytest.fixture
def adapter(bases, tmp_path):
    return save_lora(tmp_path / "lora", bases / "llama")


def change_settings(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": "/no/such/base"}, "the base '/no/such/base' .*does not exist"),
        ({"base_model_name_or_path": "../none"}, r"the base '../none' .*does not exist"),
        ({"base_model_name_or_path": "acme/not-cached"}, "the base 'acme/not-cached' .* not in the local cache"),
        ({"base_model_name_or_path": None}, "must name a model, got None"),
        ({"task_type": "SEQ_CLS"}, "for the task 'SEQ_CLS', whose head is no use"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "for the task 'SEQ_2_SEQ_LM'"),
        ({"peft_type": "PROMPT_TUNING"}, "of type 'PROMPT_TUNING', expected 'LORA': merge it"),
        ({"peft_type": None}, "of type None, expected 'LORA'"),
        ({"fan_in_fan_out": True}, r"not honoured here \(fan_in_fan_out\)"),
        ({"megatron_config": {"a": 1}}, r"not honoured here \(megatron_config\)"),
        ({"from_the_future": 2}, r"not honoured here \(from_the_future\)"),
        ({"init_lora_weights": "pissa"}, r"not honoured here \(init_lora_weights\)"),
        ({"lora_alpha": "many"}, "lora_alpha in adapter_config.json must be .* a number, got 'many'"),
        ({"alpha_pattern": {"^(a+)+$": 2}}, "must be the name of a module"),
    ],
    ids=str,
)
def test_what_is_wrong_with_an_adapter_is_said(adapter, changes, message):
    change_settings(adapter, **changes)
    said = refusal(adapter)
    assert re.search(message, said), said


def test_an_adapter_without_weights_is_refused(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in refusal(adapter)


def test_an_adapter_that_is_a_pointer_is_refused(adapter):
    (adapter / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "adapter_model.safetensors is a git-lfs pointer" in refusal(adapter)


def change_weights(adapter, change):
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights)
    save_file(weights, adapter / "adapter_model.safetensors")


def test_an_adapter_of_another_model_is_refused(bases, tmp_path):
    adapter = save_lora(tmp_path / "lora", bases / "bert", task=None)
    change_settings(adapter, base_model_name_or_path=str(bases / "llama"))
    assert "it was trained on another model" in refusal(adapter)


def test_weights_of_another_width_are_refused(adapter):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    change_weights(adapter, lambda weights: weights.update({name: torch.zeros(48, 4)}))
    refusal(adapter)


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_half_an_adapter_is_refused(adapter, part):
    name = f"base_model.model.model.layers.0.self_attn.q_proj.{part}.weight"
    change_weights(adapter, lambda weights: weights.pop(name))
    assert "the weights for model.layers.0.self_attn.q_proj are incomplete" in refusal(adapter)


def test_weights_of_another_method_are_refused(adapter):
    name = "base_model.model.model.layers.0.self_attn.q_proj.vera_lambda_b"
    change_weights(adapter, lambda weights: weights.update({name: torch.zeros(4)}))
    assert "vera_lambda_b, which is no weight of a LoRA adapter" in refusal(adapter)


def test_an_adapter_over_an_adapter_is_refused(adapter, tmp_path):
    outer = Path(shutil.copytree(adapter, tmp_path / "outer"))
    change_settings(outer, base_model_name_or_path=str(adapter))
    assert "it is an adapter too" in refusal(outer)


def test_a_folder_with_a_model_and_an_adapter_is_refused(adapter, bases):
    shutil.copy(bases / "llama/model.safetensors", adapter)
    assert "the folder holds a model and an adapter" in refusal(adapter)


def test_an_adapter_over_an_unsupported_model_says_which(adapter, tmp_path):
    base = tmp_path / "gpt2"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "gpt2"}')
    change_settings(adapter, base_model_name_or_path=str(base))
    with pytest.raises(ValueError, match=r"gpt2'.* architecture 'gpt2'; supported are"):
        rank(adapter)


def test_an_encoders_adapter_without_settings_is_refused_as_its_base_is(bases, tmp_path):
    base = Path(shutil.copytree(bases / "bert", tmp_path / "base"))
    (base / CONFIG_NAME).unlink()
    adapter = save_lora(tmp_path / "lora", base, task="FEATURE_EXTRACTION")
    with pytest.raises(ValueError, match="is an encoder without"):
        rank(adapter)
