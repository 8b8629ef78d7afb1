"""Training lists whose queries are passages: people also paste an abstract, and no question is as long.

    python -m recipes.ensemble.passages build/pools build/vectors build/lists/passages.jsonl --student build/start

The beginning of a document is the query, its neighbours by the first encoder of the collection's ensemble are the
candidates, and the student that training starts from is the only teacher: these lists keep what it knows. Its best
document counts as the relevant one. collections.yaml says how many each collection lends.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune.data import Candidate, TrainingExample, write_examples
from blockrank_rerank.formats import read_corpus
from blockrank_rerank.text.document import document_text
from recipes.ensemble.ensemble import raw_scores
from recipes.ensemble.pools import pool_folders
from recipes.ensemble.settings import HERE, EnsembleSettings, read_collections
from recipes.ensemble.vectors import Vectors, check_vectors, vectors_file

NEAREST, FURTHER, DEPTH = 8, 6, 60
WORDS = (20, 60)
"""Of a query; a passage that is shorter than half of the longest is none."""


def passages(texts: dict[str, str], count: int, rng: random.Random) -> dict[str, str]:
    """Beginnings of drawn documents, by their ids."""
    long = [name for name, text in texts.items() if len(text.split()) >= WORDS[1] // 2]
    drawn = rng.sample(long, min(count, len(long)))
    return {name: " ".join(texts[name].split()[: rng.randint(*WORDS)]) for name in drawn}


def lists(
    name: str, texts: dict[str, str], vectors: Vectors, count: int, ranker: BlockRankReranker
) -> Iterator[TrainingExample]:
    """One list for each of a pool's passages."""
    rng, names = random.Random(name), list(texts)
    matrix = vectors.of("document", names)
    for document, query in passages(texts, count, rng).items():
        order = np.argsort(-(matrix @ vectors.of("document", [document])[0]))
        near = [names[place] for place in order[: DEPTH + 1] if names[place] != document]
        further = near[NEAREST:]
        candidates = [texts[one] for one in near[:NEAREST] + rng.sample(further, min(FURTHER, len(further)))]
        scores = raw_scores(ranker, query, candidates)
        opinions, best = scores - scores.mean(), int(scores.argmax())
        documents = [
            Candidate(text, int(place == best), round(float(opinions[place]), 4))
            for place, text in enumerate(candidates)
        ]
        yield TrainingExample(query, tuple(documents), f"{name} passages", document)


def main(pools: Path, vectors: Path, output: Path, student: str, settings: Path = HERE) -> None:
    """Write the lists of all pools into one file."""
    check_vectors(pools, vectors, settings)
    ensembles, asked = EnsembleSettings.read(settings), read_collections(settings)
    ranker = BlockRankReranker.from_pretrained(student, cache="4GB")
    examples = []
    for pool in pool_folders(pools):
        if count := asked.get(pool.name, {}).get("passages", 0):
            corpus = read_corpus(pool / "corpus.jsonl")
            texts = {one: document_text(document, 0) for one, document in corpus.items()}
            near = Vectors(vectors_file(vectors, ensembles.encoders(pool.name)[0], pool))
            examples += lists(pool.name, texts, near, count, ranker)
    write_examples(output, examples)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    main(**vars(parser.parse_args()))
