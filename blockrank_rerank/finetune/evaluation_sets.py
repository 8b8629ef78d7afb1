"""The judged queries that a run is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockrank_rerank.evaluation.measures import bm25_run, check_candidates, check_judged, evaluate_ranker
from blockrank_rerank.finetune.sources import EvaluationSource
from blockrank_rerank.formats import Collection, Corpus, Run, read_collection, read_corpus, read_run
from blockrank_rerank.formats.collection import beir_file
from blockrank_rerank.reranker import BlockRankReranker

MEASURES = {"nDCG@10": "ndcg@10", "MRR@10": "mrr@10"}
"""What is measured, with its key in a run's records; ``first_stage_`` and ``mean_`` come before keys."""


@dataclass(frozen=True)
class EvaluationSet:
    """Judged queries with their candidates, which are read once and ranked many times.

    Attributes
    ----------
    name : str
        See :func:`evaluation_names`.
    collection, corpus, run
        Queries with judgements, candidates' texts, first stage.
    depth : int
        Candidates per query.
    """

    name: str
    collection: Collection
    corpus: Corpus
    run: Run
    depth: int

    @classmethod
    def read(cls, source: EvaluationSource, name: str, seed: int) -> EvaluationSet:
        """Read a BEIR folder, sample queries, and find candidates by BM25 where no run is given.

        Parameters
        ----------
        source : EvaluationSource
            The folder, and what to take of it.
        name : str
            See :func:`evaluation_names`.
        seed : int
            Seed of the sample.

        Raises
        ------
        DataError
            For malformed files, judgements of another corpus, and a first stage without any candidate.
        """
        folder = Path(source.path)
        collection = read_collection(folder, source.split).sample(source.queries, seed)
        corpus = read_corpus(beir_file(folder, "corpus.jsonl"))
        check_judged(collection, corpus, folder, source.split)
        run = read_run(Path(source.run)) if source.run else bm25_run(collection.queries, corpus, source.depth)
        run = {query: ranking for query, ranking in run.items() if query in collection.queries}
        check_candidates(run, collection.queries, f"give the run of another one for {name} (run)")
        named = {document for ranking in run.values() for document in ranking}
        candidates = {document: text for document, text in corpus.items() if document in named}
        return cls(name, collection, candidates, run, source.depth)

    def located_queries(self) -> Iterator[tuple[str, str]]:
        """Give every query with where it stands, for messages."""
        return ((text, f"{self.name}: query {query}") for query, text in self.collection.queries.items())

    def measure(self, ranker: BlockRankReranker, seed: int) -> dict[str, float]:
        """Measure nDCG@10 and RR@10 of the first stage and of its reranking."""
        result = evaluate_ranker(ranker, self.collection, self.corpus, self.run, depth=self.depth, seed=seed)
        return {
            "first_stage_ndcg@10": result.before["nDCG@10"],
            "ndcg@10": result.after["nDCG@10"],
            "first_stage_mrr@10": result.before["RR@10"],
            "mrr@10": result.after["RR@10"],
        }


def means(measures: Mapping[str, float]) -> str:
    """Write the mean measures of the evaluation collections beside those of the first stage's order."""
    return ", ".join(
        f"mean {name} {measures[f'mean_{key}']:.4f} (first stage {measures[f'mean_first_stage_{key}']:.4f})"
        for name, key in MEASURES.items()
    )


def evaluation_names(sources: Sequence[EvaluationSource]) -> list[str]:
    """Name every evaluation collection by its folder, and by its split where a folder has several."""
    times = Counter(source.path for source in sources)
    return [f"{source.path} ({source.split})" if times[source.path] > 1 else source.path for source in sources]


def weights_name(step: float, steps: int) -> str:
    """Name weights that were measured in a run of so many steps; their average comes after the last one."""
    return f"step {step:g}" if step <= steps else "the average of the last weights"
