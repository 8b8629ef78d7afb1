from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from blockrank_rerank.model.layout import build_layout
from blockrank_rerank.model.scores import RULES, raw_score, scores
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME, ScoringHead
from blockrank_rerank.text.prompt import EncodedRequest
from tests.tiny_models import BERT_CONFIG

ABSTAINS = replace(BERT_CONFIG, abstention=True)
SIZES = [3, 1, 5]


def pack(query: int = 4):
    documents = [[7] * size for size in SIZES]
    request = EncodedRequest(instruction=[1], documents=documents, query=[8] * query, truncated=[False] * len(SIZES))
    layout = build_layout([request], 1)
    states = torch.randn(layout.num_tokens, 8, generator=torch.Generator().manual_seed(1))
    return states, layout


def random_head(heads: int = 2) -> ScoringHead:
    head = ScoringHead(8, heads)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return head


def by_hand(head: ScoringHead, states: torch.Tensor, layout, signals: list[int]) -> torch.Tensor:
    """Raw scores, one signal, head and document at a time, from the words of the class."""
    (request,) = layout.requests
    scores = torch.zeros(len(SIZES))
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        weights = torch.stack([states[s] @ head.signal_weight[h] for s in signals]).softmax(0)
        for weight, s in zip(weights, signals, strict=True):
            query = F.normalize((head.query.weight @ states[s])[part], dim=0) / head.log_temperature[h].exp()
            for n, (start, end) in enumerate(request.document_offsets.unfold(0, 2, 1).tolist()):
                keys = [F.normalize((head.key.weight @ states[t])[part], dim=0) for t in range(start, end)]
                lse = torch.stack([query @ key for key in keys]).logsumexp(0)
                scores[n] += weight * (lse + head.length_weight[h] * torch.tensor(float(end - start)).log()) / 2
    return scores


def test_the_raw_score_is_the_weighted_mean_over_signals_and_the_mean_over_heads():
    states, layout = pack()
    head = random_head()
    (lse,) = head(states, layout, BERT_CONFIG, "reference")
    signals = range(*layout.requests[0].query)
    torch.testing.assert_close(raw_score(lse.documents), by_hand(head, states, layout, list(signals)))


def test_an_untrained_head_weighs_all_signals_alike():
    states, layout = pack()
    (lse,) = ScoringHead(8)(states, layout, BERT_CONFIG, "reference")
    keys, queries = F.normalize(states, dim=-1), F.normalize(states[slice(*layout.requests[0].query)], dim=-1)
    offsets = layout.requests[0].document_offsets.tolist()
    expected = [((queries @ keys[start:end].T / 0.1).exp().mean(1).log()).mean() for start, end in pairwise(offsets)]
    torch.testing.assert_close(raw_score(lse.documents), torch.stack(expected))


@pytest.mark.parametrize("signals", ["all", 2])
def test_abstaining_scores_one_more_block_and_leaves_the_documents_as_they_are(signals):
    states, layout = pack()
    head = random_head()
    config = replace(BERT_CONFIG, signal_tokens=signals)
    (plain,) = head(states, layout, config, "reference")
    (with_nothing,) = head(states, layout, replace(config, abstention=True), "reference")
    assert plain.nothing is None
    assert with_nothing.nothing.shape == plain.documents.shape[:-1]
    torch.testing.assert_close(with_nothing.documents, plain.documents, rtol=0, atol=0)


def test_probabilities_do_not_depend_on_the_other_documents():
    states, layout = pack()
    head = random_head()
    (lse,) = head(states, layout, ABSTAINS, "reference")
    relevance, nothing = RULES["softmax_of_mean"].relevance, lse.nothing[..., None]
    together = relevance(lse.documents, nothing, head.sharpness)
    parts = [lse.documents[..., n : n + 1] for n in range(len(SIZES))]
    alone = [relevance(part, nothing, head.sharpness) for part in parts]
    torch.testing.assert_close(together, torch.cat(alone))


def test_probabilities_are_as_sharp_as_the_head_says():
    states, layout = pack()
    head = random_head()
    (lse,) = head(states, layout, ABSTAINS, "reference")
    found = scores(lse, ABSTAINS, head.sharpness)
    odds = torch.tensor(found.probability).logit()
    expected = head.log_sharpness.exp() * (torch.tensor(found.raw) - head.nothing.mean())
    torch.testing.assert_close(odds, expected, rtol=1e-4, atol=1e-4)
    assert (found.share, found.raw) == (scores(lse, ABSTAINS, 1.0).share, scores(lse, ABSTAINS, 1.0).raw)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rule", RULES)
def test_under_every_rule_probabilities_are_the_odds_against_nothing_times_the_sharpness(rule, sharpness):
    documents, nothing = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.5])
    found = RULES[rule].relevance(documents[None, None], nothing[None, None], sharpness)
    torch.testing.assert_close(found.logit(), sharpness * (documents - nothing))


def test_a_head_of_before_sharpness_was_learnt_gives_the_odds_that_it_gave(tmp_path):
    head = random_head()
    head.save(tmp_path)
    path = tmp_path / SCORING_HEAD_NAME
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "log_sharpness"}, path)
    old = ScoringHead.load(path, 8)
    assert old.sharpness == 1
    torch.testing.assert_close(old.nothing, head.nothing)


def test_calibrating_moves_nothing_but_the_two_numbers_of_the_odds():
    states, layout = pack()
    head = random_head()
    states.requires_grad_()
    (lse,) = head(states, layout, ABSTAINS, "reference")
    rule = RULES["softmax_of_mean"]
    rule.relevance(lse.documents.detach(), lse.nothing[..., None], head.sharpness).sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    for own in (gradients.pop("nothing"), gradients.pop("log_sharpness")):
        assert own is not None
        assert own.abs().sum() > 0
    others = gradients.values()
    assert all(gradient is None or not gradient.any() for gradient in [*others, states.grad])
