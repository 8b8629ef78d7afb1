"""What an evaluation is of: judged queries, their documents, and the candidates of a first stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from blockrank_rerank.evaluation.measures import bm25_run, check_candidates, check_judged, read_candidates
from blockrank_rerank.formats import Collection, Corpus, DataError, Run, read_collection, read_corpus, read_run
from blockrank_rerank.formats.collection import beir_file

BM25_ADVICE = "BM25 needs documents that share a word with a query; give the run of another first stage with --run"


class Task(NamedTuple):
    """A collection that was read, with its candidates."""

    collection: Collection
    corpus: Corpus
    first_stage: Run


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """Where a task comes from.

    Parameters
    ----------
    folder : Path
        BEIR folder.
    run : Path, optional
        First stage as a TREC run; BM25 if not given.
    split : str
        Name of the judgements.
    depth : int
        Candidates per query.
    min_relevance : int
        Least judgement that counts as relevant.
    all_judged : bool
        Whether judged queries without a relevant document are among the queries too.
    queries : int, optional
        Most queries, drawn at random; all if not given.
    seed : int
        Of that draw, and of the order in which candidates are scored.
    """

    folder: Path
    run: Path | None = None
    split: str = "test"
    depth: int = 100
    min_relevance: int = 1
    all_judged: bool = False
    queries: int | None = None
    seed: int = 0

    @property
    def first_stage_name(self) -> str:
        """The first stage, as reports name it."""
        return "BM25 (bm25s)" if self.run is None else str(self.run)

    def read(self) -> Task:
        """Read queries, documents and candidates.

        Raises
        ------
        OSError
            If a file is missing or none.
        DataError
            If one is malformed, or they do not belong together.
        """
        collection = read_collection(self.folder, self.split, self.min_relevance, all_judged=self.all_judged)
        if self.queries is not None:
            collection = collection.sample(self.queries, self.seed)
        return self._with_bm25(collection) if self.run is None else self._with_run(collection, self.run)

    def _with_bm25(self, collection: Collection) -> Task:
        corpus = read_corpus(beir_file(self.folder, "corpus.jsonl"))
        check_judged(collection, corpus, self.folder, self.split, self.min_relevance)
        found = bm25_run(collection.queries, corpus, self.depth)
        check_candidates(found, collection.queries, BM25_ADVICE)
        return Task(collection, corpus, found)

    def _with_run(self, collection: Collection, path: Path) -> Task:
        run = {query: ranking for query, ranking in read_run(path).items() if query in collection.queries}
        if not run:
            raise DataError(
                f"none of the {len(collection.queries)} judged queries of {self.folder} is in the run: it is another "
                "collection's",
                str(path),
            )
        judged = {document for grades in collection.qrels.values() for document in grades}
        return Task(collection, read_candidates(self.folder, run, judged), run)
