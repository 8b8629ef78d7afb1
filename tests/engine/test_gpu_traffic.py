"""What a pass sends to a GPU, and what a GPU compiles, counted without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from blockrank_kernels import block_attention
from blockrank_kernels.block_attention.triton import tiles

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import engine as engine_module
from tests import pretend_gpu as pretended
from tests.interpreter import import_triton
from tests.kernels.conftest import pack, random_qkv
from tests.model.test_families import global_layers
from tests.tiny_models import CONFIG, save_model

DOCUMENTS = ["a heart attack", "sugar", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    saved = {}
    for family in ("llama", "gemma2"):
        saved[family] = save_model(tmp_path_factory.mktemp(family), family)
        config = replace(CONFIG, scoring_layer=global_layers(family)[-1], query_documents_from_layer=0)
        config.save(saved[family])
        BlockRankReranker.from_pretrained(saved[family]).query_free().config.save(saved[family])
    return saved


@pytest.fixture
def sent(monkeypatch):
    """Copies from the CPU to the pretended GPU: whether each went without waiting."""
    copies = []
    dispatch = pretended.dispatch

    def counting(func, args, kwargs):
        target = kwargs.get("device")
        crosses = func._schema.name == "aten::_to_copy" and target is not None and target.type == "cuda"
        if crosses and not isinstance(args[0], pretended.GpuTensor):
            copies.append(bool(kwargs.get("non_blocking")))
        return dispatch(func, args, kwargs)

    monkeypatch.setattr(pretended, "dispatch", counting)
    return copies


def copies_of_a_query(folder, layer, sent):
    config = replace(BlockRankReranker.from_pretrained(folder).config, scoring_layer=layer)
    with pretended.pretend_gpu() as gpu:
        ranker = BlockRankReranker.from_pretrained(folder, config=config, device=gpu, dtype="float32", attention="sdpa")
        documents = ranker.prepare(DOCUMENTS)
        ranker.rank("sugar", documents)
        sent.clear()
        ranker.rank("sugar", documents)
    return list(sent)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_more_layers_send_nothing_more_to_a_gpu_and_nothing_waits(folders, family, sent):
    few, many = (copies_of_a_query(folders[family], layer, sent) for layer in global_layers(family)[-2:])
    assert len(few) == len(many) <= 5
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="looks into the interpreter")
def test_after_the_warm_up_no_list_needs_another_kernel(folders, monkeypatch):
    import_triton()
    from triton.runtime.interpreter import GridExecutor

    launched = set()

    def record(self, *args, **constants):
        launched.add((self.fn.__module__, self.fn.__name__, tuple(sorted(constants.items()))))

    monkeypatch.setattr(GridExecutor, "__call__", record)
    # Nothing is computed here: what kernels would write is all 0.
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    ranker = BlockRankReranker.from_pretrained(folders["llama"], device="cpu", dtype="float32", attention="triton")
    engine_module.warm_up(ranker.engine)
    warm = set(launched)
    # Attention in whole tiles and in split ones, their merge, log-sum-exps; norms without and with a residual, rotary
    # positions, gates.
    assert len(warm) == 8
    for documents in (DOCUMENTS, ["sugar " * 40] * 30, ranker.prepare(DOCUMENTS), ranker.prepare(["sugar " * 40] * 30)):
        ranker.rank("sugar", documents)
    assert launched == warm


def test_a_model_is_warmed_up_on_a_gpu_alone(folders, monkeypatch):
    warmed = []
    monkeypatch.setattr(engine_module, "warm_up", warmed.append)
    BlockRankReranker.from_pretrained(folders["llama"], device="cpu").engine  # noqa: B018 - loads the model
    assert not warmed
    with pretended.pretend_gpu() as gpu:
        BlockRankReranker.from_pretrained(folders["llama"], device=gpu, attention="sdpa").engine  # noqa: B018
    assert len(warmed) == 1
