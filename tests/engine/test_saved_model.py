"""A model as it is in use is written as a folder of its own, or onto the Hub, and gives the same scores there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import blockrank_rerank
from blockrank_rerank import BlockRankReranker
from tests.tiny_models import BERT_CONFIG, CONFIG, save_lora, save_model, save_scoring_head

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery is a heart attack", "who"]
DECODERS = [("llama", 2), ("qwen2-window", 1), ("gemma2", 1), ("gemma3_text", 2), ("phi3", 0)]
"""With a scoring layer that sees every document."""


def ranker_of(folder, **options):
    return BlockRankReranker.from_pretrained(folder, **{"device": "cpu", "dtype": "float32", **options})


def decoder(folder, family="llama", **changes):
    CONFIG.save(save_model(folder, family, **changes))
    return folder


def encoder(folder, family="bert"):
    layers = 4 if family == "modernbert" else 3
    save_scoring_head(save_model(folder, family))
    replace(BERT_CONFIG, scoring_layer=layers, query_documents_from_layer=layers, abstention=True).save(folder)
    return folder


def scores(ranker, documents=DOCUMENTS):
    return [(found.index, found.score, found.raw_score, found.probability) for found in ranker.rank(QUERY, documents)]


def assert_same(ranker, folder, **options):
    saved = ranker_of(folder, **options)
    assert scores(saved) == scores(ranker)
    assert saved.config == ranker.config
    assert saved.engine.fingerprint == ranker.engine.fingerprint
    return saved


def dtypes(path):
    with safe_open(path, "pt") as weights:
        return {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_default_model_scores_the_same_from_a_folder_of_its_own(tmp_path, dtype):
    ranker = ranker_of("default", dtype=dtype)
    ranker.save_pretrained(tmp_path / "model")
    assert_same(ranker, tmp_path / "model", dtype=dtype)
    shipped = Path(blockrank_rerank.__file__).parent / "default_model"
    assert (tmp_path / "model/model.safetensors").stat().st_size == (shipped / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("family", "layer"), DECODERS)
def test_a_decoder_is_saved_up_to_its_scoring_layer_and_scores_the_same(tmp_path, family, layer):
    ranker = ranker_of(decoder(tmp_path / "whole", family), scoring_layer=layer)
    ranker.save_pretrained(tmp_path / "saved")
    saved = assert_same(ranker, tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["num_hidden_layers"] == layer + 1
    assert len(config.get("layer_types") or range(layer + 1)) == layer + 1
    names = load_file(tmp_path / "saved/model.safetensors").keys()
    assert names
    assert not [name for name in names if f"layers.{layer + 1}." in name or "lm_head" in name]
    saved.save_pretrained(tmp_path / "again")
    assert_same(ranker, tmp_path / "again")


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_an_encoder_is_saved_with_its_scoring_layer_and_calibration(tmp_path, family):
    ranker = ranker_of(encoder(tmp_path / "whole", family))
    ranker.save_pretrained(tmp_path / "saved")
    assert_same(ranker, tmp_path / "saved")
    assert all(found.probability is not None for found in ranker.rank(QUERY, DOCUMENTS))


def test_what_the_ranker_changed_is_saved(tmp_path):
    given = ranker_of(decoder(tmp_path / "whole"), max_document_tokens=7, long_documents="split", scoring_layer=1)
    ranker = given.with_config(reduction="softmax_of_mean").query_free()
    ranker.save_pretrained(tmp_path / "saved")
    saved = assert_same(ranker, tmp_path / "saved")
    assert (saved.config.max_document_tokens, saved.config.long_documents, saved.config.scoring_layer) == (
        7,
        "split",
        1,
    )
    assert saved.config.prompt.query_free
    assert json.loads((tmp_path / "saved/config.json").read_text())["num_hidden_layers"] == 2


def test_what_is_loaded_in_fewer_bits_is_saved_as_it_lies_in_its_files(tmp_path):
    folder = decoder(tmp_path / "whole")
    ranker = ranker_of(folder, dtype="bfloat16")
    before = scores(ranker)
    ranker.save_pretrained(tmp_path / "saved")
    assert dtypes(tmp_path / "saved/model.safetensors") == {"F32"}
    assert scores(ranker) == before
    assert_same(ranker, tmp_path / "saved", dtype="bfloat16")
    assert_same(ranker_of(folder), tmp_path / "saved")


@pytest.mark.parametrize("named", ["bfloat16", "float16", "float32"])
def test_a_config_that_names_another_dtype_than_the_files_have_costs_no_bit(tmp_path, named):
    folder = decoder(tmp_path / "whole")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": named}))
    ranker_of(folder).save_pretrained(tmp_path / "saved")
    assert_same(ranker_of(folder), tmp_path / "saved")


def test_weights_of_several_dtypes_are_saved_so_that_they_hold_all(tmp_path):
    folder = decoder(tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    mixed = {name: weight.bfloat16() if "norm" not in name else weight for name, weight in weights.items()}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    ranker_of(folder).save_pretrained(tmp_path / "saved")
    assert_same(ranker_of(folder), tmp_path / "saved")
    assert_same(ranker_of(folder, dtype="bfloat16"), tmp_path / "saved", dtype="bfloat16")


def test_weights_in_half_the_bits_take_no_more(tmp_path):
    folder = decoder(tmp_path / "whole")
    weights = {name: weight.half() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float16"}))
    ranker_of(folder).save_pretrained(tmp_path / "saved")
    assert dtypes(tmp_path / "saved/model.safetensors") == {"F16"}
    assert_same(ranker_of(folder), tmp_path / "saved")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_saved_merged(tmp_path, dtype):
    pytest.importorskip("peft", reason="writes the adapter; needs the train extra")
    base = decoder(tmp_path / "base")
    CONFIG.save(save_lora(tmp_path / "adapter", base))
    ranker = ranker_of(tmp_path / "adapter", dtype=dtype)
    ranker.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/adapter_config.json").exists()
    assert_same(ranker, tmp_path / "saved", dtype=dtype)
    assert scores(ranker) != scores(ranker_of(base, dtype=dtype))


def test_documents_prepared_before_serve_the_saved_model(tmp_path):
    ranker = ranker_of(encoder(tmp_path / "whole"))
    prepared = ranker.prepare(DOCUMENTS)
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    ranker.save_pretrained(tmp_path / "saved")
    assert scores(ranker_of(tmp_path / "saved"), prepared) == scores(ranker, prepared)
    assert ranker_of(tmp_path / "saved", store=tmp_path / "store").rank(QUERY, DOCUMENTS)


def test_a_store_of_before_stays_good_where_only_what_other_libraries_read_is_added(tmp_path):
    folder = encoder(tmp_path / "whole")
    before = ranker_of(folder).engine.fingerprint
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sentence_transformers": {"version": "6.2.0"}}))
    assert ranker_of(folder).engine.fingerprint == before


def test_an_empty_folder_is_taken_and_parents_are_made(tmp_path):
    ranker = ranker_of(decoder(tmp_path / "whole"))
    (tmp_path / "empty").mkdir()
    ranker.save_pretrained(str(tmp_path / "empty"))
    ranker.save_pretrained(tmp_path / "one/two/saved")
    assert_same(ranker, tmp_path / "empty")
    assert_same(ranker, tmp_path / "one/two/saved")


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    ranker_of(decoder(tmp_path / "whole")).save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_a_folder_with_something_in_it_is_refused_and_stays(tmp_path):
    folder = decoder(tmp_path / "whole")
    before = sorted(folder.iterdir())
    with pytest.raises(FileExistsError, match="has something in it; name another one, or empty it"):
        ranker_of(folder).save_pretrained(folder)
    assert sorted(folder.iterdir()) == before


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="expected a folder for the model, got the file"):
        ranker_of(decoder(tmp_path / "whole")).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    ranker = ranker_of(decoder(tmp_path / "whole"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(ranker.config), "save", full)
    with pytest.raises(OSError, match="No space left"):
        ranker.save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_weights_that_are_not_finite_are_refused_before_anything_is_written(tmp_path):
    folder = decoder(tmp_path / "whole")
    weights = load_file(folder / "model.safetensors")
    broken = {name: weight * float("nan") if "q_proj" in name else weight for name, weight in weights.items()}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="has non-finite weights in"):
        ranker_of(folder).save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_folder_that_was_written_again_is_not_taken_for_what_is_in_use(tmp_path):
    folder = decoder(tmp_path / "whole")
    ranker = ranker_of(folder)
    ranker.rank(QUERY, DOCUMENTS)
    weights = {name: weight * 1.5 for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="have changed since they were read"):
        ranker.save_pretrained(tmp_path / "saved")
    again = ranker_of(folder)
    again.save_pretrained(tmp_path / "saved")
    assert_same(again, tmp_path / "saved")


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the Hub, by a stub of its client; files as they are when they are uploaded."""
    asked = SimpleNamespace(calls=[], token=None, files={})

    class Stub:
        def __init__(self, token=None):
            asked.token = token

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            asked.calls.append(("create", repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=f"me/{repo_id.split('/')[-1]}")

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            asked.calls.append(("upload", repo_id))
            asked.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Stub)
    return asked


