"""Candidates of every query of a pool: the best of BM25 and of each encoder, so that both first stages are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.formats import Collection, read_collection, read_corpus
from blockrank_rerank.text.document import document_text
from recipes.ensemble.vectors import Vectors, vectors_file

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One split of a pool with what the encoders made of it.

    Parameters
    ----------
    name : str
        Of the collection.
    collection : Collection
        Queries and judgements of the split.
    texts : dict of str to str
        Documents.
    vectors : dict of str to Vectors
        By encoder.
    """

    name: str
    collection: Collection
    texts: dict[str, str]
    vectors: dict[str, Vectors]

    @classmethod
    def read(cls, folder: Path, split: str, vectors: Path, encoders: Sequence[str]) -> Pool:
        """Read a pool; `check_vectors` has seen that its vectors are there."""
        corpus = read_corpus(folder / "corpus.jsonl")
        return cls(
            name=folder.name,
            collection=read_collection(folder, split),
            texts={name: document_text(one, 0) for name, one in corpus.items()},
            vectors={encoder: Vectors(vectors_file(vectors, encoder, folder)) for encoder in encoders},
        )


def lexical_scores(pool: Pool) -> dict[str, Scores]:
    """BM25's score of every document of the pool, by query."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(pool.texts.values()), stopwords="en", show_progress=False), show_progress=False)
    nothing = np.zeros(len(pool.texts), np.float32)
    scores = {}
    for query, text in pool.collection.queries.items():
        words = bm25s.tokenize([text], stopwords="en", return_ids=False, show_progress=False)[0]
        # A query may hold stop words alone.
        scores[query] = index.get_scores(words) if words else nothing
    return scores


def candidates(pool: Pool, depth: int, dense_depth: int) -> dict[str, list[str]]:
    """The best documents of every query by BM25, then those of each encoder that it lacks."""
    names, lexical = list(pool.texts), lexical_scores(pool)
    matrices = {encoder: vectors.of("document", names) for encoder, vectors in pool.vectors.items()}
    found = {}
    for query in pool.collection.queries:
        rankings = [best(lexical[query], names, depth)]
        for encoder, matrix in matrices.items():
            scores = matrix @ pool.vectors[encoder].of("query", [query])[0]
            rankings.append(best(scores, names, dense_depth))
        found[query] = list(dict.fromkeys(name for ranking in rankings for name in ranking))
    return found


def best(scores: Scores, names: Sequence[str], depth: int) -> list[str]:
    """The best documents, best first; those that score nothing are none."""
    order = np.argsort(-scores, kind="stable")[:depth]
    return [names[place] for place in order if scores[place] > 0]
