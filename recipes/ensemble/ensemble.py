"""An ensemble of teachers, and its nDCG@10 on the development queries of every pool, before anything is trained on it.

python -m recipes.ensemble.ensemble build/pools build/vectors --student build/start
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from blockrank_rerank import BlockRankReranker, PreparedDocuments
from blockrank_rerank.evaluation.measures import evaluate_run
from recipes.ensemble.candidates import Pool, Scores, candidates, lexical_scores
from recipes.ensemble.pools import pool_folders
from recipes.ensemble.settings import HERE, EnsembleSettings
from recipes.ensemble.vectors import check_vectors

DEPTH, DENSE_DEPTH = 40, 10
"""Development candidates per query: of BM25, and of each encoder."""


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
    prepared : PreparedDocuments, optional
        The pool's documents, where another split of it has read them.
    """

    def __init__(
        self,
        pool: Pool,
        student: BlockRankReranker,
        settings: EnsembleSettings,
        prepared: PreparedDocuments | None = None,
    ) -> None:
        self._pool, self._student, self._settings = pool, student, settings
        self.prepared = student.prepare(list(pool.texts.values())) if prepared is None else prepared
        self._places = {name: place for place, name in enumerate(pool.texts)}
        self._lexical = lexical_scores(pool)

    def opinions(self, query: str, documents: Sequence[str]) -> dict[str, Scores]:
        """Every teacher's scores of one list."""
        places = [self._places[name] for name in documents]
        student = raw_scores(self._student, self._pool.collection.queries[query], self.prepared.select(places))
        return {"student": student, **self.first_stages(query, documents)}

    def first_stages(self, query: str, documents: Sequence[str]) -> dict[str, Scores]:
        """Scores of those that candidates come from."""
        scores = {"bm25": self._lexical[query][[self._places[name] for name in documents]]}
        for name, vectors in self._pool.vectors.items():
            scores[name] = vectors.of("document", documents) @ vectors.of("query", [query])[0]
        return scores

    def total(self, opinions: Mapping[str, Scores]) -> Scores:
        """The ensemble's scores of a list, which deviate as the student's do: what is learnt is the order alone."""
        weights = self._settings.weights(self._pool.name)
        mixed = np.sum([weight * standardised(opinions[name]) for name, weight in weights.items()], 0)
        return np.asarray(standardised(mixed) * opinions["student"].std(), np.float32)


def raw_scores(ranker: BlockRankReranker, query: str, documents: Sequence[str] | PreparedDocuments) -> Scores:
    """A model's raw scores in the order of the documents."""
    scores = np.zeros(len(documents), np.float32)
    for found in ranker.rank(query, documents):
        scores[found.index] = found.raw_score
    return scores


def standardised(scores: Scores) -> Scores:
    """Scores of mean 0 and deviation 1."""
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def quality(ensemble: Ensemble, pool: Pool) -> str:
    """nDCG@10 of every teacher and of all together on the pool's queries, as a line."""
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for query, documents in candidates(pool, DEPTH, DENSE_DEPTH).items():
        opinions = ensemble.opinions(query, documents)
        for name, scores in {**opinions, "ensemble": ensemble.total(opinions)}.items():
            order = np.argsort(-scores, kind="stable")
            runs.setdefault(name, {})[query] = {documents[place]: float(scores[place]) for place in order}
    measured = {name: evaluate_run(pool.collection.qrels, run)["nDCG@10"] for name, run in runs.items()}
    return "  ".join([pool.name, *(f"{name} {100 * value:.1f}" for name, value in measured.items())])


def main(pools: Path, vectors: Path, student: str, settings: Path = HERE) -> None:
    """Print the quality of each teacher and of their ensemble on every development set."""
    check_vectors(pools, vectors, settings)
    ensembles, ranker = EnsembleSettings.read(settings), BlockRankReranker.from_pretrained(student)
    for folder in pool_folders(pools):
        pool = Pool.read(folder, "test", vectors, ensembles.encoders(folder.name))
        print(quality(Ensemble(pool, ranker, ensembles), pool), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    main(**vars(parser.parse_args()))
