from __future__ import annotations

import ast
import copy
import inspect
import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")
pytest.importorskip("haystack", reason="needs the haystack extra")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
pytest.importorskip("rerankers", reason="needs the rerankers extra")

from haystack import Pipeline
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.components.rankers.blockrank import BlockRankRanker as HaystackRanker
from langchain_blockrank import BlockRankCrossEncoder as LangChainCrossEncoder
from langchain_blockrank import BlockRankRerank as LangChainRerank
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from pydantic import SecretStr
from rerankers_blockrank import BlockRankRanker as RerankersRanker

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.options import OPTIONS
from tests.tiny_models import CONFIG, save_model

PYDANTIC = [LlamaIndexRerank, LangChainRerank, LangChainCrossEncoder]
READING = {"config": CONFIG, "scoring_layer": 3, "attention": "sdpa", "prune": {1: 2}, "dtype": "float32"}
"""Options that decide what an engine is."""

KEEPING = {"cache": "1MB", "cache_device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def settings_of(adapter):
    spec = adapter._reranker._shared.spec
    return {name: getattr(spec, name) for name in READING}


def saved(adapter):
    return adapter.to_dict() if isinstance(adapter, LlamaIndexRerank) else adapter.model_dump()


# Every option is everywhere


@pytest.mark.parametrize("kind", PYDANTIC)
def test_every_option_is_a_frozen_field_with_its_default_and_its_help(kind):
    for name, declared in OPTIONS.items():
        field = kind.model_fields[name]
        assert field.default == declared.default
        assert field.frozen
        assert field.description == declared.summary.replace("``", "`")


def test_every_option_is_in_haystacks_signature_and_its_dictionary():
    parameters = inspect.signature(HaystackRanker.__init__).parameters
    dictionary = HaystackRanker().to_dict()["init_parameters"]
    for name, declared in OPTIONS.items():
        assert name in dictionary
        assert parameters[name].default == declared.default or name == "token"
        assert parameters[name].kind is not inspect.Parameter.VAR_KEYWORD
    assert set(dictionary) == set(parameters) - {"self"}


@pytest.mark.parametrize(
    ("kind", "its_model"), [(RerankersRanker, "model_name_or_path"), (BlockRankCrossEncoder, "reranker")]
)
def test_every_option_is_in_the_signatures_of_the_others(kind, its_model):
    parameters = inspect.signature(kind.__init__).parameters
    assert its_model in parameters
    assert set(OPTIONS) - {"model"} <= set(parameters)
    assert all(parameters[name].default == OPTIONS[name].default for name in set(OPTIONS) - {"model"})


@pytest.mark.parametrize("kind", [HaystackRanker, RerankersRanker, BlockRankCrossEncoder])
def test_misspelt_options_are_refused_with_the_one_that_was_meant(kind):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'cache_devise'; did you mean 'cache_device'\?"):
        kind(cache_devise="cpu")


def test_adapters_import_nothing_of_the_engine_but_its_door():
    folder = Path(__file__).parents[2] / "integrations"
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            engine = {name for name in names if name.split(".")[0] in ("blockrank_rerank", "blockrank_kernels")}
            assert engine <= {"blockrank_rerank", "blockrank_rerank.adapters"}, path


def test_the_door_opens_without_pydantic(without_frameworks):
    assert without_frameworks["door"] == "opened"
    import blockrank_rerank.adapters as door

    with pytest.raises(AttributeError, match="has no attribute 'ModelOptions'"):
        _ = door.ModelOptions


# And does what it does in the engine


@pytest.mark.parametrize("kind", PYDANTIC)
def test_options_reach_the_engine_and_survive_a_dump_a_copy_and_a_pickle(model, kind):
    adapter = kind(model=model, **READING)
    expected = settings_of(BlockRankRerankerHolder(BlockRankReranker.from_pretrained(model, **READING)))
    assert settings_of(adapter) == expected
    json_text = adapter.model_dump_json()
    for other in (
        kind(**saved(adapter)),
        kind.model_validate_json(json_text),
        copy.deepcopy(adapter),
        adapter.model_copy(update={"revision": "main"}),
        pickle.loads(pickle.dumps(adapter)),
    ):
        assert settings_of(other) == expected
        assert other.config == json.loads(CONFIG.to_json())
    with pytest.raises(ValueError, match="frozen"):
        adapter.prune = {1: 3}


class BlockRankRerankerHolder:
    def __init__(self, reranker):
        self._reranker = reranker


@pytest.mark.parametrize("kind", PYDANTIC)
def test_a_token_reaches_the_checkpoint_and_is_in_no_dump_no_text_and_no_pickle(model, kind):
    for token in ("hf_secret", SecretStr("hf_secret")):
        adapter = kind(model=model, config=CONFIG, token=token)
        assert adapter._reranker._shared.spec.checkpoint.token == "hf_secret"
        assert "token" not in saved(adapter)
        assert "hf_secret" not in repr(adapter) + str(saved(adapter)) + adapter.model_dump_json()
        assert b"hf_secret" not in pickle.dumps(adapter)
        assert pickle.loads(pickle.dumps(adapter)).token is None
        assert copy.deepcopy(adapter)._reranker._shared.spec.checkpoint.token == "hf_secret"


@pytest.mark.parametrize("kind", PYDANTIC)
def test_what_an_option_cannot_be_is_refused(model, kind):
    for options, found in (
        ({"attention": "flash"}, "attention must be one of auto"),
        ({"prune": {0: 5}}, "prune must map layers to numbers of documents"),
        ({"prune": {1: True}}, "prune"),
        ({"prune": {1: 5}, "quantization": "int8"}, "prune cannot go together with quantization int8"),
        ({"config": 3}, "config must be a BlockRankConfig, got int"),
    ):
        with pytest.raises(ValueError, match=found):
            kind(model=model, **options)


def test_haystack_saves_and_loads_every_option(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    file = tmp_path / "config.json"
    file.write_text(CONFIG.to_json(), encoding="utf-8")
    pipeline = Pipeline()
    pipeline.add_component(
        "ranker",
        HaystackRanker(
            model,
            ComponentDevice.from_str("cpu"),
            Secret.from_env_var("MY_TOKEN"),
            **READING | {"config": file},
            revision="main",
            max_memory="1MB",
        ),
    )
    file.unlink()  # what was read is saved
    text = pipeline.dumps()
    assert "hf_secret" not in text
    loaded = Pipeline.loads(text).get_component("ranker")
    assert loaded.to_dict() == pipeline.get_component("ranker").to_dict()
    from_json = HaystackRanker.from_dict(json.loads(json.dumps(loaded.to_dict())))
    for ranker in (loaded, from_json):
        ranker.warm_up()
        spec = ranker._reranker._shared.spec
        assert (spec.config, spec.prune, spec.attention) == (CONFIG, ((1, 2),), "sdpa")
        assert (spec.max_memory, spec.device, spec.checkpoint.token) == (1_000_000, "cpu", "hf_secret")
    assert b"hf_secret" not in pickle.dumps(loaded)


def test_rerankers_and_the_cross_encoder_hand_options_on(model):
    query_free = BlockRankReranker.from_pretrained(model, config=CONFIG).query_free().config
    for reranker in (
        RerankersRanker(model, config=query_free, **KEEPING)._reranker,
        BlockRankCrossEncoder(model, config=query_free, **KEEPING).reranker,
    ):
        assert reranker.config == query_free
        assert reranker.cache_info.max_bytes == 1_000_000
        assert str(reranker.lookup.cache_device) == "cpu"
    ready = BlockRankReranker.from_pretrained()
    with pytest.raises(TypeError, match="this reranker has its own; got dtype"):
        BlockRankCrossEncoder(ready, dtype="float32")
