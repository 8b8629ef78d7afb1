"""Wherever tensors are put, a model on a GPU ranks as on the CPU; the GPU is pretended, so no kernels of it run."""

from __future__ import annotations

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from tests.pretend_gpu import GpuTensor, pretend_gpu
from tests.states.test_prepared import DOCUMENTS, QUERIES, save_family

HALF = DOCUMENTS[:3]


def load(folder, device, **settings):
    return BlockRankReranker.from_pretrained(folder, device=device, dtype="float32", attention="sdpa", **settings)


def values(ranking):
    return [(one.index, pytest.approx(one.raw_score, abs=1e-5), one.pruned, one.truncated) for one in ranking]


def batch(ranker, documents):
    return [values(ranking) for ranking in ranker.rank_batch([(query, documents) for query in QUERIES])]


def prepared(folder, device, dtype=None, place=None):
    ranker = load(folder, device)
    documents = ranker.prepare(DOCUMENTS, dtype=dtype, device=place)
    return [values(ranker.rank(QUERIES[0], documents)), *batch(ranker, documents[:3])]


def cached(folder, device, **settings):
    ranker = load(folder, device, cache="1MB", **settings)
    return [values(ranker.rank(QUERIES[0], HALF)), *batch(ranker, DOCUMENTS), values(ranker.rank("it", DOCUMENTS))]


def stored(folder, device, dtype=None, **settings):
    with_half = folder.parent / f"store-{device.partition(':')[0]}-{dtype}"
    load(folder, device).prepare_store(with_half, HALF, dtype=dtype)
    ranker = load(folder, device, store=with_half, **settings)
    return [values(ranker.rank(QUERIES[0], HALF)), values(ranker.rank("it", DOCUMENTS)), *batch(ranker, DOCUMENTS)]


def explained(folder, device):
    explanation = load(folder, device).explain(QUERIES[0], DOCUMENTS)
    return [[(word.start, pytest.approx(word.weight, abs=1e-5)) for word in one.words] for one in explanation]


WAYS = {
    "rank": lambda folder, device: values(load(folder, device).rank(QUERIES[0], DOCUMENTS)),
    "batch": lambda folder, device: batch(load(folder, device), DOCUMENTS),
    "pruned": lambda folder, device: values(load(folder, device, prune={1: 3}).rank(QUERIES[0], DOCUMENTS)),
    "in parts": lambda folder, device: values(load(folder, device, max_memory="1MB").rank("it", DOCUMENTS * 20)),
    "explained": explained,
    "prepared": prepared,
    "prepared in 8 bits": lambda folder, device: prepared(folder, device, dtype="int8"),
    "prepared on the host": lambda folder, device: prepared(folder, device, place="cpu"),
    "cached": cached,
    "cached on the host": lambda folder, device: cached(folder, device, cache_device="cpu"),
    "stored": stored,
    "stored in 8 bits": lambda folder, device: stored(folder, device, "int8"),
    "stored and cached": lambda folder, device: stored(folder, device, cache="1MB"),
    "stored, in parts": lambda folder, device: stored(folder, device, max_memory="1MB"),
}


@pytest.fixture(scope="module", params=["bert", "llama", "gemma2"])
def folder(request, tmp_path_factory):
    saved = save_family(tmp_path_factory.mktemp(request.param) / "model", request.param)
    BlockRankReranker.from_pretrained(saved).query_free().config.save(saved)
    return saved


@pytest.mark.parametrize("way", WAYS)
def test_a_model_on_a_gpu_ranks_as_on_the_cpu(folder, way):
    expected = WAYS[way](folder, "cpu")
    with pretend_gpu() as gpu:
        assert WAYS[way](folder, gpu) == expected


@pytest.mark.parametrize(("device", "kind"), [(None, GpuTensor), ("cpu", torch.Tensor)])
def test_kept_states_lie_on_the_models_device_or_where_they_are_told_to(folder, device, kind):
    with pretend_gpu() as gpu:
        ranker = load(folder, gpu, cache="1MB", cache_device=device)
        ranker.rank(QUERIES[0], HALF)
        kept = [*ranker.prepare(HALF, device=device).states, *ranker.lookup.cache._kept.values()]
        assert {type(tensor) for states in kept for tensor in states.tensors.values()} == {kind}
        assert len(kept) == 2 * len(HALF)


def test_the_pretended_gpu_refuses_tensors_of_the_cpu():
    with pretend_gpu() as gpu, pytest.raises(RuntimeError, match="aten::add"):
        torch.ones(2, device=gpu) + torch.ones(2)


def test_a_place_for_kept_states_that_is_none_is_refused_by_name(folder):
    with pytest.raises(ValueError, match="cache_device must be one that torch can use here, got 'nowhere'"):
        load(folder, "cpu", cache="1MB", cache_device="nowhere")
    with pytest.raises(ValueError, match="cache_device is where a cache lies"):
        load(folder, "cpu", cache_device="cpu")
    with pytest.raises(ValueError, match="device must be one that torch can use here, got 'nowhere'"):
        load(folder, "cpu").prepare(HALF, device="nowhere")
