"""A collection whose texts, names and ids would like to be markup."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.tiny_models import BERT_CONFIG, save_model, save_scoring_head

COMMAND = "blockrank report 'a <folder>' --depth 8"
SCRIPT = "<script>document.title = 'taken'</script>"
CLOSING = '</summary></details></style> "quoted" <img src=x onerror="document.title=1"> \x1b[2J {{ 7 * 7 }}'
DOCUMENTS = {
    f'd{number}"><b>': {"title": f"{SCRIPT} $x_{number}$", "text": f"{text} {CLOSING}"}
    for number, text in enumerate(
        [
            "aspirin thins the blood",
            "the liver stores sugar",
            "a heart attack is a blocked artery",
            "what treats a heart attack is aspirin",
            "sugar is stored in the liver",
            "blood is thin",
            "an artery is blocked by sugar",
            "the heart",
            "who treats blood",
            "the liver and the heart attack sugar",
            "aspirin",
            "an attack",
        ]
    )
}
QUERIES = {
    "q1": f"what treats a heart attack {SCRIPT}",
    "q2": "who stores sugar & <i>blood</i>",
    "q3": "is the artery blocked",
    "q4": "aspirin thins blood",
}
RELEVANT = {"q1": (3, 0), "q2": (1, 4), "q3": (2,), "q4": (0,)}


def write_collection(folder: Path) -> Path:
    """Write the BEIR folder."""
    (folder / "qrels").mkdir(parents=True)
    names = list(DOCUMENTS)
    _write(folder / "corpus.jsonl", [{"_id": name, **document} for name, document in DOCUMENTS.items()])
    _write(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in QUERIES.items()])
    rows = [f"{query}\t{names[number]}\t1" for query, numbers in RELEVANT.items() for number in numbers]
    rows.append(f"q1\t{names[5]}\t0")
    (folder / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_model(folder: Path) -> Path:
    """Write a tiny encoder with a scoring layer, which may abstain."""
    save_model(folder, "bert")
    save_scoring_head(folder)
    replace(BERT_CONFIG, abstention=True).save(folder)
    return folder


@contextmanager
def told(log, what, total):
    done = []
    yield lambda items, tokens: done.append(items)
    log.append((what, total, sum(done)))
