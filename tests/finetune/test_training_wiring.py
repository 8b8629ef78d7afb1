"""Whether what the settings say reaches the losses, the lists, the optimiser and the choice of weights."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune import FinetuneSettings
from blockrank_rerank.finetune.batches import Collator, TrainingList, TrainingLists
from blockrank_rerank.finetune.callbacks import Evaluate
from blockrank_rerank.finetune.data import Candidate, TrainingExample
from blockrank_rerank.finetune.trainer import training_arguments
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.model.checkpoint import Checkpoint
from tests.finetune.runs import settings
from tests.tiny_models import BERT_CONFIG, CONFIG

LISTS = [
    ("heart attack", [("a blocked artery", 2.0, 0.9), ("blood", 1.0, 0.4), ("sugar", 0.0, 0.7)]),
    ("liver", [("stores sugar", 0.0, 0.1), ("who treats it", 1.0, 0.3)]),
]


def load(folder, config, **changes):
    return TrainingModel.load(Checkpoint(model=str(folder)), config, settings(folder, "d", "o", **changes))


def batch(ranker, config, lists, with_answers=False):
    prompt = ranker.engine.prompt
    training_lists = [
        TrainingList(query, [Candidate(*values) for values in candidates], False) for query, candidates in lists
    ]
    return Collator(prompt, prompt, config, with_answers)(training_lists)


def log_softmax(logits):
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


def test_losses_are_those_of_the_definitions_weighted_as_asked(encoder):
    config = replace(BERT_CONFIG, abstention=True)
    ranker = BlockRankReranker.from_pretrained(encoder, config=config, device="cpu", dtype="float32")
    weights = {"contrastive_weight": 2.0, "distillation_weight": 3.0, "abstention_weight": 5.0}
    model = load(encoder, config, temperature=0.7, distillation_temperature=0.2, **weights)
    expected = Counter()
    for query, candidates in LISTS:
        ranked = sorted(ranker.rank(query, [text for text, *_ in candidates]), key=lambda document: document.index)
        grades, teacher = [grade for _, grade, _ in candidates], [score for *_, score in candidates]
        student = log_softmax([document.raw_score / 0.7 for document in ranked])
        earned = sum(grade / max(grades) * math.exp(share) for grade, share in zip(grades, student, strict=True))
        target = log_softmax([score / 0.2 for score in teacher])
        expected["contrastive"] -= math.log(earned) / 2
        expected["distillation"] += sum(math.exp(t) * (t - s) for t, s in zip(target, student, strict=True)) / 2
        for document, grade in zip(ranked, grades, strict=True):
            right = document.probability if grade else 1 - document.probability
            expected["abstention"] -= math.log(right) / len(grades) / 2
    got = {name: float(part.detach()) for name, part in model(**batch(ranker, config, LISTS)).items()}
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert got["loss"] == pytest.approx(sum(weights[f"{name}_weight"] * expected[name] for name in expected), rel=1e-4)


def test_the_next_token_loss_is_that_of_the_answer_ids(decoder):
    """A list of one document hides nothing from anyone, so that a plain causal model gives the same logits."""
    lists = [("heart attack", [("a blocked artery", 1.0, None)]), ("liver", [("stores sugar", 1.0, None)])]
    plain = AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32).eval()
    ranker = BlockRankReranker.from_pretrained(decoder, config=CONFIG, device="cpu")
    model = load(decoder, CONFIG, language_model_weight=0.5, contrastive_weight=0.0)
    answer = torch.tensor(ranker.engine.prompt.encode_answer([0]))
    expected = []
    for asked in lists:
        layout = batch(ranker, CONFIG, [asked], with_answers=True)["layout"]
        assert torch.equal(layout.input_ids[-len(answer) :], answer)
        with torch.inference_mode():
            logits = plain(input_ids=layout.input_ids[None], position_ids=layout.positions[None]).logits[0]
        before = logits[-len(answer) - 1 : -1].log_softmax(-1)
        expected.append(float(-before.gather(1, answer[:, None]).mean()))
    got = model(**batch(ranker, CONFIG, lists, with_answers=True))
    assert float(got["language_model"]) == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert float(got["loss"]) == pytest.approx(sum(expected) / 4, rel=1e-4)


def examples(query):
    candidates = [Candidate("right", 1.0), *[Candidate(f"wrong {number}", 0.0) for number in range(9)]]
    return [TrainingExample(query, tuple(candidates), "file:1")] * 3


def drawn(**changes):
    data = [{"path": "often", "weight": 9.0}, {"path": "seldom", "weight": 1.0}]
    asked = FinetuneSettings(output="o", data=data, documents_per_list=5, **changes)
    lists = TrainingLists([examples("often"), examples("seldom")], asked, 400)
    return [lists[index] for index in range(400)]


def test_collections_are_drawn_by_their_weights():
    counts = Counter(training_list.query for training_list in drawn())
    assert counts["often"] == pytest.approx(360, abs=30)


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.3, 80, 160), (1.0, 400, 400)])
def test_so_many_lists_have_no_relevant_document(share, fewest, most):
    lists = drawn(empty_share=share, abstention_weight=1.0)
    empty = sum(not any(candidate.relevant for candidate in drawn_list.candidates) for drawn_list in lists)
    assert fewest <= empty <= most
    assert all(len(drawn_list.candidates) == 5 for drawn_list in lists)


def test_the_best_weights_are_kept_and_later_worse_ones_are_not(tmp_path, capsys):
    measured, saved = iter([0.5, 0.9, 0.6, 0.9]), []
    measures = {"mean_first_stage_ndcg@10": 0.1, "mean_first_stage_mrr@10": 0.1, "mean_mrr@10": 0.1}
    evaluate = Evaluate(
        lambda: {**measures, "mean_ndcg@10": next(measured)}, lambda: saved.append(step), 1, tmp_path / "h.jsonl"
    )
    for step in (1, 2, 3, 4):
        evaluate.record(step, f"step {step}")
    assert saved == [1, 2]


@pytest.mark.parametrize("rank", [0, 4])
def test_with_lora_adapters_alone_are_trained(rank, decoder):
    model = load(decoder, CONFIG, lora_rank=rank)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in model.named_parameters()}
    assert trained == ({name for name in everything if "lora_" in name} if rank else everything)
    assert trained


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_gradient_checkpointing_is_on_where_asked_for(asked, family, request):
    config = CONFIG if family == "decoder" else BERT_CONFIG
    model = load(request.getfixturevalue(family), config, gradient_checkpointing=asked)
    names = ("is_activation_checkpointing", "is_gradient_checkpointing")  # renamed in Transformers 5.23
    assert next(getattr(model.base, name) for name in names if hasattr(model.base, name)) is asked


def test_the_trainer_hears_of_dtype_rates_and_accumulation(tmp_path):
    asked = settings("m", "d", "o", bf16=True, accumulation=3, learning_rate=2e-3, warmup_share=0.5, weight_decay=0.1)
    heard = training_arguments(asked, tmp_path)
    assert heard.bf16
    assert (heard.gradient_accumulation_steps, heard.per_device_train_batch_size) == (3, asked.lists_per_step)
    assert (heard.learning_rate, heard.weight_decay, heard.warmup_steps) == (2e-3, 0.1, asked.steps // 2)
    assert heard.ddp_timeout_delta.days == 1  # one process measures, and the others wait
