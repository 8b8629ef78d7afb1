"""Tunings: how queries read documents, over one model and one store."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.cli.ranker import load_ranker
from blockrank_rerank.engine.tuned import bases
from blockrank_rerank.model.frozen_scoring import freeze, untuned
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.model.tuning import Tuning
from tests.states.test_prepared import QUERIES, assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG

DOCUMENTS = ["a heart attack is a blocked artery", "sugar", {"title": "the liver", "text": "stores sugar " * 9}, ""]
BERT = replace(BERT_CONFIG, abstention=True)
DECODER = replace(CONFIG, prompt=CONFIG.prompt.without_query(), signal_tokens="all", heads=(0, 2, 3), abstention=True)
KINDS = {"encoder": ("bert", BERT), "decoder": ("gemma2", replace(DECODER, scoring_layer=3))}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp(request.param), *KINDS[request.param])


@pytest.fixture(scope="module")
def ranker(folder):
    return BlockRankReranker.from_pretrained(folder, dtype="float32")


def tuning_of(ranker, size=0.3, seed=0, query_rank=0, **facts):
    """A tuning of random numbers; of size 0 it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    rank = query_rank if ranker.config.scoring_head else 0
    start = untuned(ranker.engine.backbone, rank)
    tensors = {name: size * torch.randn(t.shape, generator=generator) for name, t in start.tensors.items()}
    return Tuning(tensors, {"name": "random", "bases": bases(ranker.engine), **facts})


def saved(path, tuning):
    tuning.save(path)
    return path


def tuned(folder, *files, **options):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", tuning=files[0], **options)


def scores(ranking):
    return [(document.index, document.score, document.raw_score, document.probability) for document in ranking]


def test_a_tuning_of_zeros_changes_nothing(ranker, folder, tmp_path):
    zeros = tuned(folder, saved(tmp_path / "t.safetensors", tuning_of(ranker, size=0.0, query_rank=2)))
    for query in QUERIES:
        assert_same(zeros.rank(query, DOCUMENTS), ranker.rank(query, DOCUMENTS), 1e-6)


@pytest.mark.parametrize("name", ["log_temperature", "length_weight", "head_weight", "signal_weight", "nothing",
                                  "log_sharpness", "query_down"])  # fmt: skip
def test_every_number_of_a_tuning_counts(ranker, folder, tmp_path, name):
    random = tuning_of(ranker, query_rank=2)
    if name not in random.tensors:
        pytest.skip("a decoder has no projection of its own")
    plain = scores(tuned(folder, saved(tmp_path / "a.safetensors", random)).rank(QUERIES[0], DOCUMENTS))
    changed = {**random.tensors, name: random.tensors[name] + torch.arange(random.tensors[name].numel()).reshape(
        random.tensors[name].shape) + 0.5}  # fmt: skip
    other = tuned(folder, saved(tmp_path / "b.safetensors", Tuning(changed, random.facts)))
    has_effect = not (name == "head_weight" and ranker.config.scoring_head and len(changed[name]) == 1)
    assert (scores(other.rank(QUERIES[0], DOCUMENTS)) != plain) is has_effect


def test_several_tunings_serve_over_one_model_one_store_and_one_cache(ranker, folder, tmp_path):
    files = {name: saved(tmp_path / f"{name}.safetensors", tuning_of(ranker, seed=n)) for n, name in enumerate("ab")}
    ranker.prepare_store(tmp_path / "store", DOCUMENTS)
    several = tuned(folder, files, store=tmp_path / "store", cache="1MB")
    assert several.tunings == ["a", "b"]
    assert several.tuned("a").engine.backbone.model is several.engine.backbone.model
    for query in QUERIES:
        for name, file in files.items():
            ranked = several.rank(query, DOCUMENTS, tuning=name)
            assert {document.served_from for document in ranked} <= {"stored", "cached"}
            assert_same(ranked, tuned(folder, file).rank(query, DOCUMENTS), 1e-4)
            assert scores(several.tuned(name).rank(query, DOCUMENTS)) == scores(
                several.rank(query, DOCUMENTS, tuning=name)
            )
        assert_same(several.rank(query, DOCUMENTS), ranker.rank(query, DOCUMENTS), 1e-4)
    with_a, with_b = (scores(several.rank(QUERIES[0], DOCUMENTS, tuning=name)) for name in "ab")
    assert with_a != with_b


def test_prepared_documents_and_a_fingerprint_are_those_of_the_model(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker, query_rank=1))
    other = tuned(folder, file)
    assert other.engine.fingerprint == ranker.engine.fingerprint
    assert_same(other.rank(QUERIES[0], ranker.prepare(DOCUMENTS)), other.rank(QUERIES[0], DOCUMENTS), 1e-4)


