"""Losses against their definitions."""

from __future__ import annotations

import pytest
import torch

from blockrank_rerank.finetune import losses


def test_contrastive_loss_with_one_positive_is_its_negative_log_probability():
    logits = torch.tensor([1.0, 2.0, 0.5])
    loss = losses.contrastive(logits, torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(loss, -logits.log_softmax(-1)[1])


def test_contrastive_loss_with_equal_grades_is_the_released_formula():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0))
    grades = torch.tensor([2.0, 0.0, 2.0, 0.0, 0.0, 2.0])
    expected = -(torch.logsumexp(logits[grades > 0], -1) - torch.logsumexp(logits, -1))
    torch.testing.assert_close(losses.contrastive(logits, grades), expected)


def test_a_lower_grade_earns_less_than_a_higher_one():
    logits = torch.tensor([3.0, 0.0, 0.0])
    high = losses.contrastive(logits, torch.tensor([2.0, 1.0, 0.0]))
    low = losses.contrastive(logits, torch.tensor([1.0, 2.0, 0.0]))
    assert high < low


def test_distillation_is_zero_where_student_and_teacher_agree_and_positive_elsewhere():
    teacher = torch.tensor([0.9, 0.5, 0.1])
    assert losses.distillation(teacher / 0.05, teacher, 0.05) == pytest.approx(0, abs=1e-6)
    assert losses.distillation(-teacher / 0.05, teacher, 0.05) > 1


@pytest.mark.parametrize("reduction", ["softmax_of_mean", "mean_of_softmax"])
def test_abstention_pulls_relevant_documents_above_nothing_and_others_below(reduction):
    lse = torch.zeros(2, 3, 4, requires_grad=True)
    nothing = torch.zeros(2, 3, 1, requires_grad=True)
    grades = torch.tensor([0.0, 2.0, 0.0, 0.0])
    losses.abstention(lse, nothing, grades, reduction, 1.0).backward()
    assert (lse.grad.sum((0, 1)) > 0).tolist() == [True, False, True, True]
    assert nothing.grad.sum() < 0


def test_abstention_of_a_list_without_a_relevant_document_has_a_gradient():
    nothing = torch.zeros(1, 1, 1, requires_grad=True)
    losses.abstention(torch.zeros(1, 1, 3), nothing, torch.zeros(3), "softmax_of_mean", 1.0).backward()
    assert nothing.grad.item() < 0


def test_list_logits_are_shares_over_the_temperature_for_the_papers_score():
    lse = torch.randn(2, 4, 5)
    expected = lse.softmax(-1).mean((0, 1)) / 0.05
    torch.testing.assert_close(losses.list_logits(lse, "mean_of_softmax", 0.05), expected)
