"""Linear layers in 8-bit integers with static scales, by the specification in torch and by OpenVINO."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.formats import read_documents
from blockrank_rerank.model import devices, int8
from blockrank_rerank.model.int8 import (
    SCALES_NAME,
    ActivationScale,
    Int8Linear,
    load_scales,
    measured_scales,
    save_scales,
)
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.text.prompt import EncodedRequest
from tests.states.test_prepared import DOCUMENTS, QUERIES, assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG

CORPUS = Path(__file__).parents[2] / "examples/data/medquad-sample/corpus.jsonl"
TOLERANCE = 5e-3
"""A value near the middle of two steps may be rounded to either."""


def calibrated(folder, family="bert", config=BERT_CONFIG):
    save_ranker(folder, family, config)
    ranker = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")
    with measured_scales(ranker.engine.backbone.model) as scales:
        for query in QUERIES:
            ranker.rank(query, DOCUMENTS)
    save_scales(scales, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("int8"))


def load(folder, **options):
    options = {"device": "cpu", "dtype": "float32", "quantization": "int8"} | options
    return BlockRankReranker.from_pretrained(folder, **options)


def needs_openvino():
    pytest.importorskip("openvino")


def openvino_encoder():
    from blockrank_rerank.model import openvino_encoder

    return openvino_encoder


# The specification


@pytest.mark.parametrize(("vnni", "largest"), [(True, 127), (False, 63)])
def test_a_layer_multiplies_whole_steps_that_depend_on_nothing_else(monkeypatch, vnni, largest):
    monkeypatch.setattr(int8, "has_vnni", lambda: vnni)
    torch.manual_seed(0)
    layer, inputs = torch.nn.Linear(16, 8), torch.randn(5, 16)
    scale = torch.rand(16) / 50 + 0.01
    rounded = Int8Linear(layer, ActivationScale(scale, 100))
    steps = (inputs.double() / scale + 100).round().clamp(0, 255) - 100
    weight = rounded.weight.double() * rounded.weight_scale.double()[:, None]
    assert rounded.weight.dtype == torch.int8
    assert int(rounded.weight.abs().max()) == largest
    assert torch.allclose(rounded(inputs).double(), steps @ weight.T + layer.bias.double(), atol=1e-5)
    assert torch.allclose(weight / scale, layer.weight.double(), atol=float(rounded.weight_scale.max() / scale.min()))
    giant = torch.cat([inputs, 1e4 * inputs])
    assert torch.equal(rounded(giant)[:5], rounded(inputs))


def test_what_was_measured_is_within_the_steps(folder):
    ranker = load(folder, quantization=None)
    model = ranker.engine.backbone.model
    scales = load_scales(folder / SCALES_NAME, model)
    seen = []
    layer = model.encoder.layer[1].intermediate.dense
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    ranker.rank(QUERIES[0], DOCUMENTS)
    hook.remove()
    scale, zero = scales["1.feed_forward"]
    steps = (torch.cat(seen) / scale + zero).round()
    assert (int(steps.min()), int(steps.max())) >= (0, 100)
    assert int(steps.max()) <= 255


def test_scales_of_another_model_are_refused(folder, tmp_path):
    model = load(folder, quantization=None).engine.backbone.model
    save_scales({"0.attention": ActivationScale(torch.ones(7), 3)}, tmp_path)
    with pytest.raises(ValueError, match=r"no scales for the 32 channels of 0\.attention: it is of another model"):
        load_scales(tmp_path / SCALES_NAME, model)
    (tmp_path / SCALES_NAME).write_bytes(b"{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_scales(tmp_path / SCALES_NAME, model)


@pytest.mark.parametrize(
    ("part", "numbers"),
    [("zero", torch.tensor(number)) for number in ([1, 2], [], [256], [-1], [1.5], [float("nan")])]
    + [("scale", torch.full((32,), number)) for number in (0.0, -1.0, float("nan"), float("inf"), 1)],
    ids=str,
)
def test_scales_that_cannot_be_are_refused(part, numbers, folder, tmp_path):
    model = load(folder, quantization=None).engine.backbone.model
    tensors = load_file(folder / SCALES_NAME) | {f"1.feed_forward.{part}": numbers}
    save_file(tensors, tmp_path / SCALES_NAME)
    with pytest.raises(
        ValueError, match=rf"{SCALES_NAME} is damaged: 1\.feed_forward needs scales that are .* 0 to 255"
    ):
        load_scales(tmp_path / SCALES_NAME, model)


def test_scales_of_nothing_are_refused(folder):
    model = load(folder, quantization=None).engine.backbone.model
    with pytest.raises(ValueError, match="nothing was read"), measured_scales(model):
        pass


# OpenVINO


def request(*lengths, instruction=1, query=3):
    generator = torch.Generator().manual_seed(sum(lengths))

    def block(length):
        return torch.randint(5, 60, (length,), generator=generator).tolist()

    return EncodedRequest(block(instruction), [block(n) for n in lengths], block(query), [False] * len(lengths))


def test_openvino_reports_to_nobody(tmp_path):
    needs_openvino()
    code = """if True:
        import socket, sys
        def connect(*address):
            raise AssertionError(address)
        socket.socket.connect = socket.getaddrinfo = connect
        from blockrank_rerank.model import openvino_encoder
        import openvino
        print("openvino_telemetry" in sys.modules, callable(openvino.convert_model))
    """
    # In CI it sends nothing of its own accord.
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "TF_BUILD", "JENKINS_URL"}}
    environment |= {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert not [path for path in tmp_path.rglob("*") if "intel" in path.name.lower()]


@pytest.mark.parametrize(
    "requests",
    [
        [request(5, 30, 2, 17, 17)],
        [request(4, 9, instruction=3), request(60, instruction=2, query=1)],
        [request(6, 8, query=0)],
        [request(query=4)],
        [request(*[40] * 12)],  # several batches
    ],
    ids=["inst1-docs5-q3", "2-requests", "no-query", "no-documents", "batches"],
)
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_openvino_computes_what_the_specification_does(family, requests, folder, tmp_path_factory):
    needs_openvino()
    folder = folder if family == "bert" else calibrated(tmp_path_factory.mktemp(family), family)
    layout = build_layout(requests, query_offset=1)
    backbone = load(folder).engine.backbone
    encoder, backbone.encoder = backbone.encoder, None
    try:
        with torch.inference_mode():
            expected = backbone.final_states(layout)
            backbone.encoder = encoder
            got = backbone.final_states(layout)
    finally:
        backbone.encoder = encoder
    wrong = (got - expected).abs()
    assert float(wrong.median()) < 1e-4
    assert float(wrong.mean()) < TOLERANCE


def test_threads_share_out_the_batches_of_a_pack(folder, monkeypatch):
    needs_openvino()
    backbone = load(folder).engine.backbone
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    encoder = type(backbone.encoder)(backbone.model, torch.float32)
    layout = build_layout([request(*[40] * 40)], query_offset=1)
    embeddings = torch.randn(layout.num_tokens, 32)
    assert len(list(openvino_encoder()._batches(layout, 3))) > 3
    wrong = (encoder(embeddings, layout) - backbone.encoder(embeddings, layout)).abs()
    assert float(wrong.median()) < 1e-4
    assert float(wrong.mean()) < TOLERANCE


def test_beside_8_bits_it_computes_in_bf16_too(folder):
    needs_openvino()
    plain, ranker = (load(folder, dtype="bfloat16", quantization=bits) for bits in (None, "int8"))
    expected, got = ({one.index: one.raw_score for one in r.rank(QUERIES[0], DOCUMENTS)} for r in (plain, ranker))
    assert got == pytest.approx(expected, abs=0.3)


def test_scores_change_by_what_is_rounded(folder):
    needs_openvino()
    plain, ranker = load(folder, quantization=None), load(folder)
    for query in QUERIES:
        expected, got = ({one.index: one.raw_score for one in r.rank(query, DOCUMENTS)} for r in (plain, ranker))
        assert got == pytest.approx(expected, abs=0.3)
        assert got != pytest.approx(expected, abs=1e-4)


def test_documents_are_independent_and_can_be_prepared(folder):
    needs_openvino()
    ranker = load(folder)
    prepared = ranker.prepare(DOCUMENTS)
    for query in QUERIES:
        together = ranker.rank(query, DOCUMENTS)
        assert_same(ranker.rank(query, prepared), together, tolerance=TOLERANCE)
        alone = {index: ranker.rank(query, [document])[0].raw_score for index, document in enumerate(DOCUMENTS)}
        assert {one.index: one.raw_score for one in together} == pytest.approx(alone, abs=TOLERANCE)


def test_a_document_has_the_same_score_alone_and_in_a_list_of_the_default_model():
    needs_openvino()
    ranker = load("default")
    documents = [document.text for document in read_documents(CORPUS)[:40]]
    together = {found.index: found.raw_score for found in ranker.rank(QUERIES[0], documents)}
    for index in (6, 37, 38, 39):  # padding to any length gives two of them other steps
        (alone,) = ranker.rank(QUERIES[0], [documents[index]])
        assert alone.raw_score == pytest.approx(together[index], abs=1e-4)


def test_an_interrupt_leaves_nothing_running(folder, monkeypatch):
    needs_openvino()
    ranker, module = load(folder), openvino_encoder()
    expected, collect = ranker.rank(QUERIES[0], DOCUMENTS), module._collect
    monkeypatch.setattr(module, "_collect", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ranker.rank(QUERIES[0], DOCUMENTS)
    monkeypatch.setattr(module, "_collect", collect)
    assert_same(ranker.rank(QUERIES[0], DOCUMENTS), expected)


def test_words_can_be_explained(folder):
    needs_openvino()
    explained = load(folder).explain(QUERIES[0], DOCUMENTS)
    assert_same([one.ranked for one in explained], load(folder).rank(QUERIES[0], DOCUMENTS), tolerance=TOLERANCE)


@pytest.mark.skipif(sys.platform == "win32", reason="cannot fork")
def test_a_child_of_a_fork_ranks_too(folder):
    needs_openvino()
    ranker = load(folder)
    expected = [one.raw_score for one in ranker.rank(QUERIES[0], DOCUMENTS)]
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send([one.raw_score for one in ranker.rank(QUERIES[0], DOCUMENTS)]), daemon=True
    )
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == pytest.approx(expected, abs=TOLERANCE)
    child.join()


def test_scales_go_along_with_a_saved_model(folder, tmp_path):
    load(folder, quantization=None).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / SCALES_NAME).read_bytes() == (folder / SCALES_NAME).read_bytes()


def test_states_of_other_products_are_refused(folder, tmp_path):
    needs_openvino()
    plain, ranker = load(folder, quantization=None), load(folder)
    with pytest.raises(ValueError, match="documents were prepared by another model"):
        ranker.rank(QUERIES[0], plain.prepare(DOCUMENTS))
    plain.prepare_store(tmp_path / "store", DOCUMENTS)
    with pytest.raises(ValueError, match="dtype of the model 'float32' and not 'float32, int8'"):
        ranker.prepare_store(tmp_path / "store", DOCUMENTS)


def test_the_default_model_has_scales():
    needs_openvino()
    ranked = BlockRankReranker.from_pretrained(device="cpu", quantization="int8").rank(
        "what thins blood", ["the liver stores sugar", "aspirin thins the blood"]
    )
    assert ranked[0].index == 1


# Refusals


@pytest.fixture
def openvino_there(monkeypatch):
    real = devices.importlib.util.find_spec
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name if name == "openvino" else real(name))


def refused(folder, error, match, **options):
    with pytest.raises(error, match=match):
        load(folder, **options).rank("q", ["a"])


def test_without_openvino(folder, monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    refused(folder, ImportError, r"openvino is not installed .*pip install '\.\[openvino\]'")


def test_another_dtype(folder, openvino_there):
    refused(folder, ValueError, "needs dtype float32 or bfloat16, got float16", dtype="float16")


@pytest.mark.parametrize("family", ["mistral", "modernbert"])
def test_other_families(family, tmp_path, openvino_there):
    config = replace(CONFIG, scoring_layer=3, prompt=BERT_CONFIG.prompt if family == "modernbert" else CONFIG.prompt)
    refused(save_ranker(tmp_path, family, config), ValueError, f"is for encoders of bert, .*is {family} with")


def test_a_query_that_sees_documents_early(tmp_path, openvino_there):
    save_ranker(tmp_path, "bert", replace(BERT_CONFIG, query_documents_from_layer=1))
    refused(tmp_path, ValueError, "sees documents in an appended scoring layer only")


def test_a_model_without_scales(tmp_path):
    needs_openvino()
    save_ranker(tmp_path, "bert", BERT_CONFIG)
    refused(tmp_path, FileNotFoundError, r"has no activation_scales.safetensors; .*python -m recipes.activation_scales")


def test_a_named_attention(folder):
    with pytest.raises(ValueError, match=r"attention reference cannot go together with quantization int8"):
        load(folder, attention="reference")


def test_pruning():
    with pytest.raises(ValueError, match="prune cannot go together with quantization int8"):
        BlockRankReranker.from_pretrained(quantization="int8", prune={2: 50})


def test_an_unknown_name():
    with pytest.raises(ValueError, match="quantization must be int8, or nothing, got 'int4'"):
        BlockRankReranker.from_pretrained(quantization="int4")
