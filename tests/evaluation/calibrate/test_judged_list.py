"""Judged lists of a collection."""

from __future__ import annotations

import pytest

from blockrank_rerank.evaluation.calibrate.judged_list import lists_of_task
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Collection

CORPUS = {"a": "fleas", "copy": " fleas ", "other": "dogs", "lower": {"title": "cats", "text": "too"}}


@pytest.mark.parametrize("found", [["a", "copy", "other", "lower"], ["copy", "other", "lower"]])
def test_a_copy_of_a_relevant_document_is_relevant_whether_the_first_stage_found_that_or_not(found):
    collection = Collection(queries={"q": "?"}, qrels={"q": {"a": 2, "lower": 1, "absent": 2}}, without_positive=())
    task = Task(collection, CORPUS, {"q": dict.fromkeys(found, 1.0)})
    [judged] = lists_of_task(task, depth=9, min_relevance=2)
    assert dict(zip(found, judged.relevant, strict=True)) == {name: name in ("a", "copy") for name in found}
