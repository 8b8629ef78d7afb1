"""Rankings of a judged corpus without the documents that are judged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest

from blockrank_rerank.evaluation.measures import bm25_run, check_candidates
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus

Ranking = dict[str, list[str]]
"""Query → document ids, best first, none of them judged."""


def bm25_ranking(corpus: JudgedCorpus, depth: int, advice: str | None = None) -> Ranking:
    """Rank by BM25, and leave judged documents out of each query's first `depth`.

    Raises
    ------
    DataError
        If nothing is found for any query, where there is advice on what to do then.
    """
    run = bm25_run(corpus.queries, dict(corpus.documents), depth)
    if advice:
        check_candidates(run, corpus.queries, advice)
    return {query: unjudged(corpus, query, list(run.pop(query))) for query in corpus.queries}


def random_ranking(corpus: JudgedCorpus, depth: int, seed: int) -> Ranking:
    """Draw unjudged documents for every query at random."""
    names = list(corpus.documents)
    return {query: random_documents(corpus, query, names, depth, seed) for query in corpus.queries}


def random_documents(
    corpus: JudgedCorpus, query: str, names: list[str], count: int, seed: int, beside: frozenset[str] = frozenset()
) -> list[str]:
    """Draw at most `count` documents that are neither judged nor among `beside`.

    They depend on the seed and the query, and not on which other queries there are.

    Parameters
    ----------
    corpus : JudgedCorpus
        Knows what is judged.
    query : str
        Key of the query.
    names : list of str
        Ids to draw from.
    count : int
        Most documents.
    seed : int
        Seed of the draw.
    beside : frozenset of str
        Ids that are not drawn either.
    """
    refused = corpus.judged(query) | beside
    # So many distinct documents cannot all be refused, unless there are no more.
    drawn = random.Random(f"{seed}:{query}").sample(range(len(names)), min(len(names), count + len(refused)))
    return [names[index] for index in drawn if names[index] not in refused][:count]


def in_turns(rankings: Sequence[Ranking]) -> Ranking:
    """Join rankings of the same queries: the best of each in turns, every document once."""
    return {
        query: list(
            dict.fromkeys(
                name
                for row in zip_longest(*(ranking[query] for ranking in rankings))
                for name in row
                if name is not None
            )
        )
        for query in rankings[0]
    }


def unjudged(corpus: JudgedCorpus, query: str, ranking: list[str]) -> list[str]:
    """Leave out of a ranking the documents that are known to be relevant, or not to be."""
    judged = corpus.judged(query)
    return [name for name in ranking if name not in judged]
