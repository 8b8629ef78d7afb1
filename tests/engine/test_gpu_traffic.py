"""What a pass sends to a GPU, and what a GPU compiles, counted without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from blockrank_kernels import block_attention
from blockrank_kernels.block_attention.triton import tiles
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import engine as engine_module
from tests import pretend_gpu as pretended
from tests.interpreter import import_triton
from tests.kernels.conftest import pack, random_qkv
from tests.model.test_families import global_layers
from tests.states.test_prepared import save_family, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model

DOCUMENTS = ["a heart attack", "sugar", ""]
UNREADABLE = "የደም ማነስ"
"""Words for which BERT's tokenizers have no tokens."""

COPIES = {"aten::to", "aten::_to_copy"}
"""Copies from device to device; in inference mode and out of it."""

WAITS = {f"aten::{name}" for name in ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")}
"""Operations whose result, or its size, the CPU needs before it goes on."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    saved = {}
    for family in ("llama", "gemma2"):
        saved[family] = save_model(tmp_path_factory.mktemp(family), family)
        config = replace(CONFIG, scoring_layer=global_layers(family)[-1], query_documents_from_layer=0)
        config.save(saved[family])
        BlockRankReranker.from_pretrained(saved[family]).query_free().config.save(saved[family])
    return saved


def named(func, args, kwargs):
    """Arguments of an operation by their names."""
    return {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)} | kwargs


@pytest.fixture
def sent(monkeypatch):
    """Copies from the CPU to the pretended GPU: whether each went without waiting."""
    copies = []
    dispatch = pretended.dispatch

    def counting(func, args, kwargs):
        given = named(func, args, kwargs)
        target = given.get("device")
        crosses = func._schema.name in COPIES and target is not None and target.type == "cuda"
        if crosses and not isinstance(args[0], pretended.GpuTensor):
            copies.append(bool(given.get("non_blocking")))
        return dispatch(func, args, kwargs)

    monkeypatch.setattr(pretended, "dispatch", counting)
    return copies


@pytest.fixture
def waits(monkeypatch, sent):
    """Operations for which the CPU waits until a GPU has done all its work; `sent` has copies that block."""
    found = []
    dispatch = pretended.dispatch

    def watching(func, args, kwargs):
        target = named(func, args, kwargs).get("device")
        on_gpu = any(isinstance(leaf, pretended.GpuTensor) for leaf in tree_leaves((args, kwargs)))
        if on_gpu and (func._schema.name in WAITS or (target is not None and target.type == "cpu")):
            found.append(func._schema.name)
        return dispatch(func, args, kwargs)

    monkeypatch.setattr(pretended, "dispatch", watching)
    return found


def run_a_pass(folder, query, sent, waits, **settings):
    with pretended.pretend_gpu() as gpu:
        ranker = BlockRankReranker.from_pretrained(folder, device=gpu, dtype="float32", attention="sdpa", **settings)
        engine = ranker.engine
        layout = engine.layout([engine.prompt.encode(query, [*DOCUMENTS, UNREADABLE])])
        for _ in range(2):  # some is sent to a GPU once, and stays
            sent.clear()
            waits.clear()
            with torch.inference_mode():
                engine.backbone.document_lse(layout)


@pytest.mark.parametrize("family", ["mistral", "qwen2-window", "gemma2", "gemma3_text", "phi3", "bert", "modernbert"])
def test_nothing_in_a_pass_waits_for_a_gpu(family, sent, waits, tmp_path):
    run_a_pass(save_family(tmp_path / "model", family), "sugar", sent, waits)
    assert not waits
    assert sent
    assert all(sent)


@pytest.mark.parametrize("query", ["sugar", UNREADABLE])
def test_a_scoring_head_waits_for_no_gpu(query, sent, waits, tmp_path):
    run_a_pass(save_ranker(tmp_path / "model", "bert", BERT_CONFIG), query, sent, waits)
    assert not waits
    assert all(sent)


def test_answers_and_chosen_heads_wait_for_no_gpu_and_heads_are_sent_once(folders, sent, waits):
    counts = []
    config = BlockRankReranker.from_pretrained(folders["llama"]).config
    for heads in (None, (0, 3)):
        run_a_pass(folders["llama"], "sugar", sent, waits, config=replace(config, heads=heads))
        assert not waits
        assert all(sent)
        counts.append(len(sent))
    assert counts[0] == counts[1]
    numbered = replace(CONFIG, prompt=replace(CONFIG.prompt, document="\n{index} | {text} |"))
    run_a_pass(folders["llama"], "sugar", sent, waits, config=numbered, method="decode")
    assert not waits
    assert all(sent)


def copies_of_a_query(folder, layer, sent):
    config = replace(BlockRankReranker.from_pretrained(folder).config, scoring_layer=layer)
    with pretended.pretend_gpu() as gpu:
        ranker = BlockRankReranker.from_pretrained(folder, config=config, device=gpu, dtype="float32", attention="sdpa")
        documents = ranker.prepare(DOCUMENTS)
        ranker.rank("sugar", documents)
        sent.clear()
        ranker.rank("sugar", documents)
    return list(sent)


# The first layer that has no window, of more layers, brings a mask of its own.
@pytest.mark.parametrize(("family", "masks", "most"), [("llama", 0, 5), ("gemma2", 1, 8)])
def test_more_layers_send_nothing_more_to_a_gpu_and_nothing_waits(folders, family, masks, most, sent):
    few, many = (copies_of_a_query(folders[family], layer, sent) for layer in global_layers(family)[-2:])
    assert len(few) + masks == len(many) <= most
    assert all(few + many)


@pytest.mark.parametrize(("window", "count"), [(None, 1), (4, 2)])
def test_tables_go_up_once_for_all_layers_and_positions_where_there_is_a_window(window, count, monkeypatch):
    import_triton()
    from blockrank_kernels.block_attention.triton import launch

    uploads = []
    for module in (tiles, launch):
        monkeypatch.setattr(module, "upload", lambda tensor, device: uploads.append(tensor) or tensor.to(device))
    segments = pack([(2, [3, 1], 2)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = [tensor.to(device) for tensor in random_qkv(segments.num_tokens, 1, 1, 16, torch.float32)]
    for _ in range(2):
        block_attention(*tensors, segments, window=window, implementation="triton")
    assert len(uploads) == count


@pytest.fixture
def launched(monkeypatch):
    """Kernels that are launched, with what they are compiled for; nothing is computed."""
    if torch.cuda.is_available():
        pytest.skip("looks into the interpreter")
    import_triton()
    from triton.runtime.interpreter import GridExecutor

    launched = set()

    def record(self, *args, **constants):
        launched.add((self.fn.__module__, self.fn.__name__, tuple(sorted(constants.items()))))

    monkeypatch.setattr(GridExecutor, "__call__", record)
    # What kernels would write is all 0.
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    return launched


def test_after_the_warm_up_no_list_needs_another_kernel(folders, launched):
    ranker = BlockRankReranker.from_pretrained(folders["llama"], device="cpu", dtype="float32", attention="triton")
    engine_module.warm_up(ranker.engine)
    warm = set(launched)
    # Attention in whole tiles and in split ones, their merge, log-sum-exps; norms without and with a residual, rotary
    # positions, gates.
    assert len(warm) == 8
    for documents in (DOCUMENTS, ["sugar " * 40] * 30, ranker.prepare(DOCUMENTS), ranker.prepare(["sugar " * 40] * 30)):
        ranker.rank("sugar", documents)
    assert launched == warm


def test_after_the_warm_up_unknown_text_needs_no_other_kernel(tmp_path, launched):
    folder = save_ranker(tmp_path / "model", "bert", BERT_CONFIG)
    ranker = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32", attention="triton")
    engine_module.warm_up(ranker.engine)
    warm = set(launched)
    # Attention in whole tiles, where no query sees documents; log-sum-exps of heads as they are and of one number more.
    assert len(warm) == 3
    documents = [*DOCUMENTS, UNREADABLE]
    for given in (documents, ranker.prepare(documents)):
        with pytest.warns(UserWarning, match="cannot read"):
            ranker.rank(UNREADABLE, given)
    assert launched == warm


class Joined(TorchDispatchMode):
    """While it is entered, how long tensors are that are put together of others."""

    def __init__(self):
        super().__init__()
        self.lengths = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.cat.default and out.is_floating_point():
            self.lengths.append(len(out))
        return out


def test_kernels_read_prepared_documents_where_they_lie(folders, launched):
    ranker = BlockRankReranker.from_pretrained(folders["llama"], device="cpu", dtype="float32", attention="triton")
    documents = ranker.prepare(["sugar " * 40] * 30)
    ranker.rank("sugar", documents)  # joins them for all queries
    with Joined() as joined:
        ranker.rank("sugar", documents)
    assert joined.lengths
    assert max(joined.lengths) < documents.pack.num_tokens


def test_a_model_is_warmed_up_on_a_gpu_alone(folders, monkeypatch):
    warmed = []
    monkeypatch.setattr(engine_module, "warm_up", warmed.append)
    BlockRankReranker.from_pretrained(folders["llama"], device="cpu").engine  # noqa: B018 - loads the model
    assert not warmed
    with pretended.pretend_gpu() as gpu:
        BlockRankReranker.from_pretrained(folders["llama"], device=gpu, attention="sdpa").engine  # noqa: B018
    assert len(warmed) == 1
