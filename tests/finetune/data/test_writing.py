"""Examples that are written and read again."""

import pytest

from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples, write_examples

EXAMPLES = [
    TrainingExample("q \u2028 ü", (Candidate("p", 2.0, 0.5), Candidate("n", 0.0, -0.25)), "x:1", "id"),
    TrainingExample("r \ud800", (Candidate("p", 1.0), Candidate("s", 1.0)), "x:2"),
    TrainingExample("s", (Candidate("p", 1.0, 1.0), Candidate("n", 0.0)), "x:3"),
]


def test_what_is_written_is_read_again(tmp_path):
    write_examples(tmp_path / "out.jsonl", EXAMPLES)
    read = read_examples(tmp_path / "out.jsonl")
    assert [(e.query, e.candidates, e.query_id) for e in read] == [
        (e.query, e.candidates, e.query_id) for e in EXAMPLES
    ]
    assert "ü" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_an_interrupted_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def interrupted():
        yield EXAMPLES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(path, interrupted())
    assert [found.name for found in tmp_path.iterdir()] == ["out.jsonl"]
    assert path.read_text() == "old"
