"""Feed-forward parts in chunks: the same numbers, smaller tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig

from blockrank_rerank.model import devices
from blockrank_rerank.model.checkpoint import Checkpoint
from tests.tiny_models import FAMILIES, save_model

ROWS, WIDTH = 7, 48
TOKENS = 30


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    folder = save_model(tmp_path, request.param)
    checkpoint = Checkpoint(model=str(folder))
    return checkpoint.truncated_model(AutoConfig.from_pretrained(folder), 2, torch.float64, "eager")


@pytest.fixture
def chunks(monkeypatch):
    def set_rows(rows):
        nbytes = rows * WIDTH * torch.float64.itemsize
        monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(chunk_bytes=nbytes))

    return set_rows


def feed_forward_rows(model, run):
    """Rows that the products into and out of the wide activation see."""
    rows = []
    wide = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and WIDTH in (m.in_features, m.out_features)]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1])) for m in wide]
    result = run()
    for hook in hooks:
        hook.remove()
    return rows, result


def test_chunks_change_neither_states_nor_gradients(model, chunks):
    ids = torch.randint(3, 20, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    model.requires_grad_(True)
    results, counts = [], []
    for rows in (TOKENS, ROWS):
        chunks(rows)
        counts.append(feed_forward_rows(model, lambda: model(input_ids=ids).last_hidden_state))
        results.append((counts[-1][1], torch.autograd.grad(counts[-1][1].square().sum(), model.parameters())))
    assert set(counts[0][0]) == {TOKENS}
    assert set(counts[1][0]) == {ROWS, TOKENS % ROWS}
    # Some families compute norms in fp32, whatever the dtype of the weights.
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=1e-6)
    for whole, parts in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


def test_a_copied_model_computes_with_its_own_layers(model, chunks):
    chunks(ROWS)
    other = copy.deepcopy(model)
    rows, _ = feed_forward_rows(other, lambda: other(input_ids=torch.full((1, TOKENS), 3)))
    assert set(rows) == {ROWS, TOKENS % ROWS}
