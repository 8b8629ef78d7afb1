from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockrank_rerank import BlockRankConfig, PromptTemplate
from blockrank_rerank.config import CONFIG_NAME, FORMAT_VERSION, PRESETS, RELEASED, RELEASED_MODEL

configs = st.builds(
    BlockRankConfig,
    scoring_layer=st.integers(0, 99),
    scoring_head=st.just(True),
    heads=st.none() | st.lists(st.integers(0, 63), min_size=1, unique=True).map(tuple),
    signal_tokens=st.integers(1, 9) | st.sampled_from(["all"]),
    reduction=st.sampled_from(["mean_of_softmax", "softmax_of_mean"]),
    abstention=st.booleans(),
    query_offset=st.integers(0, 10**6),
    query_documents_from_layer=st.integers(0, 99),
    max_document_tokens=st.none() | st.integers(1, 10**6),
    prompt=st.builds(
        PromptTemplate,
        instruction=st.sampled_from(["Documents:", "{query}", "読む {query} {{}} 🫀"]),
        document=st.sampled_from(["|{text}", "{index}: {text} \n"]),
        query=st.sampled_from(["{query}", "é {query}?"]),
        answer=st.text(st.characters(exclude_categories=["Cs"])),
        chat=st.booleans(),
    ),
)


def saved(folder, **changes):
    values = json.loads(BlockRankConfig(scoring_layer=3).to_json()) | changes
    (folder / CONFIG_NAME).write_text(json.dumps(values), encoding="utf-8")
    return folder


@given(config=configs)
def test_a_saved_config_loads_as_it_was(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    config.save(folder)
    assert BlockRankConfig.load(folder) == config
    assert BlockRankConfig.load(folder / CONFIG_NAME) == config


def test_the_saved_file_is_readable_json_with_every_setting(tmp_path):
    prompt = PromptTemplate(answer="Réponse: ")
    BlockRankConfig(scoring_layer=3, heads=(0, 2), prompt=prompt).save(tmp_path)
    text = (tmp_path / CONFIG_NAME).read_text(encoding="utf-8")
    values = json.loads(text)
    assert values["version"] == FORMAT_VERSION
    assert values["heads"] == [0, 2]
    assert "Réponse" in text
    assert text.endswith("}\n")


def test_settings_that_are_missing_from_a_file_have_their_defaults(tmp_path):
    (tmp_path / CONFIG_NAME).write_text('{"scoring_layer": 3, "version": 1, "prompt": {"chat": false}}')
    assert BlockRankConfig.load(tmp_path) == BlockRankConfig(scoring_layer=3, prompt=PromptTemplate(chat=False))


def test_a_list_of_heads_becomes_a_tuple():
    config = BlockRankConfig(scoring_layer=1, heads=[2, 0])
    assert config.heads == (2, 0)
    assert hash(config) == hash(BlockRankConfig(scoring_layer=1, heads=(2, 0)))


def test_configs_are_frozen_and_take_keywords_only():
    config = BlockRankConfig(scoring_layer=1)
    with pytest.raises(FrozenInstanceError):
        config.scoring_layer = 2
    with pytest.raises(FrozenInstanceError):
        config.prompt.chat = False
    with pytest.raises(TypeError):
        BlockRankConfig(1)
    with pytest.raises(TypeError):
        PromptTemplate("instruction")


def test_the_released_preset_is_what_the_released_checkpoint_was_trained_with():
    assert PRESETS[RELEASED_MODEL] is RELEASED
    assert (RELEASED.scoring_layer, RELEASED.query_offset, RELEASED.signal_tokens) == (20, 16384, 2)
    assert (RELEASED.max_document_tokens, RELEASED.reduction, RELEASED.heads) == (512, "mean_of_softmax", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scoring_layer": -1}, r"^scoring_layer must not be negative, got -1$"),
        ({"scoring_layer": 1.5}, r"^scoring_layer must be int, got 1\.5$"),
        ({"scoring_layer": True}, r"^scoring_layer must be int, got True$"),
        ({"scoring_layer": "20"}, r"^scoring_layer must be int, got '20'$"),
        ({"scoring_head": 1}, r"^scoring_head must be bool, got 1$"),
        ({"heads": ()}, r"^heads must be a list of head numbers, .* got \(\)$"),
        ({"heads": (-1,)}, r"^heads must be a list of head numbers, .* got \(-1,\)$"),
        ({"heads": (True,)}, r"^heads must be a list of head numbers, .* got \(True,\)$"),
        ({"heads": ("1",)}, r"^heads must be a list of head numbers, .* got \('1',\)$"),
        ({"heads": (1, 1)}, r"^heads must not repeat a head, got \(1, 1\)$"),
        ({"heads": 3}, r"^heads must be .*, got 3$"),
        ({"signal_tokens": 0}, r'^signal_tokens must be a positive number or "all", got 0$'),
        ({"signal_tokens": "last"}, r"^signal_tokens must be a positive number or .all., got 'last'$"),
        ({"signal_tokens": None}, r"^signal_tokens must be int \| str, got None$"),
        ({"signal_tokens": True}, r"^signal_tokens must be int \| str, got True$"),
        ({"signal_tokens": "mean"}, r'^signal_tokens must be a positive number or "all", got \'mean\''),
        ({"reduction": "max"}, r"^reduction must be one of .*, got 'max'$"),
        ({"abstention": None}, r"^abstention must be bool, got None$"),
        (
            {"abstention": True, "prompt": {"instruction": "", "chat": False}},
            r"^abstention needs an instruction",
        ),
        ({"query_offset": -1}, r"^query_offset must not be negative, got -1$"),
        ({"query_documents_from_layer": -2}, r"^query_documents_from_layer must not be negative, got -2$"),
        ({"max_document_tokens": 0}, r"^max_document_tokens must be positive, got 0$"),
        ({"max_document_tokens": "512"}, r"^max_document_tokens must be int \| None, got '512'$"),
        ({"prompt": "text"}, r"^prompt must be PromptTemplate, got 'text'$"),
        ({"prompt": {"chat": "yes"}}, r"^prompt: chat must be bool, got 'yes'$"),
        ({"prompt": {"colour": "red"}}, r"^prompt: unknown settings colour; known are instruction, "),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        BlockRankConfig(**{"scoring_layer": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instruction": "{text}"}, r"^prompt\.instruction may hold the placeholders \['query'\] .* got \['text'\]$"),
        ({"document": "no text"}, r"^prompt\.document may hold .* needs \['text'\], got \[\]$"),
        ({"document": "{index}"}, r"^prompt\.document may hold .* needs \['text'\], got \['index'\]$"),
        ({"document": "{text} {query}"}, r"^prompt\.document may hold the placeholders \['index', 'text'\]"),
        ({"document": "{text}"}, r"^prompt\.document needs text beside its placeholders"),
        ({"document": " {text}\n"}, r"^prompt\.document needs text beside its placeholders"),
        ({"query": "no query"}, r"^prompt\.query may hold .* needs \['query'\], got \[\]$"),
        ({"query": "{query} {}"}, r"^prompt\.query may hold .*, got \['', 'query'\]$"),
        ({"query": "{query"}, r"^prompt\.query is not a template: .*; write literal braces twice$"),
        ({"document": "{text} }"}, r"^prompt\.document is not a template: .*; write literal braces twice$"),
        ({"answer": None}, r"^answer must be str, got None$"),
        ({"chat": 1}, r"^chat must be bool, got 1$"),
    ],
    ids=str,
)
def test_a_wrong_template_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(**changes)


def test_a_changed_config_is_checked_again():
    with pytest.raises(ValueError, match="query_offset must not be negative"):
        replace(RELEASED, query_offset=-1)


def test_an_unknown_setting_in_a_file_is_refused_with_the_file_and_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"blockrank_config\.json: unknown settings colour, size; known are"):
        BlockRankConfig.load(saved(tmp_path, size=1, colour="red"))


def test_a_file_without_a_scoring_layer_is_refused_with_what_to_add(tmp_path):
    (tmp_path / CONFIG_NAME).write_text('{"version": 1, "signal_tokens": "all"}')
    with pytest.raises(ValueError, match=r'blockrank_config\.json: scoring_layer is missing.* add "scoring_layer": N'):
        BlockRankConfig.load(tmp_path)


def test_an_unknown_prompt_setting_in_a_file_is_refused_with_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"blockrank_config\.json: prompt: unknown settings tone; "):
        BlockRankConfig.load(saved(tmp_path, prompt={"tone": "kind"}))


