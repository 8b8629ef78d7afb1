"""Paths that users give: expanded and made absolute once, where they enter, so that going elsewhere changes nothing."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
pytest.importorskip("rerankers", reason="needs the rerankers extra")

from haystack_integrations.components.rankers.blockrank import BlockRankRanker as HaystackRanker
from langchain_blockrank import BlockRankCrossEncoder as LangChainCrossEncoder
from langchain_blockrank import BlockRankRerank as LangChainRerank
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from rerankers_blockrank import BlockRankRanker as RerankersRanker

from blockrank_rerank import BlockRankConfig, BlockRankCrossEncoder, BlockRankReranker
from tests.tiny_models import CONFIG, save_model

NAME = "a café ü"
FORMS = {
    "home": f"~/{NAME}",
    "relative": f"../home/{NAME}",
    "dot": f"./../home/{NAME}",
    "slash": f"../home/{NAME}/",
    "path": Path(f"../home/{NAME}"),
    "home-path": Path(f"~/{NAME}"),
}


class Given:
    """A path of another type than pathlib's."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path

    def __str__(self):  # names the test, which must be called the same in every process
        return f"path-like {self.path}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("paths")
    save_model(root / "home" / NAME, "llama")
    CONFIG.save(root / "home" / NAME)
    (root / "here").mkdir()
    return root


@pytest.fixture(autouse=True)
def surroundings(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.setenv("USERPROFILE", str(root / "home"))
    monkeypatch.chdir(root / "here")


def spec_model(ranker):
    return ranker._shared.spec.checkpoint.model


RANKERS = {
    "from_pretrained": lambda model: BlockRankReranker.from_pretrained(model),
    "cross-encoder": lambda model: BlockRankCrossEncoder(model).reranker,
    "llama-index": lambda model: LlamaIndexRerank(model=model)._reranker,
    "langchain": lambda model: LangChainRerank(model=model)._reranker,
    "langchain-pairs": lambda model: LangChainCrossEncoder(model=model)._reranker,
    "rerankers": lambda model: RerankersRanker(model)._reranker,
}


@pytest.mark.parametrize("form", [*FORMS.values(), Given(f"../home/{NAME}")], ids=[*FORMS, "path-like"])
@pytest.mark.parametrize("make", RANKERS.values(), ids=RANKERS)
def test_a_model_is_the_same_folder_wherever_the_process_goes(root, monkeypatch, make, form):
    ranker = make(form)
    monkeypatch.chdir("/")
    assert spec_model(ranker) == str(root / "home" / NAME)
    assert ranker.config == CONFIG


def test_a_relative_model_ranks_after_the_process_has_gone_elsewhere(monkeypatch):
    rankers = [BlockRankReranker.from_pretrained(f"../home/{NAME}", dtype="float32")]
    rankers += [pickle.loads(pickle.dumps(rankers[0])), rankers[0].with_config(max_document_tokens=32)]
    haystack = HaystackRanker(model=f"../home/{NAME}")
    monkeypatch.chdir("/")
    assert all(len(ranker.rank("a", ["x", "y"])) == 2 for ranker in rankers)
    haystack.warm_up()


@pytest.mark.parametrize("option", ["~/st ü", "st ü", "./st ü/", Path("st ü"), Given("~/st ü")], ids=str)
def test_a_store_is_the_same_folder_wherever_the_process_goes(root, monkeypatch, option):
    monkeypatch.setenv("HOME", str(root / "here"))
    model = str(root / "home" / NAME)
    writer = BlockRankReranker.from_pretrained(model, dtype="float32", config=CONFIG).query_free()

    def documents():
        os.chdir("/")  # while the store is being written
        yield "a b c"

    writer.prepare_store(option, documents())
    monkeypatch.chdir(root / "here")
    reader = BlockRankReranker.from_pretrained(model, dtype="float32", store=option, config=writer.config)
    adapter = LlamaIndexRerank(model=model, store=option, config=writer.config)
    monkeypatch.chdir("/")
    assert reader.lookup.folder == root / "here" / "st ü"
    assert adapter.store == str(root / "here" / "st ü")
    assert reader.rank("a", ["a b c"])
    assert [path.name for path in (root / "here").iterdir()] == ["st ü"]


def test_a_config_is_read_from_the_home_folder_and_from_any_kind_of_path(root):
    for given in (f"~/{NAME}", Path(f"~/{NAME}/blockrank_config.json"), Given(f"../home/{NAME}")):
        assert BlockRankReranker.from_pretrained(f"~/{NAME}", config=given).config == CONFIG
        assert BlockRankConfig.load(given) == CONFIG


# Hub ids


def test_an_id_of_the_hub_stays_one_unless_a_folder_has_its_name(root, monkeypatch):
    assert spec_model(BlockRankReranker.from_pretrained("org/name")) == "org/name"
    assert LangChainRerank(model="org/name").model == "org/name"
    monkeypatch.chdir(root)
    assert spec_model(BlockRankReranker.from_pretrained(f"home/{NAME}")) == str(root / "home" / NAME)


@pytest.mark.parametrize("model", ["~/org/name", "./name", "../name", "~/name", "org/name/", "name/", Path("~/name")])
def test_what_is_written_as_a_path_is_never_asked_of_the_hub(model):
    for make in RANKERS.values():
        with pytest.raises((FileNotFoundError, ValueError), match="does not exist or is not a folder"):
            make(model)


def test_an_unknown_home_folder_is_named():
    for options in ({"model": "~nobody-here/m"}, {"store": "~nobody-here/s"}):
        with pytest.raises(ValueError, match="names a home folder that is not known, got '~nobody-here/"):
            BlockRankReranker.from_pretrained(**options)
    with pytest.raises(ValueError, match="config names a home folder"):
        BlockRankReranker.from_pretrained(config="~nobody-here/c.json")


# Saved adapters


def test_a_saved_adapter_names_folders_so_that_they_are_found_from_anywhere(root, monkeypatch):
    made = [
        HaystackRanker(model=f"../home/{NAME}"),
        LlamaIndexRerank(model=f"~/{NAME}"),
        LangChainRerank(model=Given(f"../home/{NAME}")),
        LangChainRerank().model_copy(update={"model": f"../home/{NAME}"}),
    ]
    monkeypatch.chdir("/")
    texts = [json.dumps(a.model_dump() if isinstance(a, LangChainRerank) else a.to_dict()) for a in made]
    assert all(json.dumps(str(root / "home" / NAME)) in text for text in texts)
    loaded = [
        HaystackRanker.from_dict(json.loads(texts[0]))._loaded(),
        LlamaIndexRerank.from_dict(json.loads(texts[1]))._reranker,
        *(LangChainRerank(**json.loads(text))._reranker for text in texts[2:]),
    ]
    assert {spec_model(ranker) for ranker in loaded} == {str(root / "home" / NAME)}


def test_a_saved_adapter_of_the_model_in_the_package_or_of_the_hub_names_no_folder():
    for name in ("default", "org/name"):
        assert HaystackRanker(model=name).to_dict()["init_parameters"]["model"] == name
        assert LlamaIndexRerank(model=name).to_dict()["model"] == name
        assert LangChainRerank(model=name).model_dump()["model"] == name
