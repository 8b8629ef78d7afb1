"""Measure how like the mean keys of near-duplicate sentences are, and those of the closest other sentences.

    python benchmarks/near_duplicates.py FOLDER [--sentences 100] [--model default]

FOLDER is a BEIR folder of a training collection. Sentences of its documents are edited lightly (a word left out, two
neighbours changed, another case, other punctuation) and put between two sentences of another document, as copies come
in other contexts. Others are the sentences of the 10 documents that BM25 finds most alike to the sentence, but for
those that share more than half of their words with it. Printed are quantiles of both cosines, and for some thresholds
the share of the edited that reach it, and of the others.
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
    place = rng.randrange(1, len(words) - 1)
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
    return len(words & others) / min(len(words), len(others))


def cosines(ranker: Any, sentence: str, original: str, copy: str, others: list[str]) -> tuple[float, float]:
    """Of the copy, and of the closest other sentence."""
    attended = AttendedList.of(lambda: ranker.engine, ranker.lookup, sentence, [original, copy, *others])
    assert attended is not None
    read = [one for one in read_sentences(attended, range(len(others) + 2), {}) if one.key is not None]

    def key(index: int, text: str) -> Tensor:
        mine = [one.key for one in read if one.index == index and overlap(one.text, text) > 0.5]
        return mine[0]

    own = key(0, sentence)
    different = [one.key for one in read if one.index > 1 and overlap(one.text, sentence) <= 0.5]
    like = torch.stack([key(1, sentence), *different]) @ own
    return float(like[0]), float(like[1:].max())


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
    copies, others = [], []
    for number, (name, sentence) in enumerate(chosen.items()):
        before, after = sentences_of(texts[names[-1 - number % sentences]])[:2]
        copy = f"{before} {edited(sentence, number % 4, rng)} {after}"
        neighbours = [texts[other] for other in near[f"q{name}"] if other != name][:10]
        if neighbours:
            pair = cosines(ranker, sentence, texts[name], copy, neighbours)
            copies.append(pair[0])
            others.append(pair[1])
    print(machine())
    for label, values in (("edited", copies), ("closest other", others)):
        found = torch.quantile(torch.tensor(values), torch.tensor(QUANTILES)).tolist()
        shown = " ".join(f"{share:.0%} {value:.3f}" for share, value in zip(QUANTILES, found, strict=True))
        print(f"{folder.name}: {label:14} {shown}")
    for threshold in THRESHOLDS:
        shares = [sum(value >= threshold for value in values) / len(values) for values in (copies, others)]
        print(f"{folder.name}: {threshold:.3f} edited {shares[0]:.1%}, closest other {shares[1]:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--model", default="default")
    main(**vars(parser.parse_args()))
