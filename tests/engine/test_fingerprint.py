"""Fingerprints tell models apart, the same on every device, without copying the weights of a large one to the host."""

from __future__ import annotations

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine import fingerprint as fingerprints
from blockrank_rerank.states import digest
from blockrank_rerank.states.digest import tensor_sums
from tests.pretend_gpu import pretend_gpu
from tests.tiny_models import CONFIG, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(saved)
    return saved


def fingerprint(folder, device="cpu", dtype="float32"):
    return BlockRankReranker.from_pretrained(folder, device=device, dtype=dtype, attention="sdpa").engine.fingerprint


def sums(tensor):
    return b"".join(tensor_sums("weight", tensor))


@pytest.mark.parametrize("largest", [0, 1 << 30], ids=["large", "small"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_has_one_fingerprint_on_every_device(folder, monkeypatch, largest, dtype):
    monkeypatch.setattr(fingerprints, "LARGEST_COPIED", largest)
    expected = fingerprint(folder, dtype=dtype)
    with pretend_gpu() as gpu:
        assert fingerprint(folder, gpu, dtype) == expected


def test_what_is_copied_of_a_large_model_is_little(folder, monkeypatch):
    monkeypatch.setattr(fingerprints, "LARGEST_COPIED", 0)
    copied, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(tensor.nbytes) or cpu(tensor))
    engine = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32").engine
    assert engine.fingerprint
    assert sum(copied) == 8 * len([*engine.backbone.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64])
def test_any_change_of_a_weight_changes_its_sums(monkeypatch, dtype):
    monkeypatch.setattr(digest, "SUMMED", 4)
    weight = torch.arange(50, dtype=torch.float32).to(dtype)
    seen = {sums(weight), sums(weight.reshape(5, 10))}
    for index in range(50):
        changed = weight.clone()
        changed[index] += 1
        seen.add(sums(changed))
    for one, other in [(0, 1), (0, 20), (3, 49)]:
        swapped = weight.clone()
        swapped[[one, other]] = weight[[other, one]]
        seen.add(sums(swapped))
    assert len(seen) == 2 + 50 + 3
    assert sums(weight) == sums(weight.clone())


def test_sums_of_a_view_and_of_nothing_are_those_of_its_values():
    weight = torch.randn(8, 6)
    assert sums(weight.T) == sums(weight.T.contiguous())
    assert sums(weight.flatten()[1:]) == sums(weight.flatten()[1:].clone())
    assert sums(torch.empty(0, 3)) == b"weight torch.float32 [0, 3]" + bytes(8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_signs_do_not_cancel_in_the_sums(dtype):
    weights = torch.randn(64, 64).to(dtype)
    flipped = weights.clone()
    flipped[:, [1, 3]] *= -1
    assert sums(weights) != sums(flipped)
    flipped = weights.clone()
    flipped[5, 7], flipped[9, 11] = -flipped[5, 7], -flipped[9, 11]
    assert sums(weights) != sums(flipped)
