"""The training queries that are held out, to measure a run that has no evaluation collections."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from blockrank_rerank.evaluation.measures import measure_queries
from blockrank_rerank.evaluation.paired import Difference, paired_difference
from blockrank_rerank.evaluation.rerank_run import rerank_run
from blockrank_rerank.finetune.data import ListSampler, TrainingExample
from blockrank_rerank.finetune.data.joined_rows import joined, query_key, relevant_texts
from blockrank_rerank.finetune.settings import FinetuneSettings
from blockrank_rerank.formats import Corpus, Qrels, Queries
from blockrank_rerank.reranker import BlockRankReranker

ONE_IN = 10
"""Of so many queries of a collection at most one is held out, where a whole model is trained on the others."""

LEAST = 10
"""Fewer queries tell nothing of a difference, and are not worth what training loses."""


@dataclass(frozen=True)
class HeldOut:
    """Queries that are not trained on, each with a list that is drawn as those of training.

    Attributes
    ----------
    queries : Queries
        Texts by id.
    qrels : Qrels
        Grades of the documents by query.
    corpus : Corpus
        Texts of the documents by id.
    """

    queries: Queries
    qrels: Qrels
    corpus: Corpus

    @classmethod
    def draw(
        cls, collections: Sequence[Sequence[TrainingExample]], keys: frozenset[str], settings: FinetuneSettings
    ) -> HeldOut:
        """Draw a list for each query, by the seed and the query alone.

        Parameters
        ----------
        collections : sequence of sequences of TrainingExample
            All that was read; of a query in several the first one counts.
        keys : frozenset of str
            See :func:`held_out_keys`.
        settings : FinetuneSettings
            Size of the lists, and seed.
        """
        relevant = relevant_texts(chain.from_iterable(collections))
        sampler, held_out = ListSampler(settings.max_positives), cls({}, {}, {})
        left = set(keys)
        for collection in map(joined, collections):
            for example in collection:
                key = query_key(example.query)
                if key in left:
                    left.remove(key)
                    generator = random.Random(f"{settings.seed}:held out:{key}")
                    size, known = settings.documents_per_list, relevant[key]
                    candidates = sampler.sample(example, size, generator, collection, relevant=known)
                    held_out._add(example.query, {found.text: found.grade for found in candidates})
        return held_out

    def ndcg(self, ranker: BlockRankReranker) -> dict[str, float]:
        """Measure nDCG@10 of every query's list, by the query's text."""
        lists = {query: dict.fromkeys(grades, 0.0) for query, grades in self.qrels.items()}
        run = rerank_run(ranker, lists, self.queries, self.corpus).run
        return {self.queries[query]: value for query, value in measure_queries(self.qrels, run)["nDCG@10"].items()}

    def _add(self, query: str, grades: dict[str, float]) -> None:
        name = f"q{len(self.queries)}"
        documents = {f"{name}d{number}": text for number, text in enumerate(grades)}
        self.queries[name] = query
        self.corpus.update(documents)
        # A grade below 1 is a relevant document's too; judgements are whole numbers.
        self.qrels[name] = {document: _judgement(grades[text]) for document, text in documents.items()}


@dataclass(frozen=True)
class HeldOutMeasures:
    """What the starting model and the result measure on held-out queries.

    Attributes
    ----------
    before, after : dict
        nDCG@10 by query.
    """

    before: dict[str, float]
    after: dict[str, float]

    @property
    def means(self) -> tuple[float, float]:
        """Return the mean nDCG@10 before and after."""
        return sum(self.before.values()) / len(self.before), sum(self.after.values()) / len(self.after)

    @property
    def difference(self) -> Difference:
        """Return the mean of after - before with its 95 % interval."""
        return paired_difference([self.after[query] for query in self.before], [*self.before.values()])

    def line(self) -> str:
        """Put before and after into one line, with the number of queries and the interval of the difference."""
        (before, after), difference = self.means, self.difference
        return (
            f"nDCG@10 {before:.4f} -> {after:.4f} on {len(self.before)} held-out queries "
            f"(difference {difference.mean:+.4f}, 95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
        )


def held_out_keys(
    collections: Sequence[Sequence[TrainingExample]], most: int, seed: int, one_in: int = ONE_IN
) -> frozenset[str]:
    """Choose the queries that a run is not to train on.

    Parameters
    ----------
    collections : sequence of sequences of TrainingExample
        One for each source of the settings; a query may be in several.
    most : int
        So many queries at most.
    seed : int
        Of the choice.
    one_in : int
        Of so many queries of a collection at most one is chosen.

    Returns
    -------
    frozenset of str
        Their `query_key`; none where the data is too small.
    """
    places: dict[str, set[int]] = {}
    for number, collection in enumerate(collections):
        for example in collection:
            places.setdefault(query_key(example.query), set()).add(number)
    sizes = Counter(chain.from_iterable(places.values()))
    spare = {number: size // one_in for number, size in sizes.items()}
    order, held = list(places), set[str]()
    random.Random(f"{seed}:held out").shuffle(order)
    for key in order:
        if len(held) < most and all(spare[number] for number in places[key]):
            held.add(key)
            for number in places[key]:
                spare[number] -= 1
    return frozenset(held if len(held) >= min(LEAST, most) else ())


def _judgement(grade: float) -> int:
    return max(1, round(grade)) if grade > 0 else 0
