"""Every supported family against plain Transformers, its eager attention and dense masks."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, GPT2Config, GPT2LMHeadModel

from blockrank_rerank import BlockRankReranker, PromptTemplate
from blockrank_rerank.errors import SettingsError
from blockrank_rerank.model import checkpoint
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import truncate, window_of
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.model.scoring_head import ScoringHead
from tests import oracle
from tests.tiny_models import BERT_CONFIG, BERT_PROMPT, CONFIG, FAMILIES, PROMPT, byte_level_tokenizer, save_model

REQUESTS = [
    (
        "what treats a heart attack",
        ["aspirin", "the liver stores sugar and more, " * 3 + "really", "", "aspirin thins the blood; who treats it"],
    ),
    ("liver", ["stores sugar", "a blocked artery is a heart attack is a blocked artery"]),
]
FAR, NEAR = 80, 6
"""Query offsets: beyond every window, and among the positions of the other blocks."""

LOCAL, GLOBAL = "sliding_attention", "full_attention"
DTYPE = torch.float64
ENCODERS = ("bert", "roberta", "xlm-roberta", "modernbert")
BIDIRECTIONAL = (*ENCODERS, "gemma3_text-bidirectional")
# Norms, rotary tables and eager softmax are fp32 inside the models, whatever the dtype of the weights.
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


class Family:
    """A saved random model, and what plain Transformers computes with it."""

    def __init__(self, name, folder):
        self.name, self.folder = name, save_model(folder, name)
        ScoringHead(32).save(folder)
        self.layers = FAMILIES[name][1]["num_hidden_layers"]
        prompt = BERT_PROMPT if name in ENCODERS else CONFIG.prompt
        self.config = replace(CONFIG, query_offset=FAR, prompt=prompt)
        prompt = self.engine(self.layers, scoring_head=True).prompt  # no window hides anything from a head
        self.requests = [prompt.encode(*request) for request in REQUESTS]
        self.oracle = cache(lambda offset: oracle.run(folder, self.requests, offset, DTYPE))

    def ranker(self, layer, **changes):
        config = replace(self.config, scoring_layer=layer, **changes)
        return BlockRankReranker.from_pretrained(self.folder, config=config, dtype=DTYPE, device="cpu")

    def engine(self, layer, **changes):
        return self.ranker(layer, **changes).engine


def global_layers(name):
    settings = FAMILIES[name][1]
    types = settings.get("layer_types")
    if types is None:
        types = [LOCAL if settings.get("sliding_window") else GLOBAL] * settings["num_hidden_layers"]
    return [layer for layer, kind in enumerate(types) if kind == GLOBAL]


@pytest.fixture(scope="module")
def make_family(tmp_path_factory):
    return cache(lambda name: Family(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(params=FAMILIES)
def family(request, make_family):
    return make_family(request.param)


@pytest.fixture(params=[name for name in FAMILIES if global_layers(name)])
def family_with_global_layers(request, make_family):
    return make_family(request.param)


@pytest.fixture(params=[name for name in FAMILIES if name not in BIDIRECTIONAL])
def decoder(request, make_family):
    return make_family(request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


def states_after_every_layer(engine, layout):
    """``[L][T, hidden]``: needs a scoring head, for otherwise the last layer is never finished."""
    states = []
    handles = [
        layer.register_forward_hook(lambda *call: states.append(oracle.tensor(call[2])[0]))
        for layer in oracle.layers_of(engine.backbone.model)
    ]
    with torch.no_grad():
        engine.backbone.document_lse(layout)
    for handle in handles:
        handle.remove()
    return states


def scores(ranking):
    return torch.tensor(
        [document.score for document in sorted(ranking, key=lambda document: document.index)], dtype=DTYPE
    )


def load(folder, **arguments):
    return BlockRankReranker.from_pretrained(folder, **{"config": CONFIG, **arguments}).engine


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("attention", ["sdpa", "reference"])
@pytest.mark.parametrize("offset", [FAR, NEAR], ids=["far", "near"])
def test_the_states_after_every_layer_equal_the_dense_mask_oracle(family, offset, attention):
    engine = family.engine(family.layers, scoring_head=True, query_offset=offset)
    engine.backbone.attention = attention
    states = states_after_every_layer(engine, build_layout(family.requests, offset))
    expected = family.oracle(offset).states
    assert len(states) == len(expected) == family.layers
    for layer, (got, wanted) in enumerate(zip(states, expected, strict=True)):
        torch.testing.assert_close(got, wanted, **CLOSE, msg=lambda text, n=layer: f"layer {n}: {text}")


def test_scores_at_every_global_layer_are_the_attention_weights_of_plain_transformers(family_with_global_layers):
    family = family_with_global_layers
    for layer in global_layers(family.name):
        rankings = family.ranker(layer).rank_batch(REQUESTS)
        for ranking, share in zip(rankings, oracle.shares(family.oracle(FAR), family.requests, layer, 2), strict=True):
            torch.testing.assert_close(scores(ranking), share, **CLOSE, msg=lambda t, n=layer: f"layer {n}: {t}")


def test_probabilities_are_the_odds_of_looking_at_a_document_rather_than_at_the_instruction(family_with_global_layers):
    family = family_with_global_layers
    layer = global_layers(family.name)[-1]
    rankings = family.ranker(layer, abstention=True).rank_batch(REQUESTS)
    for ranking, wanted in zip(
        rankings, oracle.probabilities(family.oracle(FAR), family.requests, layer, 2), strict=True
    ):
        ranking.sort(key=lambda document: document.index)
        got = torch.tensor([document.probability for document in ranking], dtype=DTYPE)
        torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.mark.parametrize(("heads", "signals"), [((3, 0), 2), ((1,), 1), (None, 7), ((2,), "all")], ids=str)
def test_heads_and_signal_tokens_choose_rows_of_the_attention_weights(family_with_global_layers, heads, signals):
    family = family_with_global_layers
    layer = global_layers(family.name)[-1]
    rankings = family.ranker(layer, heads=heads, signal_tokens=signals).rank_batch(REQUESTS)
    number = 10**6 if signals == "all" else signals
    expected = oracle.shares(family.oracle(FAR), family.requests, layer, number, heads)
    for ranking, share in zip(rankings, expected, strict=True):
        torch.testing.assert_close(scores(ranking), share, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_query_that_sees_documents_late_equals_the_oracle_with_two_masks(name, tmp_path):
    family = Family(name, tmp_path)
    engine = family.engine(family.layers, scoring_head=True, query_documents_from_layer=2)
    states = states_after_every_layer(engine, build_layout(family.requests, FAR))
    expected = oracle.run(tmp_path, family.requests, FAR, DTYPE, blind_layers=2).states
    torch.testing.assert_close(states, expected, **CLOSE)
    assert not torch.allclose(expected[-1], family.oracle(FAR).states[-1], atol=1e-2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mistral-window", {"sliding_window": 24}),
        ("phi3-window", {"sliding_window": 24}),
        ("gemma2", {"sliding_window": 24}),
        ("modernbert", {"local_attention": 46}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_local_layer_scores_documents_that_its_window_reaches(name, changes, tmp_path):
    save_model(tmp_path, name, **changes)
    prompt = PromptTemplate(
        instruction="d", document="|{text}", query="{query}", answer="", answer_start="[", chat=False
    )
    layer = 2
    config = replace(CONFIG, scoring_layer=layer, query_offset=4, prompt=prompt)
    request = ("heart", ["liver", "aspirin thins", "sugar is stored"])
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE)
    encoded = [ranker.engine.prompt.encode(*request)]
    share = oracle.shares(oracle.run(tmp_path, encoded, 4, DTYPE), encoded, layer, 2)[0]
    torch.testing.assert_close(scores(ranker.rank(*request)), share, **CLOSE)


def plain_states(family, ids):
    """Every layer's output where Transformers makes the mask and the positions."""
    model = AutoModel.from_pretrained(family.folder, attn_implementation="eager", dtype=DTYPE).eval()
    states = []
    for layer in oracle.layers_of(model):
        layer.register_forward_hook(lambda *call: states.append(oracle.tensor(call[2])[0]))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    return states


