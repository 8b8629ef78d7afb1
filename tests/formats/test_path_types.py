"""Files of the field by paths of any type."""

from __future__ import annotations

import pytest

from blockrank_rerank.formats import (
    read_collection,
    read_corpus,
    read_documents,
    read_qrels,
    read_queries,
    read_run,
    write_run,
)
from tests.finetune.data_files import write_folder

READERS = {
    "corpus.jsonl": [read_corpus, lambda path: read_documents([path])],
    "queries.jsonl": [read_queries],
    "qrels/train.tsv": [read_qrels],
    "a.run": [read_run],
    ".": [lambda path: read_collection(path, "train"), lambda path: read_documents([path])],
}


@pytest.mark.parametrize("name", READERS)
def test_a_path_may_be_a_text_and_begin_with_the_home_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write_folder(tmp_path / "beir")
    write_run("~/beir/a.run", {"q1": {"d1": 1.0}})
    for read in READERS[name]:
        expected = read(folder / name)
        assert read(f"{folder}/{name}") == expected
        assert read(f"~/beir/{name}") == expected
