"""Training lists with the ensemble's scores: relevant passages, hard ones of BM25 and of embeddings, others of both.

    python -m recipes.ensemble.lists build/pools build/vectors build/lists --student build/start

A collection that is in the output folder is left as it is, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune.data import Candidate, TrainingExample, write_examples
from recipes.ensemble.candidates import Pool, candidates
from recipes.ensemble.ensemble import Ensemble, Scores, quality
from recipes.ensemble.pools import pool_folders
from recipes.ensemble.settings import HERE, EnsembleSettings
from recipes.ensemble.vectors import check_vectors

DOCUMENTS, POSITIVES, HARD_EACH, HARDEST, DEPTH = 14, 2, 3, 12, 50
"""Of a list: documents, relevant ones at most, hard ones of each teacher, drawn from its best so many of so many."""


def chosen(query: str, grades: Mapping[str, int], opinions: Mapping[str, Scores], names: Sequence[str]) -> list[str]:
    """Unjudged documents of one list: each teacher's hardest first, then any of the rest."""
    rng, unjudged = random.Random(query), [place for place, name in enumerate(names) if name not in grades]
    hard: dict[int, None] = {}
    for scores in opinions.values():
        hardest = sorted(unjudged, key=lambda place, scores=scores: -scores[place])[:HARDEST]  # type: ignore[misc]
        hard |= dict.fromkeys([place for place in hardest if place not in hard][:HARD_EACH])
    rest = [place for place in unjudged if place not in hard]
    return [names[place] for place in [*hard, *rng.sample(rest, len(rest))]]


def scored_lists(pool: Pool, ensemble: Ensemble) -> Iterator[TrainingExample]:
    """One list for every query with a relevant document in the pool."""
    names = list(pool.texts)
    for query, found in candidates(pool, DEPTH, DEPTH).items():
        grades = pool.collection.qrels[query]
        relevant = [name for name in grades if grades[name] > 0 and name in pool.texts]
        relevant = sorted(relevant, key=grades.__getitem__, reverse=True)[:POSITIVES]
        others = chosen(query, grades, ensemble.first_stages(query, found), found)[: DOCUMENTS - len(relevant) - 1]
        unknown = [
            name
            for name in random.Random(query).sample(names, min(DOCUMENTS, len(names)))
            if name not in {*grades, *others}
        ]
        others += unknown[: DOCUMENTS - len(relevant) - len(others)]
        scores = ensemble.total(ensemble.opinions(query, [*relevant, *others]))
        if relevant:
            yield _example(pool, query, relevant, others, scores)


def _example(pool: Pool, query: str, relevant: Sequence[str], others: Sequence[str], scores: Scores) -> TrainingExample:
    grades = [1] * len(relevant) + [0] * len(others)
    documents = [
        Candidate(pool.texts[name], grade, round(float(score), 4))
        for name, grade, score in zip([*relevant, *others], grades, np.asarray(scores), strict=True)
    ]
    return TrainingExample(pool.collection.queries[query], tuple(documents), pool.name, query)


def main(pools: Path, vectors: Path, output: Path, student: str, settings: Path = HERE) -> None:
    """Write the training lists of every pool, after a line of its teachers' quality on its development queries."""
    check_vectors(pools, vectors, settings)
    output.mkdir(parents=True, exist_ok=True)
    ensembles, ranker = EnsembleSettings.read(settings), BlockRankReranker.from_pretrained(student)
    for folder in pool_folders(pools):
        if (path := output / f"{folder.name}.jsonl").exists():
            continue
        development, training = (
            Pool.read(folder, split, vectors, ensembles.encoders(folder.name)) for split in ("test", "train")
        )
        teachers = Ensemble(development, ranker, ensembles)
        print(quality(teachers, development), flush=True)
        write_examples(path, scored_lists(training, Ensemble(training, ranker, ensembles, teachers.prepared)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    main(**vars(parser.parse_args()))