@pytest.mark.parametrize("private", [None, True, False])
def test_a_model_goes_to_the_hub_as_it_is_saved(tmp_path, hub, private):
    ranker = ranker_of(decoder(tmp_path / "whole"), max_document_tokens=9)
    assert ranker.push_to_hub("mine", private=private, token="hf_x") == "https://huggingface.co/me/mine/commit/1"
    assert hub.calls == [("create", "mine", private, True), ("upload", "me/mine")]
    assert hub.token == "hf_x"
    (tmp_path / "fetched").mkdir()
    for name, content in hub.files.items():
        (tmp_path / "fetched" / name).write_bytes(content)
    assert_same(ranker, tmp_path / "fetched")


def test_the_hub_is_asked_for_nothing_where_the_model_cannot_be_saved(tmp_path, hub):
    folder = decoder(tmp_path / "whole")
    ranker = ranker_of(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        ranker.push_to_hub("me/mine")
    assert hub.calls == []


def test_a_token_for_reading_is_not_used_for_writing(tmp_path, hub):
    ranker_of(decoder(tmp_path / "whole"), token="hf_reads").push_to_hub("me/mine")
    assert hub.token is None


def test_saving_leaves_the_loaded_model_alone(tmp_path):
    ranker = ranker_of(encoder(tmp_path / "whole"))
    before, fingerprint = scores(ranker), ranker.engine.fingerprint
    weights = {name: weight.clone() for name, weight in ranker.engine.backbone.state_dict().items()}
    ranker.save_pretrained(tmp_path / "saved")
    assert ranker.engine.fingerprint == fingerprint
    assert scores(ranker) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in ranker.engine.backbone.state_dict().items())
