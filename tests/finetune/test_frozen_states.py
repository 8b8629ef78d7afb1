"""States under a frozen encoder are read once, and are those of a pass over the whole pack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from blockrank_rerank.finetune.frozen_states import FrozenStates
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.text.prompt import EncodedRequest
from tests.finetune.runs import settings
from tests.tiny_models import BERT_CONFIG

FIRST = EncodedRequest([2], [[11, 12, 13], [14, 15]], [21, 22, 3], [False, False])
SECOND = EncodedRequest([2], [[14, 15], [16, 17, 18, 19], [11, 12, 13]], [23, 3], [False] * 3)
OTHER_INSTRUCTION = EncodedRequest([2, 5], [[14, 15]], [23, 3], [False])


def model(folder, config=BERT_CONFIG, **changes) -> TrainingModel:
    return TrainingModel.load(Checkpoint(model=str(folder)), config, settings("m", "d", "o", **changes))


class Counted:
    """A backbone that notes the blocks of every pass."""

    def __init__(self, backbone):
        self._backbone, self.passes = backbone, []

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def final_states(self, layout):
        self.passes.append(layout.num_tokens)
        return self._backbone.final_states(layout)


@pytest.mark.parametrize("max_bytes", [1 << 20, 300], ids=["remembered", "forgotten"])
def test_states_are_those_of_the_whole_pack(encoder, max_bytes):
    backbone = model(encoder).backbone.eval()
    frozen = FrozenStates(backbone, max_bytes)
    for requests in ([FIRST], [SECOND, FIRST], [OTHER_INSTRUCTION, SECOND]):
        layout = build_layout(requests, BERT_CONFIG.query_offset)
        with torch.no_grad():
            expected = backbone.final_states(layout)
        assert torch.allclose(frozen.of(layout), expected, atol=2e-3, rtol=2e-3)


def test_each_block_is_read_once(encoder):
    backbone = Counted(model(encoder).backbone)
    frozen = FrozenStates(backbone, 1 << 20)
    packs = [[FIRST], [FIRST, FIRST], [SECOND], [OTHER_INSTRUCTION]]
    for requests in packs:
        frozen.of(build_layout(requests, BERT_CONFIG.query_offset))
    new_of_second, all_of_other = [2] * 1 + [16, 17, 18, 19, 23, 3], OTHER_INSTRUCTION.num_tokens
    assert backbone.passes == [FIRST.num_tokens, len(new_of_second), all_of_other]


def test_a_frozen_training_reads_documents_once_and_has_the_losses_of_one_that_reads_them_always(encoder, monkeypatch):
    frozen = model(encoder, freeze_backbone=True)
    layout = build_layout([FIRST, SECOND], BERT_CONFIG.query_offset)
    expected = frozen.backbone.document_lse(layout)
    for _ in range(2):
        for one, other in zip(frozen._document_lse(layout), expected, strict=True):
            assert torch.allclose(one.documents, other.documents, atol=2e-2)
    monkeypatch.setattr(type(frozen.backbone), "final_states", None)
    frozen._document_lse(layout)  # reads nothing


def test_a_frozen_training_in_bf16_has_the_losses_of_one_in_fp32(encoder):
    frozen = model(encoder, freeze_backbone=True)
    layout = build_layout([FIRST, SECOND], BERT_CONFIG.query_offset)
    expected = frozen.backbone.document_lse(layout)
    with torch.autocast("cpu", torch.bfloat16):  # as the Trainer does for bf16: true
        found = frozen._document_lse(layout)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.documents, other.documents, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "config"),
    [({}, BERT_CONFIG), ({"freeze_backbone": True}, replace(BERT_CONFIG, query_documents_from_layer=1))],
    ids=["an encoder that learns", "queries that see documents earlier"],
)
def test_states_that_change_are_not_remembered(encoder, changes, config):
    assert model(encoder, config, **changes)._frozen is None


def test_a_cache_that_is_no_size_is_refused():
    with pytest.raises(ValueError, match="cache must be a number of bytes above 0"):
        settings("m", "d", "o", cache="much")
