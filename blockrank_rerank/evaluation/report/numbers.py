"""What a report holds besides texts: all of it goes into the JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blockrank_rerank.evaluation.calibration import Calibration
from blockrank_rerank.evaluation.machine import Machine
from blockrank_rerank.evaluation.paired import Difference, Interval

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CollectionNumbers:
    """The collection, and how it was measured.

    Parameters
    ----------
    name, split, first_stage : str
        As they were given, without folders.
    queries, documents : int
        Queries averaged over; documents of the corpus that were read.
    depth, min_relevance, seed : int
        As asked.
    recall : float
        Of the first stage at this depth, which no reranking changes.
    without_relevant, without_candidates, unranked, in_corpus : int
        Queries that are left out, count as 0, have candidates of one score, and are documents themselves.
    """

    name: str
    split: str
    first_stage: str
    queries: int
    documents: int
    depth: int
    min_relevance: int
    seed: int
    recall: float
    without_relevant: int
    without_candidates: int
    unranked: int
    in_corpus: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ranker on the same candidates.

    Parameters
    ----------
    name : str
        Of the ranker.
    measures : mapping
        Name → mean.
    interval : Interval
        Of nDCG@10.
    ours : Difference or None
        nDCG@10 of the model that the report is about, less this one's, by query; None in its own row.
    truncated : int
        Documents of which it read only the beginning, as far as it says.
    """

    name: str
    measures: Mapping[str, float]
    interval: Interval
    ours: Difference | None
    truncated: int


@dataclass(frozen=True, kw_only=True)
class Depth:
    """nDCG@10 of our model when it gets so many candidates, and the recall of these."""

    depth: int
    ndcg: float
    recall: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds for the list of one query, over a sample of queries."""

    name: str
    way: str
    queries: int
    documents: float
    p50: float
    p95: float


@dataclass(frozen=True, kw_only=True)
class Permutations:
    """nDCG@10 of a model that reads whole lists, with the candidates in several orders, and the variance."""

    name: str
    values: Sequence[float]
    variance: float


@dataclass(frozen=True, kw_only=True)
class Stuffing:
    """Name of a ranker → way of stuffing → share of the queries for which the stuffed document wins."""

    queries: int
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class NamedCalibration:
    """What the probabilities of one model are worth."""

    name: str
    values: Calibration


@dataclass(frozen=True, kw_only=True)
class WorstQuery:
    """A query that our model ranks worse than the first stage, or badly."""

    query: str
    first_stage: float
    ours: float


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A whole report without a text of the collection.

    Parameters
    ----------
    command, date : str
        What was typed, and the day.
    machine : Machine
        Where.
    model : str
        Name of the row that the report is about.
    collection, rows, depths, latencies, permutations, stuffing, calibrations, worst
        The parts.
    notes : sequence of str
        What is missing, and why.
    """

    format: int = FORMAT_VERSION
    command: str
    date: str
    machine: Machine
    model: str
    collection: CollectionNumbers
    rows: Sequence[Row]
    depths: Sequence[Depth]
    latencies: Sequence[Latency]
    permutations: Sequence[Permutations]
    stuffing: Stuffing | None
    calibrations: Sequence[NamedCalibration]
    worst: Sequence[WorstQuery]
    notes: Sequence[str]
