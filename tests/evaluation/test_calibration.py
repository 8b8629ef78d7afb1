"""Probabilities against judgements."""

from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest

import blockrank_rerank.evaluation.calibration as calibration_module
from blockrank_rerank.evaluation.calibration import (
    area_under_curve,
    calibration,
    expected_calibration_error,
    measure_calibration,
    reliability,
)
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Collection


def array(*values):
    return np.array(values, dtype=float)


def test_documents_of_like_probability_share_a_bin_and_one_is_in_the_last():
    bins = reliability(array(0.11, 0.19, 0.95, 1.0), array(0, 1, 1, 1))
    assert [astuple(each) for each in bins] == [pytest.approx((0.15, 0.5, 2)), pytest.approx((0.975, 1.0, 2))]


def test_the_error_is_the_mean_distance_weighted_by_size():
    found = expected_calibration_error(array(0.1, 0.1, 0.1, 0.9), array(0, 0, 1, 0))
    assert found == pytest.approx(3 / 4 * (1 / 3 - 0.1) + 1 / 4 * 0.9)
    assert expected_calibration_error(array(0.0, 1.0), array(0, 1)) == 0


def test_the_area_counts_pairs_and_ties_half():
    assert area_under_curve([0.9, 0.5], [0.5, 0.1]) == pytest.approx((3 + 0.5) / 4)
    assert area_under_curve([1.0], [0.0]) == 1


def ranked(*probabilities):
    return [SimpleNamespace(index=i, probability=p) for i, p in enumerate(probabilities)]


def test_lists_pass_by_their_best_probability_and_an_empty_one_does_not():
    found = calibration([ranked(0.8, 0.2), ranked(0.4)], [ranked(0.2), []], [[True, False], [True]])
    assert [(each.threshold, each.with_answer, each.without_answer) for each in found.passes] == [
        (0.1, 1.0, 0.5),
        (0.2, 1.0, 0.5),
        (0.3, 1.0, 0.0),
        (0.5, 0.5, 0.0),
        (0.7, 0.5, 0.0),
    ]
    assert (found.queries, found.documents, found.relevant) == (2, 4, 2)
    assert found.area == 1
    assert found.error_without_answer == pytest.approx(0.2)


class Oracle:
    """Knows the relevant texts, and keeps what it was asked."""

    def __init__(self):
        self.lists = []

    def fitting_queries(self, queries):
        return dict(queries)

    def rank_batch(self, requests, **_):
        self.lists.append(requests)
        return [
            [SimpleNamespace(index=i, probability=float("yes" in text)) for i, text in enumerate(texts)]
            for _, texts in requests
        ]


def test_every_query_is_ranked_with_its_relevant_documents_and_without_them():
    collection = Collection(
        queries={"q": "query"}, qrels={"q": {"a": 2, "far": 1, "gone": 2, "bad": 0}}, without_positive=()
    )
    corpus = {"a": "yes", "far": "weak", "bad": "no", "c": "no"}
    oracle, told = Oracle(), []
    task = Task(collection, corpus, {"q": {"c": 3.0, "far": 2.0, "bad": 1.0}})
    found = measure_calibration(oracle, task, 2, 0, lambda items, tokens: told.append(items))
    full, without = (sorted(requests[0][1]) for requests in oracle.lists)
    assert full == ["no", "no", "weak", "yes"]
    assert without == ["no", "no", "weak"]
    assert (found.documents, found.relevant, found.error, found.area) == (7, 1, 0, 1)


def test_a_copy_of_a_relevant_document_is_none_of_a_list_without_an_answer():
    collection = Collection(queries={"q": "query"}, qrels={"q": {"a": 1}}, without_positive=())
    oracle = Oracle()
    task = Task(collection, {"a": "yes", "copy": "yes", "c": "no"}, {"q": {"copy": 2.0, "c": 1.0}})
    found = measure_calibration(oracle, task, 1, 0)
    assert [sorted(requests[0][1]) for requests in oracle.lists] == [["no", "yes", "yes"], ["no"]]
    assert (found.relevant, found.error) == (2, 0)


def test_relevant_documents_join_the_candidates_in_an_order_of_the_seed_alone(monkeypatch):
    monkeypatch.setattr(calibration_module, "shuffled", lambda run, seed: run)
    names = [f"yes {number}" for number in range(9)]
    collection = Collection(queries={"q": "query"}, qrels={"q": dict.fromkeys(names, 1)}, without_positive=())
    oracle = Oracle()
    measure_calibration(oracle, Task(collection, {name: name for name in names}, {}), 1, 0)
    assert oracle.lists[0][0][1] == names