def test_documents_have_the_states_of_separate_causal_runs(decoder):
    engine = decoder.engine(decoder.layers, scoring_head=True)
    packed = states_after_every_layer(engine, build_layout(decoder.requests, FAR))
    start = 0
    for request in decoder.requests:
        instruction = len(request.instruction)
        first = start + instruction
        for document in request.documents:
            last = first + len(document)
            alone = plain_states(decoder, request.instruction + document)
            for together, separate in zip(packed, alone, strict=True):
                torch.testing.assert_close(together[first:last], separate[instruction:], **CLOSE)
            first = last
        start += request.num_tokens


def test_the_instruction_has_the_states_of_a_run_of_its_own(family):
    # Longer than every window, so that the window's exact bound is Transformers' own.
    prompt = replace(family.config.prompt, instruction="the liver stores sugar " * 8 + "{query}")
    engine = family.engine(family.layers, scoring_head=True, prompt=prompt)
    request = engine.prompt.encode("what treats it", ["aspirin"])
    packed = states_after_every_layer(engine, build_layout([request], FAR))
    for together, separate in zip(packed, plain_states(family, request.instruction), strict=True):
        torch.testing.assert_close(together[: len(separate)], separate, **CLOSE)


def test_only_the_layers_up_to_the_scoring_layer_are_there(family_with_global_layers):
    family = family_with_global_layers
    layer = next(layer for layer in global_layers(family.name) if layer)
    model = family.engine(layer).backbone.model
    assert len(oracle.layers_of(model)) == layer + 1
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "lm_head" in name or "pooler" in name]
    assert not [name for name in names if f".{layer + 1}." in name]


