"""A ranking takes no operation that torch does not have for Apple's GPUs; the GPU is pretended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockrank_rerank import BlockRankReranker
from tests import pretend_gpu as pretended
from tests.engine.test_devices import WAYS
from tests.states.test_prepared import save_family, save_ranker
from tests.tiny_models import BERT_CONFIG

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"


@pytest.fixture(scope="module")
def operations():
    """Torch's own table of operations, by name."""
    return {entry["func"].partition("(")[0]: entry for entry in yaml.safe_load(TABLE.read_text(encoding="utf-8"))}


def exists_for_mps(operations, name):
    entry = operations[name]
    if "structured_delegate" in entry:
        return exists_for_mps(operations, entry["structured_delegate"])
    kinds = {kind.strip() for kinds in entry.get("dispatch", {"Composite": ""}) for kind in kinds.split(",")}
    return "MPS" in kinds or any(kind.startswith("Composite") for kind in kinds)


class Parts(TorchDispatchMode):
    """Names of operations that run while it is entered, of the parts of those that consist of others."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            self.names.add(".".join(filter(None, (func._schema.name[len("aten::") :], func._schema.overload_name))))
            out = func(*args, **kwargs)
            self.dtypes |= {leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
        return out


@pytest.fixture
def computed(monkeypatch):
    """What runs on a pretended GPU of Apple's."""
    parts, on_gpu = Parts(), pretended.on_gpu

    def recorded(name, func, args, kwargs):
        if name == "scaled_dot_product_attention":  # which has parts of its own on every kind of device
            return on_gpu(name, func, args, kwargs)
        with parts:
            return on_gpu(name, func, args, kwargs)

    monkeypatch.setattr(pretended, "NAME", "mps:0")
    monkeypatch.setattr(pretended, "on_gpu", recorded)
    return parts


@pytest.fixture(scope="module", params=["independent", "llama", "gemma2"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    if request.param == "independent":
        return save_ranker(folder, "bert", BERT_CONFIG)
    saved = save_family(folder, request.param)
    BlockRankReranker.from_pretrained(saved).query_free().config.save(saved)
    return saved


@pytest.mark.parametrize("way", ["rank", "explained", "pruned", "prepared in 8 bits"])
def test_all_that_a_ranking_takes_is_there_for_apples_gpus(folder, way, computed, operations):
    expected = WAYS[way](folder, "cpu")
    with pretended.pretend_gpu() as gpu:
        assert WAYS[way](folder, gpu) == expected
    assert "addmm" in computed.names or "mm" in computed.names
    assert [name for name in sorted(computed.names) if not exists_for_mps(operations, name)] == []
    assert torch.float64 not in computed.dtypes
