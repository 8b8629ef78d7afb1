"""Model folders of other people: what they are is said, and no number of theirs is believed before it is checked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.config import CONFIG_NAME, BlockRankConfig
from blockrank_rerank.finetune.architecture import check_embedding_model
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.model import foreign_files as foreign
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME, ScoringHead
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 45441024\n"
MANY = foreign.MOST_ADDED_TOKENS + 1


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    CONFIG.save(save_model(folder / "llama", "llama"))
    BERT_CONFIG.save(save_model(folder / "bert", "bert"))
    ScoringHead(32).save(folder / "bert")
    return folder


@pytest.fixture
def llama(models, tmp_path):
    return Path(shutil.copytree(models / "llama", tmp_path / "model"))


@pytest.fixture
def bert(models, tmp_path):
    return Path(shutil.copytree(models / "bert", tmp_path / "model"))


def refusal(folder, error=(ValueError, FileNotFoundError)):
    """The one line with which a folder is refused by whoever ranks with it; it names the model."""
    with pytest.raises(error) as refused:
        BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32").rank("who", ["what", "treats"])
    message = str(refused.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 700
    return message.replace(str(folder), "")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("model", ["llama", "bert"])
def test_a_git_lfs_pointer_is_called_so(request, model, name):
    folder = request.getfixturevalue(model)
    (folder / name).write_text(POINTER)
    assert f"{name} is a git-lfs pointer and not the file itself: run git lfs pull" in refusal(folder)


@pytest.mark.parametrize("name", [CONFIG_NAME, SCORING_HEAD_NAME])
def test_a_pointer_in_place_of_our_own_files_is_called_so(bert, name):
    (bert / name).write_text(POINTER)
    assert f"{name} is a git-lfs pointer" in refusal(bert)


def test_a_pointer_in_place_of_a_shard_is_called_so(llama):
    into_shards(llama)
    (shard := sorted(llama.glob("model-*.safetensors"))[1]).write_text(POINTER)
    assert f"{shard.name} is a git-lfs pointer" in refusal(llama)


def test_a_pointer_that_nobody_reads_does_not_matter(llama):
    (llama / "model.onnx").write_text(POINTER)
    (llama / "pytorch_model.bin").write_text(POINTER)
    assert len(BlockRankReranker.from_pretrained(llama, device="cpu").rank("who", ["what", "treats"])) == 2


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("onnx/model.onnx", "ONNX"),
        ("model.onnx", "ONNX"),
        ("openvino_model.xml", "OpenVINO"),
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("consolidated.00.pth", "Mistral's or Llama's own"),
    ],
)
@pytest.mark.parametrize("bare", [True, False], ids=["alone", "with config and tokenizer"])
def test_weights_of_another_form_are_named(llama, file, kind, bare):
    for path in llama.iterdir():
        if bare or path.name == "model.safetensors":
            path.unlink()
    (llama / file).parent.mkdir(exist_ok=True)
    (llama / file).write_bytes(b"GGUF" + bytes(99))
    said = refusal(llama, FileNotFoundError)
    assert f"the folder holds {kind} weights ({file}), which are not read here; give the folder or Hub id" in said


def test_another_file_is_called_so(llama):
    with pytest.raises(FileNotFoundError, match="is not a folder: it is a file; give the folder that holds it"):
        BlockRankReranker.from_pretrained(llama / "model.safetensors")


def test_an_empty_folder_is_called_so(tmp_path):
    assert "the folder is empty" in refusal(tmp_path, FileNotFoundError)


def test_a_folder_of_something_else_says_what_is_wanted(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    assert "config.json is missing; give the folder or Hub id of the model" in refusal(tmp_path, FileNotFoundError)


def test_a_sentence_transformers_folder_names_the_folder_of_its_model(models, tmp_path):
    shutil.copytree(models / "bert", tmp_path / "0_Transformer")
    (tmp_path / "modules.json").write_text("[]")
    said = refusal(tmp_path, FileNotFoundError)
    assert "the folder of a sentence-transformers model that holds the model in 0_Transformer: give" in said


@pytest.mark.parametrize("inner", ["checkpoint-500", f"snapshots/{'a' * 40}"])
def test_a_folder_around_a_model_names_it(models, tmp_path, inner):
    shutil.copytree(models / "llama", tmp_path / inner)
    assert f"holds the model in {inner}: give" in refusal(tmp_path, FileNotFoundError)


def test_weights_of_another_name_are_named(llama):
    (llama / "model.safetensors").rename(llama / "model.fp16.safetensors")
    assert "weights of other names (model.fp16.safetensors)" in refusal(llama, FileNotFoundError)


def into_shards(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")


def test_missing_shards_are_counted_and_named(llama):
    into_shards(llama)
    shards = sorted(llama.glob("model-*.safetensors"))
    for shard in shards[1:3]:
        shard.unlink()
    assert f"2 of the {len(shards)} files that its index names are missing, the first is {shards[1].name}" in refusal(
        llama, FileNotFoundError
    )


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../b"}}', '{"weight_map": {"a": 1}}'],
)
def test_an_index_that_is_none_is_refused(llama, content):
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(llama)


def test_a_missing_tokenizer_says_what_to_copy(llama):
    for path in llama.glob("tokenizer*"):
        path.unlink()
    assert "its tokenizer.json is missing, or another model's: copy tokenizer.json" in refusal(llama)


def change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", foreign.LARGEST_NUMBERS)
@pytest.mark.parametrize("value", [10**10, 10**400, 0, -1, 1.5, "many", True, [4]], ids=lambda value: str(value)[:9])
def test_a_number_of_the_config_has_limits(llama, name, value):
    change(llama, "config.json", **{name: value})
    assert f"{name} must be a whole number from 1 to" in refusal(llama, ValueError)


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "vocab_size"])
def test_a_config_that_describes_more_than_the_weights_hold_is_refused_unread(llama, name, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    change(llama, "config.json", **{name: 1 << 16})
    if name == "vocab_size":
        monkeypatch.setattr("blockrank_rerank.model.checkpoint.Checkpoint.tokenizer", lambda *_: byte_level())
    said = refusal(llama, ValueError)
    assert re.search(r"config.json describes [\d,]+ weights, and the files have [\d,]+ bytes", said)


def byte_level():
    from tests.tiny_models import byte_level_tokenizer

    return byte_level_tokenizer()


def test_positions_that_are_learnt_are_weights_too(bert):
    change(bert, "config.json", max_position_embeddings=1 << 26)
    assert "config.json describes" in refusal(bert, ValueError)


def test_a_config_of_many_bytes_is_refused(llama):
    change(llama, "config.json", note="x" * foreign.LARGEST_JSON)
    assert "config.json must have at most 8,388,608 bytes" in refusal(llama, ValueError)


@pytest.mark.parametrize("depth", [60, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_a_config_that_is_nested_deeply_is_refused(llama, depth, brackets):
    start, end = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    (llama / "config.json").write_text('{"model_type": "llama", "x": ' + start * depth + "1" + end * depth + "}")
    assert "config.json is nested more than 50 deep" in refusal(llama, ValueError)


def test_a_config_of_another_architecture_is_refused_before_anything_is_made_of_it(llama):
    change(llama, "config.json", model_type="vit", num_labels=10**9)
    assert "architecture 'vit'; supported are" in refusal(llama, ValueError)


def test_a_chat_template_has_a_limit(llama):
    (llama / "chat_template.jinja").write_text("x" * (5 << 20))
    assert "chat_template.jinja must have at most 1,048,576 bytes, got 5,242,880" in refusal(llama, ValueError)


@pytest.mark.parametrize("templates", ["x" * (5 << 20), [{"name": "default", "template": "x" * (5 << 20)}]], ids=type)
def test_a_chat_template_in_the_tokenizers_config_has_a_limit(llama, templates):
    change(llama, "tokenizer_config.json", chat_template=templates)
    assert "chat_template in tokenizer_config.json must have at most 1,048,576 characters" in refusal(llama, ValueError)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_added_tokens_have_a_limit(llama, file):
    if file == "tokenizer.json":
        change(llama, file, added_tokens=[{"id": number, "content": f"<{number}>"} for number in range(MANY)])
    elif file == "tokenizer_config.json":
        change(llama, file, added_tokens_decoder={str(n): {"content": f"<{n}>"} for n in range(MANY)})
    else:
        (llama / file).write_text(json.dumps({f"<{number}>": number for number in range(MANY)}))
    assert f"{file} must have at most 65,536 added tokens, got {MANY:,}" in refusal(llama, ValueError)


@pytest.mark.parametrize("depth", [60, 100_000])
def test_a_tokenizer_that_is_nested_deeply_is_refused(llama, depth):
    (llama / "tokenizer.json").write_text("[" * depth + "]" * depth)
    assert "tokenizer.json is nested" in refusal(llama, ValueError)


@pytest.mark.parametrize("value", [10**10, 10**400], ids=["ten digits", "400 digits"])
@pytest.mark.parametrize(
    "name", ["scoring_layer", "query_offset", "query_documents_from_layer", "max_document_tokens", "signal_tokens"]
)
def test_a_number_of_our_own_config_has_limits(llama, name, value):
    change(llama, CONFIG_NAME, **{name: value})
    assert f"{name} must be at most 2,147,483,647" in refusal(llama, ValueError)


def test_the_heads_of_our_own_config_have_limits():
    with pytest.raises(ValueError, match="heads must be at most 2,147,483,647"):
        BlockRankConfig(scoring_layer=1, heads=(0, 10**10))


def test_our_own_config_of_many_bytes_is_refused(llama):
    (llama / CONFIG_NAME).write_text(" " * (foreign.LARGEST_JSON + 1))
    assert f"{CONFIG_NAME} must have at most 8,388,608 bytes" in refusal(llama, ValueError)


def test_fine_tuning_refuses_what_ranking_refuses(llama, tmp_path):
    pytest.importorskip("accelerate")
    from blockrank_rerank.finetune import finetune

    (tmp_path / "train.jsonl").write_text('{"query": "who", "pos": ["what"], "neg": ["treats"]}\n')
    change(llama, "config.json", hidden_size=10**10)
    settings = FinetuneSettings(
        model=str(llama), data=str(tmp_path / "train.jsonl"), output=str(tmp_path / "out"), device="cpu"
    )
    with pytest.raises(ValueError, match="hidden_size must be a whole number"):
        finetune(settings)


def test_a_count_of_tokens_refuses_what_ranking_refuses(llama):
    (llama / "chat_template.jinja").write_text("x" * (5 << 20))
    with pytest.raises(ValueError, match=r"chat_template\.jinja must have at most"):
        Checkpoint(model=str(llama)).tokenizer(320)


@pytest.fixture
def embedding(models, tmp_path):
    """As old releases of sentence-transformers lay a model out."""
    folder = tmp_path / "embedding"
    shutil.copytree(models / "bert", folder / "0_Transformer")
    modules = [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_teacher_is_checked_in_the_folders_of_its_modules(embedding):
    check_embedding_model(str(embedding))
    change(embedding / "0_Transformer", "config.json", num_hidden_layers=10**10)
    with pytest.raises(ValueError, match=r"cannot read the embeddings .* num_hidden_layers must be a whole number"):
        check_embedding_model(str(embedding))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "modules.json"])
def test_a_teacher_that_is_a_pointer_is_called_so(embedding, name):
    folder = embedding if name == "modules.json" else embedding / "0_Transformer"
    (folder / name).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{name} is a git-lfs pointer"):
        check_embedding_model(str(embedding))


def test_a_teacher_brings_no_code_of_its_own(embedding):
    modules = [{"path": "", "type": "antigravity.Module"}]
    (embedding / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"names code of its own \(antigravity.Module\), which is not run"):
        check_embedding_model(str(embedding))


@pytest.mark.parametrize("modules", ["{}", '[{"path": "../x", "type": "sentence_transformers.A"}]', "[1]", "[[" * 9**6])
def test_a_list_of_modules_that_is_none_is_refused(embedding, modules):
    (embedding / "modules.json").write_text(modules if modules != "{}" else '{"a": 1}')
    with pytest.raises(ValueError, match=r"modules\.json"):
        check_embedding_model(str(embedding))


def test_a_teacher_of_another_form_is_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match=r"the folder holds GGUF weights \(model\.gguf\)"):
        check_embedding_model(str(tmp_path))