@pytest.mark.parametrize("damage", ["nan", "removed"])
def test_weights_after_the_scoring_layer_do_not_matter(family_with_global_layers, damage, tmp_path):
    family = family_with_global_layers
    layer = global_layers(family.name)[0]
    shutil.copytree(family.folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    later = [f"{part}.{number}." for part in ("layers", "layer") for number in range(layer + 1, family.layers)]
    doomed = [name for name in weights if "lm_head" in name or any(part in name for part in later)]
    assert len(doomed) > 4
    for name in doomed:
        weights[name] = torch.full_like(weights[name], float("nan"))
    if damage == "removed":
        weights = {name: tensor for name, tensor in weights.items() if name not in doomed}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = replace(family.config, scoring_layer=layer)
    damaged = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE)
    for got, wanted in zip(damaged.rank_batch(REQUESTS), family.ranker(layer).rank_batch(REQUESTS), strict=True):
        assert got == wanted


@pytest.mark.parametrize("family_name", ["gemma3_text", "modernbert", "qwen2-window"])
def test_truncation_leaves_the_full_config_alone_and_cuts_lists_per_layer(family_name, tmp_path):
    save_model(tmp_path, family_name)
    full = AutoConfig.from_pretrained(tmp_path)
    before = copy.deepcopy(full.to_dict())
    short = truncate(full, 2)
    assert short.num_hidden_layers == len(short.layer_types) == 2
    assert full.to_dict() == before


def test_a_packed_bert_may_be_longer_than_its_position_table(tmp_path):
    save_model(tmp_path, "bert", max_position_embeddings=48)
    config = replace(CONFIG, scoring_layer=2, query_offset=1, prompt=BERT_PROMPT)
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE)
    request = ("what treats it", ["aspirin thins the blood"] * 20 + ["the liver"])
    encoded = [ranker.engine.prompt.encode(*request)]
    assert encoded[0].num_tokens > 48
    share = oracle.shares(oracle.run(tmp_path, encoded, 1, DTYPE), encoded, 2, 2)[0]
    torch.testing.assert_close(scores(ranker.rank(*request)), share, **CLOSE)


def test_dynamic_rotary_scaling_is_refused(llama, tmp_path):
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    change_config(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(ValueError, match="rope_type 'dynamic' changes with the longest input"):
        load(tmp_path)


def save_longrope(folder):
    """A model whose rotary factors change behind 64 positions."""
    half = FAMILIES["phi3"][1]["hidden_size"] // 4 // 2
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * half,
        "long_factor": [4.0] * half,
        "original_max_position_embeddings": 64,
    }
    save_model(folder, "phi3", rope_parameters=rope, original_max_position_embeddings=64)


