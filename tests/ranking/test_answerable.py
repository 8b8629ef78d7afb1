"""What a ranking says of its list as a whole."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankConfig, BlockRankReranker, Ranking
from blockrank_rerank.finetune.training_model import training_config
from blockrank_rerank.model.scores import answerable
from tests.finetune.runs import settings

NUMBERS = (0.5, 1.0, 2.0, -3.0)
QUERY = "what treats anemia"
DOCUMENTS = [
    "Iron supplements treat anemia.",
    "A kettle boils water.",
    "Anemia is a lack of healthy red blood cells.",
    "Fleas live for about three months.",
]


def sigmoid(log_odds):
    return 1 / (1 + math.exp(-log_odds))


def test_the_best_score_and_its_lead_over_the_next_nine_count():
    raw = [1.0, 4.0, *[0.5] * 8, -9.0]
    expected = sigmoid(0.5 + 4.0 + 2 * (4.0 - (1.0 + 8 * 0.5) / 9))
    assert answerable(raw, NUMBERS) == pytest.approx(expected, abs=1e-6)
    assert answerable([*raw, -20.0], NUMBERS) == answerable(raw, NUMBERS)


@pytest.mark.parametrize("raw", [[2.0], [2.0, 1.0]])
def test_documents_that_a_short_list_lacks_count_as_usual_ones(raw):
    assert answerable(raw, NUMBERS) == answerable(raw + [-3.0] * (10 - len(raw)), NUMBERS)


def test_extreme_scores_give_probabilities():
    assert answerable([1e6], NUMBERS) == 1.0
    assert answerable([-1e6], NUMBERS) == 0.0


@pytest.fixture(scope="module")
def ranker():
    return BlockRankReranker.from_pretrained(device="cpu", dtype="float32")


def test_a_list_without_the_answer_is_less_likely_to_hold_one(ranker):
    whole, without = ranker.rank(QUERY, DOCUMENTS), ranker.rank(QUERY, DOCUMENTS[1:])
    assert isinstance(whole, list)
    assert 0.5 < whole.answerable <= 1
    assert 0 <= without.answerable < whole.answerable


def test_it_is_of_the_whole_list_whatever_limits_leave(ranker):
    whole = ranker.rank(QUERY, DOCUMENTS).answerable
    assert ranker.rank(QUERY, DOCUMENTS, top_k=1).answerable == whole
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=1.0) == []
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=1.0).answerable == whole
    assert [found.answerable for found in ranker.rank_batch([(QUERY, DOCUMENTS)] * 2)] == [whole] * 2


def test_neither_the_order_nor_copies_nor_kept_states_change_it(ranker):
    whole = ranker.rank(QUERY, DOCUMENTS).answerable
    assert ranker.rank(QUERY, DOCUMENTS[::-1]).answerable == pytest.approx(whole, abs=1e-5)
    assert ranker.rank(QUERY, DOCUMENTS + DOCUMENTS[:1]).answerable == pytest.approx(whole, abs=1e-5)
    assert ranker.rank(QUERY, ranker.prepare(DOCUMENTS)).answerable == pytest.approx(whole, abs=1e-5)


def test_nothing_is_said_where_not_everything_was_read_or_nothing_was_learnt(ranker):
    assert ranker.rank(QUERY, []).answerable is None
    assert BlockRankReranker.from_pretrained(device="cpu", prune={1: 2}).rank(QUERY, DOCUMENTS).answerable is None
    assert ranker.with_config(answerability=None).rank(QUERY, DOCUMENTS).answerable is None
    late = ranker.rank(QUERY, DOCUMENTS * 30, deadline_ms=0.001)
    assert late.answerable is None


def test_a_ranking_is_copied_and_pickled_whole(ranker):
    ranking = ranker.rank(QUERY, DOCUMENTS)
    for again in (pickle.loads(pickle.dumps(ranking)), copy.copy(ranking), copy.deepcopy(ranking)):
        assert isinstance(again, Ranking)
        assert again == ranking
        assert again.answerable == ranking.answerable


def test_states_do_not_depend_on_it(ranker):
    assert ranker.with_config(answerability=None).engine.fingerprint == ranker.engine.fingerprint


def test_training_forgets_what_was_learnt_of_other_scores(tmp_path):
    config = BlockRankConfig(scoring_layer=1, answerability=NUMBERS)
    assert training_config(config, settings("m", "d", tmp_path)).answerability is None


def test_settings_keep_the_numbers(tmp_path):
    config = BlockRankConfig(scoring_layer=1, answerability=list(NUMBERS))
    config.save(tmp_path)
    assert BlockRankConfig.load(tmp_path) == config
    assert config.answerability == NUMBERS


@pytest.mark.parametrize("numbers", [(1.0,) * 3, (1.0, 2.0, 3.0, math.nan), (True,) * 4, ("1",) * 4, 1.0])
def test_other_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="answerability must be"):
        replace(BlockRankConfig(scoring_layer=1), answerability=numbers)
