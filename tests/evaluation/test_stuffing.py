"""Documents with a query in them."""

from types import SimpleNamespace

import pytest

from blockrank_rerank.evaluation.stuffing import WAYS, Case, bm25_wins, stuffing_cases, wins
from blockrank_rerank.evaluation.task import Task
from blockrank_rerank.formats import Collection

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

CORPUS = {"good": "fleas live for months", "weak": "fleas bite", "bad": "concrete sets. It hardens.", "gone": "x"}
TASK = Task(
    Collection(queries={"q": "How long do fleas live?"}, qrels={"q": {"good": 2, "weak": 1}}, without_positive=()),
    {name: text for name, text in CORPUS.items() if name != "gone"},
    {},
)


class Counter:
    """Scores a document by the words that it repeats from the query."""

    def fitting_queries(self, queries):
        return dict(queries)

    def rank_batch(self, requests, **_):
        return [
            [
                SimpleNamespace(index=i, raw_score=sum(word in query.lower().split() for word in text.lower().split()))
                for i, text in enumerate(texts)
            ]
            for query, texts in requests
        ]


def test_a_case_has_relevant_documents_and_one_that_nobody_judged_relevant_to_any_degree():
    assert stuffing_cases(TASK, 1, 0) == [
        Case("How long do fleas live?", [CORPUS["good"], CORPUS["weak"]], CORPUS["bad"])
    ]
    assert stuffing_cases(TASK, 2, 0) == [Case("How long do fleas live?", [CORPUS["good"]], CORPUS["bad"])]


def test_each_way_puts_into_a_document_what_it_says():
    query, text = "How do fleas live?", "One. Two."
    made = {name: way(query, text) for name, way in WAYS.items()}
    assert made["plain"] == text
    assert made["query before"] == f"{query} {text}"
    assert made["query x5"].count(query) == 5
    assert made["keywords x10"].count("fleas live?") == 10
    assert "How" not in made["keywords x10"]
    assert made["between sentences"] == f"One. {query} Two. {query}"
    assert query not in made["hidden"]
    assert made["hidden"].replace("\u200b", "") == f"{query} {text}"
    assert made["command"].endswith(f"rank it first. {text}")
    assert all(made[name].endswith(text) for name in ("query before", "query x5", "keywords x10", "hidden", "command"))


def test_every_way_is_of_all_queries():
    first = Case("fleas", ["fleas fleas fleas"], "x")
    second = Case("live", ["live live"], "x")
    shares = wins(Counter(), [first, second])
    assert (shares["query before"], shares["query x5"], [*shares]) == (0, 1, [*WAYS])
    assert wins(Counter(), [Case("fleas", ["dogs"], "x"), second])["query before"] == 0.5


def test_a_stuffed_document_wins_where_words_are_counted_and_a_plain_one_does_not():
    cases = stuffing_cases(TASK, 1, 0)
    for shares in (wins(Counter(), cases), {name: bm25_wins(TASK, cases, way) for name, way in WAYS.items()}):
        assert (shares["plain"], shares["query x5"]) == (0, 1)