def test_longrope_stays_below_the_switch_of_its_factors(tmp_path):
    save_longrope(tmp_path)
    prompt = replace(CONFIG.prompt, instruction="d", query="{query}")
    config = replace(CONFIG, query_offset=40, prompt=prompt, max_document_tokens=None)
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE)
    request = ("liver", ["stores sugar " * 100 + "x", "aspirin"])
    encoded = ranker.engine.prompt.encode(*request)
    assert len(encoded.instruction) + len(encoded.documents[0]) == 64
    assert encoded.truncated == [True, False]
    share = oracle.shares(oracle.run(tmp_path, [encoded], 40, DTYPE), [encoded], CONFIG.scoring_layer, 2)[0]
    torch.testing.assert_close(scores(ranker.rank(*request)), share, **CLOSE)


@pytest.mark.parametrize("query_offset", [40, 64, 100])
def test_documents_alone_have_the_factors_of_longrope_that_they_have_beside_a_query(tmp_path, query_offset):
    save_longrope(tmp_path)
    prompt = replace(CONFIG.prompt.without_query(), instruction="d", query="{query}", query_free_instruction="d")
    config = replace(CONFIG, query_offset=query_offset, prompt=prompt)
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE, device="cpu")
    documents = ["stores sugar", "aspirin", "the blood"]
    want = scores(ranker.rank("liver", documents))
    torch.testing.assert_close(scores(ranker.rank("liver", ranker.prepare(documents))), want, **CLOSE)
    encoded = ranker.engine.prompt.encode("liver", documents)
    share = oracle.shares(oracle.run(tmp_path, [encoded], query_offset, DTYPE), [encoded], CONFIG.scoring_layer, 2)[0]
    torch.testing.assert_close(want, share, **CLOSE)


def test_a_window_that_hides_the_instruction_is_refused_where_that_is_scored_too(tmp_path):
    prompt = replace(
        PROMPT, instruction="the liver stores sugar {query}", document="|{text}", query="{query}", answer=""
    )
    config = replace(CONFIG, query_offset=14, prompt=prompt)
    folder = save_model(tmp_path, "mistral-window")
    ranker = BlockRankReranker.from_pretrained(folder, config=config, dtype="float32")
    assert ranker.rank("heart", ["aspirin", "sugar"])
    with pytest.raises(ValueError, match=r"has a sliding window of .* what they score are up to"):
        ranker.with_config(abstention=True).rank("heart", ["aspirin", "sugar"])


@pytest.mark.parametrize("name", ["mistral-window", "gemma2", "gemma3_text", "modernbert"])
def test_a_sliding_window_at_the_scoring_layer_is_refused_when_the_query_is_too_far(name, tmp_path):
    save_model(tmp_path, name)
    local = 1 if name in ("gemma3_text", "modernbert") else 2
    prompt = BERT_PROMPT if name == "modernbert" else CONFIG.prompt
    config = replace(CONFIG, scoring_layer=local, prompt=prompt)
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config)
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()  # it is refused before they are read
    choice = ", ".join(map(str, global_layers(name)))
    said = rf", or choose a layer with global attention \({choice}\)$" if choice else "$"
    with pytest.raises(SettingsError, match=rf"scoring_layer {local} has a sliding window.*lower query_offset.*{said}"):
        _ = ranker.engine


def test_a_layer_that_prunes_must_see_the_documents_too(tmp_path):
    save_model(tmp_path, "gemma2")
    config = replace(CONFIG, scoring_layer=3)
    assert load(tmp_path, config=config, prune={1: 2})
    with pytest.raises(SettingsError, match=r"prune: layer 2 has a sliding window of 12 .* attention \(1\)$"):
        load(tmp_path, config=config, prune={2: 2})


def test_a_window_that_the_shortest_query_and_document_fit_is_refused_for_longer_ones(tmp_path):
    prompt = replace(PROMPT, instruction="Documents:", document="|{text}", query="{query}", answer="")
    ranker = BlockRankReranker.from_pretrained(
        save_model(tmp_path, "mistral-window"), config=replace(CONFIG, query_offset=12, prompt=prompt), device="cpu"
    )
    assert ranker.rank("heart", ["sugar"])
    with pytest.raises(SettingsError, match="scoring_layer 2 has a sliding window of 12 positions"):
        ranker.rank("heart", ["the liver stores sugar " * 9])


