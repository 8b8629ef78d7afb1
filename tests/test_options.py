from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from blockrank_rerank import DEFAULT_MODEL, BlockRankConfig, BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.adapters import plain_options
from blockrank_rerank.cli.app import app, main
from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.engine.spec import OVERRIDES
from blockrank_rerank.options import OPTIONS, Options
from tests.tiny_models import CONFIG, save_model

GIVEN = {
    "config": CONFIG,
    "scoring_layer": 1,
    "content_free_query": "N/A",
    "max_document_tokens": 30,
    "long_documents": "truncate",
    "long_queries": "truncate",
    "device": "cpu",
    "dtype": "float32",
    "attention": "sdpa",
    "prune": {1: 5},
    "max_memory": "1MB",
    "revision": "main",
    "local_files_only": True,
    "trust_remote_code": True,
    "token": "hf_secret",
}
ALONE = {"quantization": "int8"}
"""What does not go together with pruning."""
DECODING = {"method": "decode"}
"""What does not go together with anything that attention is read for."""
KEPT = {"cache": "1MB", "cache_device": "cpu", "store": "states"}
FILES = {"tuning": {"legal": "legal.safetensors"}, "calibration": "c.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(folder)
    return folder


def test_these_tests_give_every_option():
    assert {"model", *GIVEN, *ALONE, *DECODING, *KEPT, *FILES} == set(OPTIONS)


# Python


def test_the_signature_has_every_option_with_its_default():
    signature = inspect.signature(BlockRankReranker.from_pretrained)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        name: declared.default for name, declared in OPTIONS.items()
    }
    assert [name for name, p in signature.parameters.items() if p.kind is not p.KEYWORD_ONLY] == ["model"]
    assert OPTIONS["model"].default == DEFAULT_MODEL


def test_help_has_every_option_with_its_whole_text():
    text = " ".join(BlockRankReranker.from_pretrained.__doc__.split())
    for name, declared in OPTIONS.items():
        assert f"{name} : {declared.annotation}, default {declared.default!r} {' '.join(declared.help.split())}" in text
    assert "**options" not in text


def test_every_summary_is_one_sentence_or_more_of_its_own():
    for declared in OPTIONS.values():
        assert declared.summary.endswith(".")
        assert len(declared.summary) < 200
        assert ":class:" not in declared.summary
        assert ":meth:" not in declared.summary


@pytest.mark.parametrize(
    "function", [BlockRankReranker.from_pretrained, BlockRankCrossEncoder], ids=["from_pretrained", "cross-encoder"]
)
def test_a_misspelt_option_is_refused_with_the_one_that_was_meant(function):
    with pytest.raises(TypeError, match=r"\(\) got an unexpected keyword argument 'cahce'; did you mean 'cache'\?"):
        function("default", cahce="2GB")
    with pytest.raises(TypeError, match=r"\(\) got an unexpected keyword argument 'zzz'$"):
        function("default", zzz=1)


def test_options_but_for_the_model_have_to_be_named():
    with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments but 3 were given"):
        BlockRankReranker.from_pretrained("default", CONFIG)


def test_importing_the_options_imports_neither_framework_nor_command_line():
    code = (
        "import sys, blockrank_rerank.options\n"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'typer'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


# The engine


def test_the_spec_has_every_option_of_the_engine_and_of_the_checkpoint(folder):
    spec = Options(folder, **GIVEN).engine_spec()
    engine = {name for name, declared in OPTIONS.items() if declared.owner == "engine"}
    assert dict(spec.settings).keys() == engine
    assert (spec.config, spec.prune, spec.max_memory) == (CONFIG, ((1, 5),), 1_000_000)
    assert spec.checkpoint.options == {
        name: GIVEN[name] for name in ("revision", "local_files_only", "trust_remote_code", "token")
    }
    with pytest.raises(AttributeError, match="'EngineSpec' object has no attribute 'cache'"):
        _ = spec.cache


def test_specs_are_equal_by_their_options_but_for_the_token_which_no_pickle_has(folder):
    spec = Options(folder, **GIVEN).engine_spec()
    assert spec == Options(folder, **GIVEN | {"token": None}).engine_spec()
    assert hash(spec) == hash(Options(folder, **GIVEN | {"token": None}).engine_spec())
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert b"hf_secret" not in pickle.dumps(spec)
    others = [
        {key: value for key, value in GIVEN.items() if key != name} for name in GIVEN if name in dict(spec.settings)
    ]
    for given in [*others, others[0] | {"prune": None, "attention": "auto"} | ALONE]:
        assert spec != Options(folder, **given).engine_spec()
    assert Options(folder).engine_spec() != Options(folder, **DECODING).engine_spec()
    assert "hf_secret" not in repr(spec)
    assert "hf_secret" not in repr(Options(folder, **GIVEN))


def test_a_spec_with_another_config_overrides_nothing_of_it(folder):
    spec = Options(folder, **GIVEN).engine_spec().with_config(CONFIG)
    assert [getattr(spec, name) for name in OVERRIDES] == [None] * len(OVERRIDES)
    assert (spec.config, spec.dtype, spec.prune) == (CONFIG, "float32", ((1, 5),))
    assert set(OVERRIDES) <= set(OPTIONS)


# A config in other forms


def test_a_config_may_be_a_mapping_or_a_file(folder, tmp_path):
    other = replace(CONFIG, scoring_layer=1, heads=(0, 2))
    other.save(tmp_path)
    path = tmp_path / "blockrank_config.json"
    values = json.loads(path.read_text())
    for config in (other, values, path, str(path), tmp_path):
        assert BlockRankReranker.from_pretrained(folder, config=config).config == other
        assert plain_options({"config": config})["config"] == values
    few = {"scoring_layer": 2, "query_offset": 128}
    assert BlockRankReranker.from_pretrained(folder, config=few).config == BlockRankConfig(**few)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"scoring_layr": 2}, r"config: unknown settings scoring_layr; did you mean scoring_layer\?"),
        ({"query_offset": 128}, 'config: scoring_layer is missing, which has no default: add "scoring_layer": N'),
        ({"scoring_layer": -1}, "config: scoring_layer must not be negative, got -1"),
        ({"scoring_layer": 1, "version": 2}, "config: version must be 1"),
    ],
)
def test_a_mapping_that_is_no_config_is_refused(folder, config, found):
    with pytest.raises(ValueError, match=found):
        BlockRankReranker.from_pretrained(folder, config=config)


