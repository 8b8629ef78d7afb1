"""Training data of BEIR folders, and negatives from a corpus."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from blockrank_rerank.finetune.data import Candidate, document_pool, read_examples
from tests.finetune.data_files import DOCUMENTS, refusal, texts, write_folder

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "train"
needs_bm25 = pytest.mark.skipif(find_spec("bm25s") is None, reason="bm25s is not installed")


def test_a_folder_gives_positives_with_grades_and_judged_negatives(folder):
    examples = read_examples(folder, negatives="none")
    assert [example.query_id for example in examples] == ["q1", "q2"]
    assert examples[0].candidates == (Candidate(DOCUMENTS["d1"], 2.0), Candidate(DOCUMENTS["d2"], 0.0))
    assert examples[1].source == f"{folder / 'qrels' / 'train.tsv'}:4"


def test_a_compressed_folder_is_read_as_the_same(folder):
    expected = read_examples(folder, negatives="none")
    for path in [*folder.rglob("*.*l"), *folder.rglob("*.tsv")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    found = read_examples(folder, negatives="none")
    assert [(each.query, each.candidates) for each in found] == [(each.query, each.candidates) for each in expected]
    assert found[0].source == f"{folder / 'qrels' / 'train.tsv.gz'}:2"
    with pytest.raises(FileNotFoundError, match=r"splits available: train$"):
        read_examples(folder, split="dev")


def test_queries_without_a_relevant_document_are_left_out_and_counted(tmp_path):
    judgements = [("q1", "d1", 1), ("q2", "d2", 0), ("q2", "d3", -1)]
    with pytest.warns(UserWarning, match=r"train\.tsv: 1 of 2 judged queries have no document judged above 0 and are"):
        examples = read_examples(write_folder(tmp_path / "data", judgements=judgements), negatives="none")
    assert [example.query_id for example in examples] == ["q1"]


@needs_bm25
def test_negatives_of_a_folder_come_from_bm25_and_are_never_judged_or_copies(folder):
    fleas, concrete = read_examples(folder, depth=5)
    assert texts(fleas, False) == [DOCUMENTS["d2"], DOCUMENTS["d6"]]
    assert texts(concrete, False) == [DOCUMENTS["d4"]]


def test_random_negatives_depend_on_the_seed_and_never_are_judged_or_copies(folder):
    examples = read_examples(folder, negatives="random", depth=100)
    assert examples == read_examples(folder, negatives="random", depth=100)
    assert set(texts(examples[0], False)) == set(DOCUMENTS.values()) - {DOCUMENTS["d1"]}
    draws = {tuple(texts(read_examples(folder, negatives="random", depth=2, seed=s)[1], False)) for s in range(9)}
    assert len(draws) > 1


def test_random_negatives_of_a_query_do_not_depend_on_the_other_queries(tmp_path):
    alone = write_folder(tmp_path / "alone", judgements=[("q2", "d3", 1)])
    together = write_folder(tmp_path / "together", judgements=[("q1", "d1", 1), ("q2", "d3", 1)])
    drawn = [read_examples(folder, negatives="random", depth=3)[-1].candidates for folder in (alone, together)]
    assert drawn[0] == drawn[1]


def test_a_limit_draws_examples_at_random_in_their_order(put):
    path = put(*({"query": f"q{number}", "pos": ["p"]} for number in range(50)))
    drawn = [[example.source for example in read_examples(path, limit=10, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    lines = [int(source.rsplit(":", 1)[1]) for source in drawn[0]]
    assert lines == sorted(lines)
    assert len(lines) == 10


@needs_bm25
def test_rows_without_negatives_can_be_filled_from_the_documents_of_all_rows(put):
    rows = [{"query": "fleas", "pos": ["fleas jump"]}, {"query": "dogs", "pos": ["dogs with fleas"], "neg": ["cats"]}]
    filled, unchanged = read_examples(put(*rows), negatives="bm25")
    assert texts(filled, False) == ["dogs with fleas"]
    assert texts(unchanged, False) == ["cats"]


def test_rows_filled_up_get_no_answer_of_another_row_of_the_same_query(put):
    path = put({"query": "q", "pos": ["p"]}, {"query": "q", "pos": ["r"]}, {"query": "s", "pos": ["t"]})
    filled = read_examples(path, negatives="random")
    assert [sorted(texts(example, False)) for example in filled] == [["t"], ["t"], ["p", "r"]]


BAD_FOLDERS = [
    ({"judgements": [("q1", "d99", 1)]}, "train.tsv:2: document 'd99' is judged but is not in corpus.jsonl"),
    ({"judgements": [("q9", "d1", 1)]}, "train.tsv:2: query 'q9' is judged but has no text"),
    ({"judgements": [("q1", "d1", 0)]}, "no query of split 'train' has a document judged above 0"),
    ({"judgements": [("q1", "d1", "x")]}, "train.tsv:2: expected an integer judgement"),
    ({"judgements": [("q1", "d1")]}, "train.tsv:2: expected 3 columns"),
    ({"judgements": [("q1", "d1", 1), ("q1", "d1", 2)]}, "train.tsv:3: query 'q1', document 'd1': judged 1 above"),
    ({"judgements": []}, "train.tsv: no judgements"),
    ({"documents": {}}, "corpus.jsonl: the file is empty"),
    ({"queries": {}}, "queries.jsonl: the file is empty"),
    ({"queries": {"q1": " "}}, 'queries.jsonl:1: expected "text" to hold text'),
    ({"documents": {"d1": None}}, 'corpus.jsonl:1: expected "text" to be a string'),
]


@pytest.mark.parametrize(("content", "message"), BAD_FOLDERS, ids=[message for _, message in BAD_FOLDERS])
def test_faults_of_a_folder_are_refused_with_their_place(tmp_path, content, message):
    assert message in refusal(write_folder(tmp_path / "bad", **content))


def test_a_missing_split_is_refused_with_those_there_are(folder):
    with pytest.raises(FileNotFoundError, match="splits available: train"):
        read_examples(folder, split="dev")


def test_a_document_id_may_appear_only_once(folder):
    with (folder / "corpus.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "d1", "text": "again"}) + "\n")
    assert "corpus.jsonl:9: expected every \"_id\" once, got 'd1' again" in refusal(folder)


@needs_bm25
@pytest.mark.skipif(not (SHARED / "recipes").is_dir(), reason="no shared data beside the repository")
def test_a_real_collection_is_read_with_negatives():
    examples = read_examples(SHARED / "recipes", limit=20, depth=10)
    assert len(examples) == 20
    assert all(example.positives and example.negatives for example in examples)
    pool = document_pool(examples)
    assert len(pool) == len(set(pool))