def test_what_was_read_once_has_the_log_sum_exps_of_a_tuned_ranker(ranker, folder, tmp_path):
    random = tuning_of(ranker, query_rank=2)
    engine = tuned(folder, saved(tmp_path / "t.safetensors", random)).engine
    request = engine.prompt.encode(QUERIES[0], ["a heart attack", "the liver stores sugar"])
    layout = build_layout([request], engine.config.query_offset, unknown_id=engine.prompt.unknown_id)
    (expected,) = engine.backbone.document_lse(layout)
    found = freeze(ranker.engine.backbone, layout).lse(random)
    assert torch.allclose(found.documents, expected.documents, atol=2e-2)
    assert torch.allclose(found.nothing, expected.nothing, atol=2e-2)


def test_a_tuning_has_gradients_for_all_that_ranks(ranker):
    engine, random = ranker.engine, tuning_of(ranker, query_rank=2)
    request = engine.prompt.encode(QUERIES[0], ["a heart attack", "the liver stores sugar"])
    frozen = freeze(engine.backbone, build_layout([request], engine.config.query_offset))
    for tensor in random.tensors.values():
        tensor.requires_grad_()
    frozen.lse(random).documents[..., 0].sum().backward()
    ranks = {name for name in random.tensors if name not in ("nothing", "log_sharpness")}
    assert {name for name, tensor in random.tensors.items() if tensor.grad is not None} == ranks


def test_pickles_and_copies_keep_their_tunings(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    several, one = tuned(folder, {"a": file}), tuned(folder, file)
    expected = scores(one.rank(QUERIES[0], DOCUMENTS))
    for again in (pickle.loads(pickle.dumps(several)), copy.deepcopy(several), copy.copy(several)):
        assert scores(again.rank(QUERIES[0], DOCUMENTS, tuning="a")) == expected
    assert scores(pickle.loads(pickle.dumps(one)).rank(QUERIES[0], DOCUMENTS)) == expected


def test_explanations_look_where_the_tuned_query_looks(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker, size=1.0))
    one, other = (r.explain(QUERIES[0], DOCUMENTS[:1]).documents[0].words for r in (ranker, tuned(folder, file)))
    assert [word.weight for word in one] != [word.weight for word in other]


