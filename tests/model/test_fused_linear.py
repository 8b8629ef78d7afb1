"""Linear layers with bias and activation inside the product: the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig

from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.devices import BF16_UNITS, fast_bf16, resolve_dtype
from blockrank_rerank.model.linear import FusedLinear, can_fuse, fuse_linear_layers
from tests.tiny_models import FAMILIES, save_model

CPU = torch.device("cpu")
IDS = torch.randint(3, 20, (1, 30), generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch has no oneDNN",
)


def load(folder, dtype):
    checkpoint = Checkpoint(model=str(folder))
    return checkpoint.truncated_model(AutoConfig.from_pretrained(folder), 2, dtype, "eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_layers_give_the_same_states(family, tmp_path):
    model = load(save_model(tmp_path, family), torch.float32)
    plain = copy.deepcopy(model)
    fuse_linear_layers(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(
            model(input_ids=IDS).last_hidden_state, plain(input_ids=IDS).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def test_every_layer_with_a_bias_is_fused_and_a_berts_activation_is_in_it(tmp_path):
    model = load(save_model(tmp_path, "bert"), torch.float32)
    fuse_linear_layers(model)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert linear
    assert all(type(module) is FusedLinear for module in linear)
    assert [module.activation for module in linear].count("gelu") == 2  # one for each layer


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bf16 on this CPU")
def test_half_precision_is_no_worse_than_unfused(tmp_path):
    folder = save_model(tmp_path, "bert")
    states = []
    for dtype, fused in ((torch.float64, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        model = load(folder, dtype)
        if fused:
            fuse_linear_layers(model)
        with torch.inference_mode():
            states.append(model(input_ids=IDS).last_hidden_state.double())
    exact, plain, fused = states
    assert (fused - exact).abs().mean() <= 1.1 * (plain - exact).abs().mean()


@pytest.mark.parametrize("unit", BF16_UNITS)
def test_half_precision_is_chosen_and_fused_where_a_cpu_has_a_unit_for_it(monkeypatch, unit):
    for name, probe in BF16_UNITS.items():
        monkeypatch.setattr(torch.cpu, probe, lambda here=name == unit: here, raising=False)
    assert resolve_dtype(None, CPU) == torch.bfloat16
    assert unit in fast_bf16(CPU).reason
    assert can_fuse(CPU, torch.bfloat16)
    assert not can_fuse(CPU, torch.float32)
    assert not can_fuse(torch.device("cuda"), torch.bfloat16)


def test_a_cpu_without_such_a_unit_and_a_torch_that_cannot_tell_stay_in_fp32(monkeypatch):
    for probe in BF16_UNITS.values():
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert resolve_dtype("auto", CPU) == torch.float32
    assert not can_fuse(CPU, torch.bfloat16)
    for probe in BF16_UNITS.values():
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert resolve_dtype(None, CPU) == torch.float32
