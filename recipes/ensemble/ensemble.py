"""An ensemble of teachers, and its nDCG@10 on the development queries of every pool, before anything is trained on it.

python -m recipes.ensemble.ensemble build/pools build/vectors --student build/start
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from blockrank_rerank import BlockRankReranker, PreparedDocuments
from blockrank_rerank.evaluation.measures import evaluate_run
from recipes.ensemble.candidates import Pool, Scores, candidates, lexical_scores

SETTINGS = Path(__file__).with_name("ensemble.yaml")
DEPTH, DENSE_DEPTH = 40, 10
"""Development candidates per query: of BM25, and of each encoder."""


@dataclass(frozen=True, kw_only=True)
class EnsembleSettings:
    """Weights of the teachers by kind of collection; see ensemble.yaml."""

    web: dict[str, float]
    other: dict[str, float]
    collections_of_web_questions: list[str]
    spread: float

    @classmethod
    def read(cls, path: Path = SETTINGS) -> EnsembleSettings:
        """Read ensemble.yaml, or another file like it."""
        return cls(**yaml.safe_load(path.read_text(encoding="utf-8")))

    def weights(self, collection: str) -> dict[str, float]:
        """Weights of a collection's teachers."""
        return self.web if collection in self.collections_of_web_questions else self.other

    def encoders(self, collection: str) -> list[str]:
        """Teachers that are embedding models."""
        return [name for name in self.weights(collection) if name not in ("student", "bm25")]


class Ensemble:
    """Teachers of one pool.

    Parameters
    ----------
    pool : Pool
        Documents, and vectors of every embedding model.
    student : BlockRankReranker
        The model that training starts from.
    settings : EnsembleSettings
        Weights.
    """

    def __init__(self, pool: Pool, student: BlockRankReranker, settings: EnsembleSettings) -> None:
        self._pool, self._student, self._settings = pool, student, settings
        self._prepared = student.prepare(list(pool.texts.values()))
        self._places = {name: place for place, name in enumerate(pool.texts)}
        self._lexical = lexical_scores(pool)

    def opinions(self, query: str, documents: Sequence[str]) -> dict[str, Scores]:
        """Every teacher's scores of one list."""
        places = [self._places[name] for name in documents]
        student = raw_scores(self._student, self._pool.collection.queries[query], self._prepared.select(places))
        return {"student": student, **self.first_stages(query, documents)}

    def first_stages(self, query: str, documents: Sequence[str]) -> dict[str, Scores]:
        """Scores of those that candidates come from."""
        scores = {"bm25": self._lexical[query][[self._places[name] for name in documents]]}
        for name, vectors in self._pool.vectors.items():
            scores[name] = vectors.of("document", documents) @ vectors.of("query", [query])[0]
        return scores

    def total(self, opinions: Mapping[str, Scores]) -> Scores:
        """The ensemble's scores of a list."""
        weights = self._settings.weights(self._pool.name)
        mixed = sum(weight * standardised(opinions[name]) for name, weight in weights.items())
        return np.asarray(self._settings.spread / sum(weights.values()) * mixed, np.float32)


def raw_scores(ranker: BlockRankReranker, query: str, documents: Sequence[str] | PreparedDocuments) -> Scores:
    """A model's raw scores in the order of the documents."""
    scores = np.zeros(len(documents), np.float32)
    for found in ranker.rank(query, documents):
        scores[found.index] = found.raw_score
    return scores


def standardised(scores: Scores) -> Scores:
    """Scores of mean 0 and deviation 1."""
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def measure(ensemble: Ensemble, pool: Pool) -> dict[str, float]:
    """nDCG@10 of every teacher and of all together."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for query, documents in candidates(pool, DEPTH, DENSE_DEPTH).items():
        opinions = ensemble.opinions(query, documents)
        for name, scores in {**opinions, "ensemble": ensemble.total(opinions)}.items():
            order = np.argsort(-scores, kind="stable")
            runs.setdefault(name, {})[query] = {documents[place]: float(scores[place]) for place in order}
    return {name: evaluate_run(pool.collection.qrels, run)["nDCG@10"] for name, run in runs.items()}


def main(pools: Path, vectors: Path, student: str, weights: Path = SETTINGS) -> None:
    """Print the quality of each teacher and of their ensemble on every development set."""
    settings, ranker = EnsembleSettings.read(weights), BlockRankReranker.from_pretrained(student)
    for folder in sorted(path for path in pools.iterdir() if path.is_dir()):
        pool = Pool.read(folder, "test", vectors, settings.encoders(folder.name))
        measured = measure(Ensemble(pool, ranker, settings), pool)
        print(folder.name, "  ".join(f"{name} {100 * value:.1f}" for name, value in measured.items()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--weights", type=Path, default=SETTINGS, help="settings; ensemble.yaml by default")
    main(**vars(parser.parse_args()))
