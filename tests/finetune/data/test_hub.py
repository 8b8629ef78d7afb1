"""Rows of Hugging Face datasets."""

import sys
from importlib.util import find_spec

import pytest

from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.formats import DataError
from tests.finetune.data_files import texts

needs_datasets = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed")


@needs_datasets
def test_a_dataset_is_read_through_a_column_mapping(tmp_path):
    import datasets

    table = {"question": ["q", "r"], "answer": ["p", "s"], "wrong": [["n"], ["m", "o"]], "year": [1, 2]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "set" / "train.parquet")
    columns = {"query": "question", "pos": "answer", "neg": "wrong"}
    first, second = read_examples(tmp_path / "set", format="hub", columns=columns)
    assert (first.query, texts(first, True), texts(second, False)) == ("q", ["p"], ["m", "o"])
    assert second.source == f"{tmp_path / 'set'}[train]:2"
    with pytest.raises(DataError, match=r'set\[train\]:1: no column "query", "pos"; found: "question"'):
        read_examples(tmp_path / "set", format="hub")


def test_without_datasets_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[train\]'"):
        read_examples("owner/name")