def test_survivors_of_pruning_are_scored_with_the_tuning(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    ranked = tuned(folder, file, prune={1: 2}).rank(QUERIES[0], DOCUMENTS)
    kept = [document for document in ranked if not document.pruned]
    expected = tuned(folder, file).rank(QUERIES[0], [DOCUMENTS[document.index] for document in kept])
    assert len(kept) == 2
    found = [document.raw_score for document in kept]
    assert found == pytest.approx([document.raw_score for document in expected], abs=1e-4)


# Other dtypes, other models


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_tuning_of_fp32_serves_the_model_in_16_bits(ranker, folder, tmp_path, dtype):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    assert BlockRankReranker.from_pretrained(folder, dtype=dtype, tuning=file).engine.backbone.tuning


def test_a_tuning_of_fp32_serves_the_model_in_8_bits(tmp_path):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    file = saved(tmp_path / "t.safetensors", tuning_of(BlockRankReranker.from_pretrained(dtype="float32")))
    rounded = BlockRankReranker.from_pretrained(quantization="int8", dtype="float32", device="cpu", tuning=file)
    plain = BlockRankReranker.from_pretrained(quantization="int8", dtype="float32", device="cpu")
    assert scores(rounded.rank(QUERIES[0], DOCUMENTS)) != scores(plain.rank(QUERIES[0], DOCUMENTS))


def test_a_tuning_of_16_bits_is_refused_in_others(ranker, folder, tmp_path):
    half = BlockRankReranker.from_pretrained(folder, dtype="bfloat16")
    file = saved(tmp_path / "t.safetensors", Tuning(tuning_of(ranker).tensors, {"bases": bases(half.engine)}))
    with pytest.raises(
        ValueError, match=r"is a tuning for models in bfloat16, and .* is loaded in float32: pass one of"
    ):
        tuned(folder, file).rank(QUERIES[0], DOCUMENTS)


def test_a_tuning_of_another_model_is_refused(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    family = "bert" if ranker.config.scoring_head else "gemma2"
    others = [
        {"config": replace(ranker.config, query_offset=90)},
        {"config": replace(ranker.config, prompt=replace(ranker.config.prompt, query="{query} ?"))},
    ]
    message = r"was made for another model than .*, or for other settings of its queries: use it with the one it was"
    for options in others:
        with pytest.raises(ValueError, match=message):
            tuned(folder, file, **options).rank(QUERIES[0], DOCUMENTS)
    other = save_ranker(tmp_path / "other", family, ranker.config, seed=7)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        tuned(other, file).rank(QUERIES[0], DOCUMENTS)


def test_how_much_of_a_document_is_read_is_no_business_of_a_tuning(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    assert tuned(folder, file, max_document_tokens=20, long_documents="truncate").rank(QUERIES[0], DOCUMENTS)


def test_a_saved_model_takes_the_tuning_and_a_tuned_one_is_not_saved(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    with pytest.raises(ValueError, match="a tuning stays a file of its own: save the model without tuning="):
        tuned(folder, file).save_pretrained(tmp_path / "tuned")
    ranker.save_pretrained(tmp_path / "saved")
    again = tuned(tmp_path / "saved", file)
    assert_same(again.rank(QUERIES[0], DOCUMENTS), tuned(folder, file).rank(QUERIES[0], DOCUMENTS))


# What cannot be used


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is no tuning: .*; 'blockrank-finetune tune' writes one"),
        (b"not safetensors at all", r"is no tuning: .*; 'blockrank-finetune tune' writes one"),
    ],
)
def test_a_file_of_something_else_is_refused_before_a_model_is_loaded(tmp_path, content, message):
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        BlockRankReranker.from_pretrained("default", tuning=path)


def test_weights_damage_and_other_versions_are_told_apart(ranker, tmp_path):
    path = tmp_path / "t.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"is no tuning: it holds 'weight'; "):
        BlockRankReranker.from_pretrained("default", tuning=path)
    random = tuning_of(ranker)
    random.save(path)
    metadata = {"format": "blockrank-tuning", "version": "99", "facts": json.dumps({})}
    save_file(dict(random.tensors), path, metadata)
    with pytest.raises(ValueError, match="is a tuning of another release of blockrank-rerank"):
        BlockRankReranker.from_pretrained("default", tuning=path)
    saved(path, Tuning({**random.tensors, "nothing": torch.tensor(float("nan"))}, random.facts))
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        BlockRankReranker.from_pretrained("default", tuning=path)


def test_a_tuning_that_does_not_fit_its_own_model_is_refused(ranker, folder, tmp_path):
    random = tuning_of(ranker)
    wrong = {**random.tensors, "signal_weight": random.tensors["signal_weight"][:, :3].contiguous()}
    with pytest.raises(ValueError, match="is damaged: it does not fit the model that it was made for"):
        tuned(folder, saved(tmp_path / "t.safetensors", Tuning(wrong, random.facts))).rank(QUERIES[0], DOCUMENTS)


def test_names_that_are_none_are_refused(ranker, folder, tmp_path):
    file = saved(tmp_path / "t.safetensors", tuning_of(ranker))
    with pytest.raises(ValueError, match="tuning must be None, as this reranker has none by name, got 'a'"):
        ranker.rank(QUERIES[0], DOCUMENTS, tuning="a")
    with pytest.raises(ValueError, match="tuning must be one of a, b, got 'c'"):
        tuned(folder, {"a": file, "b": file}).rank(QUERIES[0], DOCUMENTS, tuning="c")
    with pytest.raises(FileNotFoundError, match=r"tuning must be a file that .* wrote, and there is no .*absent"):
        tuned(folder, tmp_path / "absent.safetensors")
    for given in (5, "", {"": file}, {"a": 5}):
        with pytest.raises(ValueError, match="tuning must"):
            tuned(folder, given)


def test_the_command_line_takes_one_file_or_several_by_name(tmp_path):
    odd = tmp_path / "a=b.safetensors"
    odd.touch()
    parsed = {
        (): None,
        ("t.safetensors",): "t.safetensors",
        (str(odd),): str(odd),
        ("a=x", "b=y"): {"a": "x", "b": "y"},
        ("a=x",): {"a": "x"},
    }
    for words, expected in parsed.items():
        assert ModelOptions(tuning=[*words]).values()["tuning"] == expected
    with pytest.raises(ValueError, match="--tuning NAME=FILE is for blockrank serve, whose requests choose by name"):
        load_ranker(ModelOptions(tuning=["a=x"]))
    for words, message in ((["x", "y"], "NAME=FILE where there are several"), (["a=x", "a=y"], "each name once")):
        with pytest.raises(ValueError, match=message):
            ModelOptions(tuning=words).values()
