"""What callers have for documents is ranked, and every result says which one it is."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from uuid import UUID

import numpy as np
import pytest

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.text.document import document_id, plain_document
from tests.tiny_models import CONFIG, save_model

QUERY = "what treats a heart attack"
TEXTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery is a heart attack"]

BeirDoc = namedtuple("BeirDoc", "doc_id text title")
WebDoc = namedtuple("WebDoc", "doc_id url title body")
"""As ir_datasets has them."""


@dataclass
class Page:
    page_content: str
    metadata: dict
    id: str | None = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(folder)
    return folder


@pytest.fixture(scope="module")
def ranker(folder):
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")


FORMS = {
    "text": lambda text, n: SimpleNamespace(text=text, id=n),
    "page-content": lambda text, n: Page(text, {"year": 1}, n),
    "content": lambda text, n: SimpleNamespace(content=text, id=n, meta={}),
    "page-content-key": lambda text, n: {"page_content": text, "id": n},
    "content-key": lambda text, n: {"content": text, "_id": n},
    "passage-key": lambda text, n: MappingProxyType({"passage": text, "doc_id": n}),
    "ir-datasets": lambda text, n: BeirDoc(n, text, ""),
    "ir-datasets-body": lambda text, n: WebDoc(n, "http://x", None, text),
    "node": lambda text, n: SimpleNamespace(node=object(), text=text, id_=n),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_people_have_is_ranked_as_its_text_and_comes_back(ranker, form):
    documents = [form(text, f"d{number}") for number, text in enumerate(TEXTS)]
    ranking = ranker.rank(QUERY, documents)
    expected = ranker.rank(QUERY, TEXTS)
    assert [(r.index, r.score, r.text) for r in ranking] == [(r.index, r.score, r.text) for r in expected]
    assert all(r.document is documents[r.index] and r.id == f"d{r.index}" for r in ranking)


@pytest.mark.parametrize("kind", ["rows", "tuples", "records", "series"])
def test_rows_of_pandas_are_documents(ranker, kind):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"id": [7, 8, 9], "title": ["Heart"] * 3, "text": TEXTS})
    documents = {
        "rows": lambda: [row for _, row in table.iterrows()],
        "tuples": table.itertuples,
        "records": lambda: table.to_dict("records"),
        "series": lambda: table["text"],
    }[kind]()
    ranking = ranker.rank(QUERY, documents)
    expected = ranker.rank(QUERY, TEXTS if kind == "series" else [{"title": "Heart", "text": text} for text in TEXTS])
    assert [(r.index, r.score) for r in ranking] == [(r.index, r.score) for r in expected]
    assert [r.id for r in ranking] == [None if kind == "series" else 7 + r.index for r in ranking]


@pytest.mark.parametrize("documents", [lambda: iter(TEXTS), lambda: (t for t in TEXTS), lambda: np.array(TEXTS)])
def test_what_can_be_iterated_over_is_a_list_of_documents(ranker, documents):
    expected = ranker.rank(QUERY, TEXTS)
    assert ranker.rank(QUERY, documents()) == expected
    assert ranker.rank_batch([(QUERY, documents())]) == [expected]
    assert [e.ranked.document for e in ranker.explain(QUERY, documents()).documents] == [r.text for r in expected]


def test_strings_and_mappings_come_back_as_they_were_given(ranker):
    documents = ["  heart attack ", {"text": "aspirin", "title": "T", "id": 3, "more": [1]}]
    by_index = {r.index: r for r in ranker.rank(QUERY, documents)}
    assert by_index[0].document == "  heart attack "
    assert by_index[0].id is None
    assert by_index[1].document is documents[1]
    assert by_index[1].id == 3


def test_prepared_stored_and_explained_documents_come_back_too(ranker, folder, tmp_path):
    documents = [FORMS["page-content"](text, f"d{number}") for number, text in enumerate(TEXTS)]
    alone = ranker.query_free()
    expected = [f"d{r.index}" for r in alone.rank(QUERY, documents)]
    prepared = alone.prepare(documents)
    documents_then = [*prepared]
    ranking = alone.rank(QUERY, prepared)
    assert [r.id for r in ranking] == expected
    assert all(r.document is documents_then[r.index] and r.document == documents[r.index] for r in ranking)
    alone.prepare_store(tmp_path / "states", (document for document in documents))
    stored = BlockRankReranker.from_pretrained(
        folder, device="cpu", dtype="float32", store=tmp_path / "states", config=alone.config
    )
    assert [r.id for r in stored.rank(QUERY, documents)] == expected
    assert [e.ranked.id for e in alone.explain(QUERY, documents).documents] == expected
    assert [e.ranked.document for e in alone.explain(QUERY, prepared, top_k=1).documents] == [
        documents[int(expected[0][1])]
    ]


def test_dropped_documents_come_back_too(folder):
    pruning = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32", prune={1: 1})
    documents = [FORMS["content"](text, number) for number, text in enumerate(TEXTS)]
    ranking = pruning.rank(QUERY, documents)
    assert [r.pruned for r in ranking] == [False, True, True]
    assert all(r.document is documents[r.index] and r.id == r.index for r in ranking)


def test_results_are_documents_again(ranker):
    first = ranker.rank(QUERY, TEXTS, top_k=2)
    assert {r.text for r in ranker.rank(QUERY, first)} == {r.text for r in first}


def test_a_cross_encoder_takes_them_too(folder):
    encoder = BlockRankCrossEncoder(str(folder))
    found = encoder.rank(QUERY, (Page(text, {}) for text in TEXTS), return_documents=True)
    assert sorted(result["text"] for result in found) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"passage": "a", "body": "b"}, r'documents\[1\] has "passage" and "body", which may each be the text; give'),
        (SimpleNamespace(content=None), r"documents\[1\] needs \.content as a str, got NoneType"),
        (
            SimpleNamespace(words="x"),
            r"documents\[1\] must be a str or a mapping .* or an object with \.text, .*, got Simple",
        ),
        (("d1", "text"), r"documents\[1\] must be a str or a mapping .* got tuple"),
        ({"content": 7}, r'documents\[1\] needs "text" as a str .* got int'),
        ({"_id": "d7"}, r"documents\[1\] is an id alone, .* StoredDocuments\(folder\).get\(ids\)"),
    ],
)
def test_what_has_no_text_or_several_is_refused_by_its_index(ranker, document, found):
    with pytest.raises(TypeError, match=found):
        ranker.rank(QUERY, ["a", document])


def test_the_text_wins_over_other_names():
    assert plain_document({"text": "a", "body": "b"}, 0) == {"text": "a", "body": "b"}
    assert plain_document(SimpleNamespace(text="a", content="b", title=print), 0) == {"text": "a", "title": None}


@pytest.mark.parametrize(
    ("given", "found"),
    [("x", None), ({"id": True, "_id": "a"}, "a"), ({"id": None}, None), ({"id": np.int64(3)}, 3), ({"id": [1]}, None)],
)
def test_an_id_is_a_text_or_a_whole_number(given, found):
    assert document_id(given) == found


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.int64(3), 3),
        (4.0, 4),
        (np.float64(4), 4),
        (float("nan"), None),
        (0.5, None),
        (UUID(int=7), str(UUID(int=7))),
    ],
)
def test_ids_of_databases_and_tables_are_kept_and_json_has_them(ranker, given, found):
    (ranked,) = ranker.rank(QUERY, [{"id": given, "text": "a"}])
    assert ranked.id == found
    assert json.loads(json.dumps(ranked.id)) == found


# The line to write


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [
        (("default",), {}, "BlockRankReranker.from_pretrained('default')"),
        ((), {}, "BlockRankReranker.from_pretrained()"),
        (("default",), {"device": "cpu", "token": "hf_secret"}, "from_pretrained('default', device='cpu', token=...)"),
        ((), {"model": "default"}, "BlockRankReranker.from_pretrained(model='default')"),
    ],
)
def test_a_reranker_made_without_its_maker_says_which_line_to_write(arguments, options, line):
    with pytest.raises(TypeError) as error:
        BlockRankReranker(*arguments, **options)
    assert str(error.value).endswith(f"write {line}" if line.startswith("Block") else line)
    assert "hf_secret" not in str(error.value)
