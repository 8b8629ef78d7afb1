"""Made-up training data, and what reading makes of it."""

import json
from pathlib import Path

import pytest

from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.formats import DataError

DOCUMENTS = {
    "d1": "fleas live for about three months",
    "d2": "fleas live on cats and dogs",
    "d3": "concrete is poured wet and sets within a day",
    "d4": "concrete sets slowly in the cold",
    "d5": "bread is baked from flour and water",
    "d6": "fleas live on rabbits as well",
    "d7": "fleas live for about three months",  # a copy of d1
    "d8": "rain falls mainly on the plain",
}
QUERIES = {"q1": "how long do fleas live", "q2": "when is concrete poured", "q3": "who bakes bread"}
JUDGEMENTS = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d3", 1), ("q3", "d5", 0)]


def write_jsonl(path: Path, records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_folder(folder: Path, documents=DOCUMENTS, queries=QUERIES, judgements=JUDGEMENTS, split="train") -> Path:
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", ({"_id": name, "title": "", "text": text} for name, text in documents.items()))
    write_jsonl(folder / "queries.jsonl", ({"_id": name, "text": text} for name, text in queries.items()))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, judgement)) for judgement in judgements)]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def texts(example, relevant):
    return [candidate.text for candidate in example.candidates if candidate.relevant is relevant]


def refusal(path, **options):
    with pytest.raises(DataError) as error:
        read_examples(path, **options)
    return str(error.value).removeprefix(str(path)).removeprefix(":")
