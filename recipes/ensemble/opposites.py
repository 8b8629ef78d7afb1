"""Sentences and their opposites: lists to train on, and a check with words that no training has seen.

    python -m recipes.ensemble.opposites lists build/lists/opposites.jsonl
    python -m recipes.ensemble.opposites check MODEL [MODEL ...]

A check counts the queries for which every other wording of the same stands above every wording of the opposite. An
opposite is still about the same thing, so it stands above sentences about others.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune.data import Candidate, TrainingExample, write_examples
from recipes.ensemble.ensemble import raw_scores

SETTINGS = Path(__file__).with_name("opposites.yaml")
SAME, OPPOSITE, UNRELATED = 4.0, -1.0, -4.0
"""Opinions of a teacher that knew; they deviate about as much as in other lists."""
DOCUMENTS, SAMENESS = 14, 2


def read_groups(split: str) -> list[dict[str, Any]]:
    """Groups of ``train`` or ``development``."""
    return list(yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))[split])


def sentences(group: dict[str, Any], pole: int, about: str) -> list[str]:
    """Every wording of one pole about one thing."""
    return [wording.format(about) for wording in group["poles"][pole]]


def cases(split: str) -> Iterator[tuple[str, list[str], list[str], list[str]]]:
    """A query, its other wordings, its opposites, and sentences about other things."""
    groups = read_groups(split)
    for group in groups:
        for about in group["about"]:
            for pole in (0, 1):
                same, opposite = sentences(group, pole, about), sentences(group, 1 - pole, about)
                others = [
                    text
                    for one in groups
                    for other in one["about"]
                    if other != about
                    for text in sentences(one, pole, other)
                ]
                for query in same:
                    yield query, [text for text in same if text != query], opposite, others


def training_lists() -> Iterator[TrainingExample]:
    """One list for every wording of the training words."""
    for query, same, opposite, others in cases("train"):
        rng = random.Random(query)
        same, opposite = rng.sample(same, min(SAMENESS, len(same))), rng.sample(opposite, min(4, len(opposite)))
        others = rng.sample(others, DOCUMENTS - len(same) - len(opposite))
        documents = [Candidate(text, 1, SAME) for text in same]
        documents += [Candidate(text, 0, OPPOSITE) for text in opposite]
        documents += [Candidate(text, 0, UNRELATED) for text in others]
        yield TrainingExample(query, tuple(documents), "opposites")


def check(model: str) -> dict[str, float]:
    """Share of the development queries without a mistake, and of pairs in the right order."""
    ranker, whole, right, pairs, count = BlockRankReranker.from_pretrained(model), 0, 0, 0, 0
    for query, same, opposite, _ in cases("development"):
        scores = raw_scores(ranker, query, [*same, *opposite])
        in_order = [good > bad for good in scores[: len(same)] for bad in scores[len(same) :]]
        whole, right, pairs, count = whole + all(in_order), right + sum(in_order), pairs + len(in_order), count + 1
    return {"queries": whole / count, "pairs": right / pairs}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lists").add_argument("output", type=Path)
    commands.add_parser("check").add_argument("models", nargs="+")
    asked = parser.parse_args()
    if asked.command == "lists":
        write_examples(asked.output, training_lists())
    else:
        for name in asked.models:
            print(name, "  ".join(f"{what} {share:.1%}" for what, share in check(name).items()))
