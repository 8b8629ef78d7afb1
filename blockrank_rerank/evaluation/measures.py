"""Rankings measured against judgements, and the first stage that they are compared with."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import install_line
from blockrank_rerank.evaluation.own_documents import own_documents, without_own
from blockrank_rerank.evaluation.rerank_run import (
    BatchRanker,
    RerankedRun,
    check_run,
    document_ids,
    first_documents,
    rerank_run,
)
from blockrank_rerank.evaluation.words import PATTERN, spaced
from blockrank_rerank.formats import Collection, Corpus, DataError, Qrels, Queries, Run, read_corpus
from blockrank_rerank.formats.collection import beir_file


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a first stage and its reranking measure.

    Parameters
    ----------
    before, after : dict
        Measure name → mean over all queries of the collection.
    reranked : RerankedRun
        The new run and its cost.
    queries : int
        Queries averaged over.
    without_candidates : int
        Queries among them for which the first stage found nothing; they count as 0.
    unranked : int
        Queries whose candidates all have one score. Such a list is no ranking, and the order of its lines
        (often: relevant documents first) must not be measured as one; it is shuffled for `before`.
    in_corpus : int
        Queries that are documents of the corpus themselves, under their id; these documents are no candidates.
    candidates : Run
        What was reranked, in the order of the first stage.
    """

    before: dict[str, float]
    after: dict[str, float]
    reranked: RerankedRun
    queries: int
    without_candidates: int
    unranked: int
    in_corpus: int
    candidates: Run


def require_extra() -> None:
    """Refuse to start when the ``eval`` extra is not installed.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    for module in ("ir_measures", "bm25s"):
        import_extra(module)


def bm25_run(queries: Queries, corpus: Corpus, depth: int = 100) -> Run:
    """Retrieve a first stage by BM25 (bm25s with its defaults, over title and text, English stop words).

    In scripts without spaces, characters and pairs of them are its words.

    Parameters
    ----------
    queries : Queries
        Texts by id.
    corpus : Corpus
        Documents by id.
    depth : int
        Most documents per query. Documents that share no word with the query are not retrieved.

    Returns
    -------
    Run
        Best document first; a query without any word of the corpus has no documents. A query that is itself a
        document of the corpus, under its id, does not find that document.

    Raises
    ------
    ImportError
        With the line that installs the ``eval`` extra.
    """
    bm25s = import_extra("bm25s")
    words = bm25_words([_searched(document) for document in corpus.values()])
    if not words.vocab:  # bm25s cannot index nothing
        return {query: {} for query in queries}
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    # Word lists and not ids: ids of a second tokenize call belong to a vocabulary of its own.
    asked = bm25_words(list(queries.values()), return_ids=False)
    own = own_documents(queries, corpus)
    rows, scores = index.retrieve(asked, k=min(depth + bool(own), len(corpus)), show_progress=False)
    identifiers = list(corpus)
    run = {
        query: {identifiers[row]: float(score) for row, score in zip(*found, strict=True) if score > 0}
        for query, *found in zip(queries, rows, scores, strict=True)
    }
    return first_documents(without_own(run, own), depth) if own else run


def check_candidates(run: Run, queries: Queries, advice: str) -> None:
    """Refuse a first stage without a candidate for any query, of which no measure says anything.

    Parameters
    ----------
    run : Run
        The first stage.
    queries : Queries
        Texts by id.
    advice : str
        What to do.

    Raises
    ------
    DataError
        If there is no candidate at all.
    """
    if not any(run.get(query) for query in queries):
        raise DataError(f"the first stage finds no document for any of the {len(queries)} queries; {advice}")


def measure_queries(qrels: Qrels, run: Run, min_relevance: int = 1, *, depth: int = 100) -> dict[str, dict[str, float]]:
    """Measure the ranking of every query, as ``trec_eval -c -q`` would.

    Parameters
    ----------
    qrels : Qrels
        Judgements of the queries that are measured; one that the run lacks counts as 0.
    run : Run
        Documents best first. Their order is the ranking, so that ties count in the order given and not by
        document id.
    min_relevance : int
        Least judgement that counts as relevant for RR, AP and recall; nDCG uses the judgements as gains.
    depth : int
        Second recall cut-off.

    Returns
    -------
    dict
        ``nDCG@10``, ``RR@10``, ``AP``, ``R@10``, and ``R@<depth>``: of each, query → value in 0..1.

    Raises
    ------
    ImportError
        With the line that installs the ``eval`` extra.
    """
    ir_measures = import_extra("ir_measures")
    measures = {
        "nDCG@10": ir_measures.nDCG @ 10,
        "RR@10": ir_measures.RR(rel=min_relevance) @ 10,
        "AP": ir_measures.AP(rel=min_relevance),
        "R@10": ir_measures.R(rel=min_relevance) @ 10,
        f"R@{depth}": ir_measures.R(rel=min_relevance) @ depth,
    }
    # By numbers: trec_eval ends the process at ids that are no UTF-8, and cuts them at a zero byte.
    judged, ranked = {}, {}
    for number, (query, grades) in enumerate(qrels.items()):
        ranking = run.get(query, {})
        names = {document: str(place) for place, document in enumerate(dict.fromkeys((*grades, *ranking)))}
        judged[str(number)] = {names[document]: grade for document, grade in grades.items()}
        ranked[str(number)] = {names[document]: -float(rank) for rank, document in enumerate(ranking)}
    queries = list(qrels)
    values = {measure: dict.fromkeys(qrels, 0.0) for measure in measures.values()}
    for metric in ir_measures.iter_calc(list(values), judged, ranked):
        values[metric.measure][queries[int(metric.query_id)]] = metric.value
    return {name: values[measure] for name, measure in measures.items()}


def evaluate_run(qrels: Qrels, run: Run, min_relevance: int = 1, *, depth: int = 100) -> dict[str, float]:
    """Average what :func:`measure_queries` says of each query, over exactly the judged queries.

    Parameters
    ----------
    qrels, run, min_relevance, depth
        As for :func:`measure_queries`.

    Returns
    -------
    dict
        Its measures: values in 0..1.
    """
    measured = measure_queries(qrels, run, min_relevance, depth=depth)
    return {name: sum(values.values()) / len(qrels) for name, values in measured.items()}


def shuffled(run: Run, seed: int) -> Run:
    """Put the candidates of every query into random order.

    A model must not profit from the order of the first stage, neither through positions nor through ties.
    The order depends on the seed and the query id alone, so that a sample of queries sees the same lists.
    """
    return {query: dict(_shuffled_items(ranking, f"{seed}:{query}")) for query, ranking in run.items()}


def evaluate_ranker(
    ranker: BatchRanker,
    collection: Collection,
    corpus: Corpus,
    first_stage: Run,
    *,
    depth: int = 100,
    min_relevance: int = 1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare a first stage with its reranking.

    Parameters
    ----------
    ranker : BatchRanker
        Usually a `BlockRankReranker`.
    collection : Collection
        Judged queries.
    corpus : Corpus
        Documents that the first stage names.
    first_stage : Run
        Candidates, best first; queries outside the collection are ignored.
    depth : int
        Candidates per query.
    min_relevance : int
        Least judgement that counts as relevant.
    seed : int
        Seed of the order in which the ranker gets the candidates.
    on_progress : callable, optional
        Called with the requests and tokens finished since the last call.

    Raises
    ------
    DataError
        If the first stage names a document that the corpus lacks, or finds nothing for any query.
    """
    own = own_documents(collection.queries, corpus)
    first_stage = without_own(first_stage, own)
    check_candidates(first_stage, collection.queries, "give another first stage")
    found = {query: first_stage[query] for query in collection.queries if first_stage.get(query)}
    unranked = {query: ranking for query, ranking in found.items() if _is_unranked(ranking)}
    candidates = first_documents(found | shuffled(unranked, seed), depth)
    reranked = rerank_run(ranker, shuffled(candidates, seed), collection.queries, corpus, on_progress=on_progress)
    return Evaluation(
        before=evaluate_run(collection.qrels, candidates, min_relevance, depth=depth),
        after=evaluate_run(collection.qrels, reranked.run, min_relevance, depth=depth),
        reranked=reranked,
        queries=len(collection.queries),
        without_candidates=len(collection.queries) - len(candidates),
        unranked=len(unranked),
        in_corpus=len(own),
        candidates=candidates,
    )


