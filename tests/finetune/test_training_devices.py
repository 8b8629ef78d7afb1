"""Losses on a GPU are those on the CPU, wherever tensors are put; the GPU is pretended and has no gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune.batches import Collator, TrainingList
from blockrank_rerank.finetune.data import Candidate
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.checkpoint import Checkpoint
from tests.finetune.runs import settings
from tests.pretend_gpu import pretend_gpu
from tests.tiny_models import BERT_CONFIG, CONFIG

LISTS = [
    TrainingList("heart attack", [Candidate("a blocked artery", 2.0, 0.9), Candidate("blood", 0.0, None)], False),
    TrainingList("liver", [Candidate("stores sugar", 0.0, 0.1), Candidate("who treats it", 0.0, 0.3)], False),
]
ENCODER_LOSSES = {"contrastive_weight": 1.0, "distillation_weight": 1.0, "abstention_weight": 1.0}
DECODER_LOSSES = {"contrastive_weight": 1.0, "language_model_weight": 1.0}


def losses(folder, config, device, weights):
    asked = settings(folder, "d", "o", **weights)
    model = TrainingModel.load(Checkpoint(model=str(folder)), config, asked).to(device)
    prompt = BlockRankReranker.from_pretrained(folder, config=config, device="cpu").engine.prompt
    batch = Collator(prompt, prompt, config, "language_model_weight" in weights)(LISTS)
    return {name: pytest.approx(float(part), rel=1e-5) for name, part in model(**batch).items()}


@pytest.mark.parametrize(
    ("model", "config", "weights"),
    [
        ("encoder", replace(BERT_CONFIG, abstention=True), ENCODER_LOSSES),
        ("decoder", CONFIG, {"contrastive_weight": 1.0}),
        ("decoder", CONFIG, DECODER_LOSSES),
    ],
)
def test_losses_on_a_gpu_are_those_on_the_cpu(model, config, weights, request):
    folder = request.getfixturevalue(model)
    expected = losses(folder, config, "cpu", weights)
    with pretend_gpu() as gpu:
        assert losses(folder, config, gpu, weights) == expected
    assert {name.removesuffix("_weight") for name in weights} <= set(expected)