def test_the_window_of_every_layer_is_the_one_that_its_attention_has(family):
    config = family.engine(family.layers, scoring_head=True).backbone.model.config
    windows = [window_of(config, layer) for layer in range(family.layers)]
    assert [layer for layer, window in enumerate(windows) if window is None] == global_layers(family.name)
    assert {*windows} - {None} <= {oracle.window_of(config)}


def test_a_query_offset_beyond_the_models_positions_is_refused(llama):
    for offset in (256, 16384):
        with pytest.raises(
            ValueError, match=f"query_offset must be below the model's limit of 256.*got {offset}.*training .* export"
        ):
            load(llama, config=replace(CONFIG, query_offset=offset))


def test_a_query_block_that_runs_past_the_models_positions_is_refused(llama):
    ranker = BlockRankReranker.from_pretrained(llama, config=replace(CONFIG, query_offset=250))
    with pytest.raises(ValueError, match=r"query must have at most 6 tokens.*query_offset is 250"):
        ranker.rank("what treats a heart attack", ["aspirin"])


def test_a_transformers_release_that_cannot_run_modernbert_is_named(tmp_path, monkeypatch):
    folder = save_model(tmp_path, "modernbert")
    assert Checkpoint(model=str(folder)).model_config().model_type == "modernbert"
    monkeypatch.setattr(checkpoint, "MODERNBERT_SINCE", (99, 1))
    with pytest.raises(ValueError, match=r"'modernbert', which needs transformers 99\.1 or newer, got 5"):
        Checkpoint(model=str(folder)).model_config()
    save_model(tmp_path / "other", "bert")
    assert Checkpoint(model=str(tmp_path / "other")).model_config().model_type == "bert"


def test_an_unsupported_architecture_is_refused_with_the_list_of_supported_ones(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=400, n_positions=32))
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="architecture 'gpt2'; supported are") as refusal:
        load(tmp_path)
    message = str(refusal.value)
    for name in ("mistral", "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "bert", "modernbert"):
        assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("layer", [4, 40])
def test_a_scoring_layer_out_of_range_is_refused_with_the_range(llama, layer):
    with pytest.raises(ValueError, match=rf"^scoring_layer must be in 0..3 for this 4-layer model, got {layer}$"):
        load(llama, scoring_layer=layer)


def test_a_scoring_head_counts_layers_from_one(tmp_path):
    save_model(tmp_path, "bert")
    for layer in (0, 4):
        with pytest.raises(ValueError, match=rf"scoring_layer must be in 1..3 for this 3-layer model, got {layer}"):
            load(tmp_path, config=replace(BERT_CONFIG, scoring_layer=layer))


def test_heads_that_the_model_does_not_have_are_refused(llama):
    with pytest.raises(ValueError, match=r"heads must be in 0..3 for this model, got \[1, 4\]"):
        load(llama, config=replace(CONFIG, heads=(1, 4)))


def test_heads_together_with_a_scoring_head_are_refused(tmp_path):
    save_model(tmp_path, "bert")
    with pytest.raises(ValueError, match="scoring_head=True has none"):
        load(tmp_path, config=replace(BERT_CONFIG, heads=(0,)))


def test_a_model_loaded_for_blockrank_refuses_to_be_called_another_way(llama):
    with pytest.raises(RuntimeError, match=r"call it through Backbone\.document_lse"):
        load(llama).backbone.model(input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize(("name", "rows"), [("bert", 48), ("roberta", 47), ("xlm-roberta", 47)])
def test_a_row_of_the_position_table_that_belongs_to_padding_is_no_position(tmp_path, name, rows):
    save_model(tmp_path, name, max_position_embeddings=48)  # whose padding token is 0
    config = replace(CONFIG, scoring_layer=2, query_offset=1, prompt=BERT_PROMPT)
    ranker = BlockRankReranker.from_pretrained(tmp_path, config=config, dtype=DTYPE)
    beside = len(ranker.engine.prompt.encode("x", ["x"]).query) - 1 + config.query_offset
    assert len(ranker.rank("x " * (rows - beside), ["x"])) == 1
    with pytest.raises(ValueError, match=f"has {rows} positions"):
        ranker.rank("x " * (rows - beside + 1), ["x"])