def test_a_wrong_value_in_a_file_is_refused_with_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"blockrank_config\.json: query_offset must not be negative, got -5"):
        BlockRankConfig.load(saved(tmp_path, query_offset=-5))


def test_a_file_without_a_scoring_layer_is_refused_by_name(tmp_path):
    (tmp_path / CONFIG_NAME).write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"blockrank_config\.json: .*scoring_layer"):
        BlockRankConfig.load(tmp_path)


@pytest.mark.parametrize("version", [0, 2, "1", None], ids=str)
def test_a_file_of_another_version_is_refused_with_both_versions(tmp_path, version):
    with pytest.raises(ValueError, match=rf"has format version {version!r}, this release .* reads version 1"):
        BlockRankConfig.load(saved(tmp_path, version=version))


def test_a_config_of_another_version_cannot_be_made():
    with pytest.raises(ValueError, match="version"):
        BlockRankConfig(scoring_layer=1, version=2)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"{'scoring_layer': 1}"], ids=str)
def test_a_file_that_is_not_json_is_refused(tmp_path, content):
    (tmp_path / CONFIG_NAME).write_bytes(content)
    with pytest.raises(ValueError, match=r"blockrank_config\.json is not valid JSON"):
        BlockRankConfig.load(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_a_file_that_holds_no_object_is_refused(tmp_path, content):
    (tmp_path / CONFIG_NAME).write_text(content)
    with pytest.raises(ValueError, match="must hold a JSON object"):
        BlockRankConfig.load(tmp_path)


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        BlockRankConfig.load(tmp_path)