def test_a_config_file_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        BlockRankReranker.from_pretrained(folder, config=tmp_path / "nowhere.json")


# Plain forms


def test_plain_options_are_those_that_json_gives_back(tmp_path):
    given = (
        GIVEN
        | KEPT
        | DECODING
        | {"tuning": FILES["tuning"]}
        | {"model": tmp_path, "device": torch.device("cpu"), "dtype": torch.float32, "store": tmp_path}
    )
    plain = plain_options(given)
    assert plain_options(json.loads(json.dumps(plain))) == plain
    assert (plain["device"], plain["dtype"], plain["store"]) == ("cpu", "float32", str(tmp_path))
    assert plain["prune"] == {1: 5}
    assert plain["tuning"] == {"legal": str(Path("legal.safetensors").absolute())}
    assert plain_options({"calibration": "c.json"})["calibration"] == str(Path("c.json").absolute())
    assert plain.keys() == OPTIONS.keys() - {"token"}


# The command line


def flags(command):
    return {flag for parameter in typer.main.get_command(app).commands[command].params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("rerank", set()),
        ("context", set()),
        ("evaluate", {"calibration"}),
        ("prepare", {"method", "store", "cache", "cache_device", "tuning", "calibration", "prune", "long_queries"}),
        ("search", {"method", "cache", "cache_device", "prune"}),
        (
            "bench",
            {"store", "cache", "cache_device", "tuning", "calibration", "prune", "long_documents", "long_queries"},
        ),
    ],
)
def test_commands_have_every_option_but_for_those_that_mean_nothing_to_them(command, without):
    expected = {declared.flag for name, declared in OPTIONS.items() if name not in without}
    assert expected | {"--query-free"} == flags(command) & (
        {declared.flag for declared in OPTIONS.values()} | {"--query-free"}
    )


def test_the_commands_help_names_other_options_as_they_are_typed_there(capsys):
    assert main(["rerank", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--long-documents. " in shown
    assert "``" not in shown


def test_cache_cache_device_token_and_config_reach_the_ranker(folder, tmp_path):
    path = tmp_path / "other.json"
    other = replace(CONFIG, prompt=CONFIG.prompt.without_query(), scoring_layer=1)
    path.write_text(other.to_json())
    ranker = load_ranker(ModelOptions(model=str(folder), config=path, cache="1MB", cache_device="cpu", token="hf_x"))
    assert ranker.config == other
    assert ranker.cache_info.max_bytes == 1_000_000
    assert ranker.lookup.cache_device == torch.device("cpu")
    assert ranker._shared.spec.checkpoint.token == "hf_x"


def test_a_prompt_without_the_query_goes_together_with_a_cache(folder):
    with pytest.raises(ValueError, match="cache and store need documents that do not depend on the query"):
        load_ranker(ModelOptions(model=str(folder), cache="1MB"))
    ranker = load_ranker(ModelOptions(model=str(folder), cache="1MB", query_free=True, max_document_tokens=9))
    assert ranker.config == replace(CONFIG, prompt=CONFIG.prompt.without_query(), max_document_tokens=9)
    assert ranker.cache_info is not None