def check_judged(collection: Collection, corpus: Corpus, folder: Path, split: str, min_relevance: int = 1) -> None:
    """Refuse judgements of documents that are not there, which measure nothing; warn where some are missing.

    Parameters
    ----------
    collection : Collection
        Judged queries.
    corpus : Corpus
        Documents by id.
    folder, split
        Where both come from, for messages.
    min_relevance : int
        Least judgement that counts as relevant.

    Raises
    ------
    DataError
        If no relevant document is in the corpus.
    """
    relevant = {d for judged in collection.qrels.values() for d, grade in judged.items() if grade >= min_relevance}
    missing = relevant - corpus.keys()
    if missing == relevant:
        raise DataError(
            f"none of the {len(relevant)} relevant documents of split {split!r} is in corpus.jsonl, such as "
            f"{min(missing)!r}: the judgements are of another corpus",
            str(folder),
        )
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(relevant)} relevant documents are not in corpus.jsonl, such as {min(missing)!r}: "
            "they count as not found",
            stacklevel=2,
        )


def read_candidates(folder: Path, run: Run, also: Iterable[str] = ()) -> Corpus:
    """Read those documents of a BEIR folder that a run names, and others where they are there.

    Raises
    ------
    DataError
        If one of the run is missing; names the first few.
    """
    corpus = read_corpus(beir_file(folder, "corpus.jsonl"), keep=document_ids(run).union(also))
    check_run(run, dict.fromkeys(run, ""), corpus)
    return corpus


def import_extra(module: str) -> Any:
    """Import a module of the ``eval`` extra.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"evaluation needs {module}, which cannot be imported; {install_line('eval')}") from error


def bm25_words(texts: list[str], **arguments: Any) -> Any:
    """Return the words of texts as BM25 sees them, in the form of ``bm25s.tokenize``, which takes the arguments."""
    bm25s = import_extra("bm25s")
    prepared = [spaced(text) for text in texts]
    return bm25s.tokenize(prepared, token_pattern=PATTERN, stopwords="en", show_progress=False, **arguments)


def _searched(document: str | dict[str, str]) -> str:
    return document if isinstance(document, str) else f"{document['title']} {document['text']}"


def _is_unranked(ranking: dict[str, float]) -> bool:
    return len(ranking) > 1 and len(set(ranking.values())) == 1


def _shuffled_items(ranking: dict[str, float], seed: str) -> Iterator[tuple[str, float]]:
    items = list(ranking.items())
    random.Random(seed).shuffle(items)
    return iter(items)
