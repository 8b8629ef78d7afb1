"""Examples written as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.system.files import UserPath, absolute, replacing


def write_examples(path: UserPath, examples: Iterable[TrainingExample]) -> None:
    """Write examples as JSONL of ``{"query", "pos", "neg"}``, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        Output file; replaced only when everything is written.
    examples : iterable of TrainingExample
        Written one by one. Grades other than 1 go to ``pos_grades``, and teacher scores to ``pos_scores`` and
        ``neg_scores`` as FlagEmbedding names them, with null for a document without one.
    """
    # The examples may be made while they are written.
    with replacing(absolute(path, "path")) as stream:
        stream.writelines(_line(example) for example in examples)


def _line(example: TrainingExample) -> str:
    record = _record(example)
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # UTF-8 cannot hold a lone surrogate, which JSON can.
    return (line if _is_utf8(line) else json.dumps(record, allow_nan=False)) + "\n"


def _record(example: TrainingExample) -> dict[str, Any]:
    positives, negatives = example.positives, example.negatives
    record: dict[str, Any] = {"query": example.query}
    if example.query_id is not None:
        record["query_id"] = example.query_id
    record |= {"pos": [found.text for found in positives], "neg": [found.text for found in negatives]}
    if any(found.grade != 1 for found in positives):
        record["pos_grades"] = [found.grade for found in positives]
    if any(found.teacher_score is not None for found in example.candidates):
        record["pos_scores"] = [found.teacher_score for found in positives]
        record["neg_scores"] = [found.teacher_score for found in negatives]
    return record


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
