"""Measure how like the mean keys of near-duplicate sentences are, and those of the closest other sentences.

    python benchmarks/near_duplicates.py FOLDER [--sentences 100] [--model default]

FOLDER is a BEIR folder of a training collection. Every sentence of a document is edited lightly (a word left out, two
neighbours changed, another case, other punctuation), which makes a near-duplicate of the document; and one of its
sentences is put, edited, between two sentences of another document. Others are the sentences of the 10 documents that
BM25 finds most alike to that sentence, but for those that share more than half of all words with it. Printed are
quantiles of the cosines, and for some thresholds the share that reaches it.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import bm25_run
from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.context.sentence import read_sentences
from blockrank_rerank.text.sentences import sentence_spans

LEAST_WORDS, THRESHOLDS = 6, (0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
QUANTILES = (0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99)


def edited(sentence: str, kind: int, rng: random.Random) -> str:
    words = sentence.rstrip(".!?").split()
    place = rng.randrange(1, max(len(words) - 1, 2))
    if len(words) < 3:
        return sentence
    if kind == 0:
        del words[place]
    elif kind == 1:
        words[place], words[place - 1] = words[place - 1], words[place]
    elif kind == 2:
        words = [word.capitalize() for word in words]
    else:
        words[place] += ","
    return " ".join(words) + "."


def sentences_of(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def overlap(one: str, other: str) -> float:
    words, others = set(one.lower().split()), set(other.lower().split())
    return len(words & others) / len(words | others)


def cosines(ranker: Any, sentence: str, documents: list[str]) -> list[float]:
    """Of a sentence of the first document: with its like in the second and in the third, and with the closest other."""
    attended = AttendedList.of(lambda: ranker.engine, ranker.lookup, sentence, documents)
    assert attended is not None
    read = [one for one in read_sentences(attended, range(len(documents)), {}) if one.key is not None]

    def key(index: int) -> Tensor:
        best = max((one for one in read if one.index == index), key=lambda one: overlap(one.text, sentence))
        assert best.key is not None
        return best.key

    different = [
        one.key for one in read if one.key is not None and one.index > 2 and overlap(one.text, sentence) <= 0.5
    ]
    like = torch.stack([key(1), key(2), *different]) @ key(0)
    return [float(like[0]), float(like[1]), float(like[2:].max())]


def main(folder: Path, sentences: int, model: str) -> None:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    rng.shuffle(rows)
    texts = {row["_id"]: row["text"] for row in rows[:4000]}
    names = [name for name, text in texts.items() if len(sentences_of(text)) > 2][: 2 * sentences]
    chosen = {}
    for name in names[:sentences]:
        long = [one for one in sentences_of(texts[name]) if len(one.split()) >= LEAST_WORDS]
        if long:
            chosen[name] = rng.choice(long)
    near = bm25_run({f"q{name}": text for name, text in chosen.items()}, texts, 11)
    ranker = BlockRankReranker.from_pretrained(model, cache="1GB", dtype="bfloat16")
    rows_of: list[list[float]] = []
    for number, (name, sentence) in enumerate(chosen.items()):
        whole = [
            edited(one, place % 4, rng) if " " in one else one for place, one in enumerate(sentences_of(texts[name]))
        ]
        before, after = sentences_of(texts[names[-1 - number % sentences]])[:2]
        copies = [" ".join(whole), f"{before} {edited(sentence, number % 4, rng)} {after}"]
        neighbours = [texts[other] for other in near[f"q{name}"] if other != name][:10]
        if neighbours:
            rows_of.append(cosines(ranker, sentence, [texts[name], *copies, *neighbours]))
    print(machine())
    found_of = dict(
        zip(("edited document", "edited elsewhere", "closest other"), zip(*rows_of, strict=True), strict=True)
    )
    for label, values in found_of.items():
        found = torch.quantile(torch.tensor(values), torch.tensor(QUANTILES)).tolist()
        shown = " ".join(f"{share:.0%} {value:.3f}" for share, value in zip(QUANTILES, found, strict=True))
        print(f"{folder.name}: {label:16} {shown}")
    for threshold in THRESHOLDS:
        shares = (
            f"{label} {sum(v >= threshold for v in values) / len(values):.1%}" for label, values in found_of.items()
        )
        print(f"{folder.name}: {threshold:.3f} {', '.join(shares)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--model", default="default")
    main(**vars(parser.parse_args()))
