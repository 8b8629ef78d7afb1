"""Negatives mined from a collection, from its path to the examples."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from blockrank_rerank.errors import is_real
from blockrank_rerank.finetune.data.beir_folder import read_judged_corpus
from blockrank_rerank.finetune.data.example import TrainingExample
from blockrank_rerank.finetune.data.judged_corpus import JudgedCorpus
from blockrank_rerank.finetune.data.reader import expanded_source, read_examples, resolve_format
from blockrank_rerank.finetune.data.retrieval import Ranking, bm25_ranking, in_turns, random_ranking, unjudged
from blockrank_rerank.finetune.data.row import refuse
from blockrank_rerank.finetune.mining.embeddings import LARGEST_BATCH, Encode, nearest, sentence_transformer
from blockrank_rerank.finetune.mining.miner import Miner
from blockrank_rerank.finetune.mining.progress import OnProgress
from blockrank_rerank.finetune.mining.report import Mining
from blockrank_rerank.finetune.mining.teacher import Teacher
from blockrank_rerank.finetune.setting_kinds import check_count, shown
from blockrank_rerank.options.values import check_device, check_dtype
from blockrank_rerank.system.files import UserPath, path_text

MARGIN = 0.95
"""Of a teacher: share of the best positive's score from which on a negative is refused where nobody says another."""
LARGEST_DEPTH = 1_000_000
"""Documents of a ranking that are believed to be meant."""
METHODS = ("bm25", "embeddings", "random", "given")
OTHER_METHODS = "take another method, embeddings or random (--method)"
Method = Literal["bm25", "embeddings", "random", "given"]


def mine_negatives(
    source: UserPath | Sequence[TrainingExample],
    *,
    split: str = "train",
    format: str = "auto",
    columns: dict[str, str] | None = None,
    method: Method | Sequence[Method] = "bm25",
    model: UserPath | Encode | None = None,
    depth: int = 100,
    skip_top: int = 0,
    per_query: int = 20,
    teacher: UserPath | Encode | None = None,
    teacher_margin: float | None = None,
    queries_limit: int | None = None,
    exclude_queries: Collection[str] = (),
    exclude_documents: Collection[str] = (),
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int = 64,
    pooling: str | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    on_progress: OnProgress | None = None,
) -> Mining:
    """Find hard negatives, and leave out those that may well be relevant.

    Parameters
    ----------
    source : str, path-like or sequence of TrainingExample
        A BEIR folder, or data that `read_examples` reads; then all its documents together are the collection.
    split, format, columns
        As `read_examples` takes them.
    method : {"bm25", "embeddings", "random", "given"}, or a sequence of them
        Where candidates come from; "given" only filters and scores the negatives that the data has. Of several, the
        best of each come first, in turns.
    model : str or Encode, optional
        Embedding model for "embeddings": a folder or Hub id for sentence-transformers, or a function.
    depth : int
        Documents of the ranking that are looked at.
    skip_top : int
        Unjudged documents left out at the top of the ranking, where false negatives are most likely.
    per_query : int
        Negatives per query, the hardest that are left; filled up with random documents of the collection.
    teacher : str or Encode, optional
        Embedding model that scores all documents and refuses false negatives.
    teacher_margin : float
        Share of the best positive's score from which on a negative is refused, by default 0.95; see
        `is_false_negative`.
    queries_limit : int, optional
        Draw so many of the queries at random.
    exclude_queries, exclude_documents : collection of str
        Ids of queries to leave out (of rows, those of their column ``query_id``), and of documents that must occur
        nowhere (ids of a BEIR folder). A warning tells where none of them is in the data.
    seed : int
        Seed of random draws; those for one query do not depend on which other queries there are.
    device, dtype, batch_size, pooling, query_prefix, document_prefix
        As `sentence_transformer` takes them, for every model that is given by name.
    on_progress : OnProgress, optional
        Told the stage, what is done of it, and all of it.

    Returns
    -------
    Mining
        Judged documents, copies of them, and what is relevant to another query of the same text are never mined.
        Nor is a document that is the query itself, under its id.
        Documents that a BEIR folder judges 0 are kept as negatives whatever the teacher says; negatives of rows
        are candidates before the mined ones. Without a teacher, scores that the data has stay where every
        document of a list has one.

    Raises
    ------
    ValueError
        For numbers out of range, devices and dtypes that torch does not know, models made for something else, ids to
        leave out of data that has none, a pooling or prefixes of no model, and a margin of no teacher.
    FileNotFoundError
        If the data, or the folder of a model, is not there.
    DataError
        If the data is at fault, nothing is left of it, or BM25 finds no document for any query.
    ImportError
        If bm25s or sentence-transformers is needed and missing.
    """
    methods: tuple[Method, ...] = (method,) if isinstance(method, str) else tuple(method)
    _check(methods, model, depth, skip_top, per_query, teacher_margin, queries_limit, batch_size)
    check_device(device)
    check_dtype(dtype)
    searched, judged = _named(model), _named(teacher)
    made = {"pooling": pooling, "query_prefix": query_prefix, "document_prefix": document_prefix}
    _check_named(made, searched, judged)
    if judged is None and teacher_margin is not None:
        raise ValueError(f"teacher_margin must come with a teacher, got {teacher_margin} without one; leave it out")

    def encoder(named: str | Encode) -> Encode:
        if callable(named):
            return named
        return sentence_transformer(
            named,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            pooling=pooling,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
        )

    whole = _corpus(source, split, format, columns)
    rest = whole.without(exclude_queries, exclude_documents)
    _warn_of_strangers(whole, exclude_queries, exclude_documents)
    corpus = rest.sample(queries_limit, seed)
    if not corpus.queries:
        raise ValueError("no query is left to mine for: exclude_queries and exclude_documents name them all")
    judge = None if judged is None else Teacher(encoder(judged), on_progress)
    searcher = None
    if searched is not None:
        searcher = judge if judge and searched == judged else Teacher(encoder(searched), on_progress)
    ranking = in_turns([_ranking(corpus, one, depth, seed, searcher) for one in methods])
    miner = Miner(
        corpus,
        judge,
        margin=MARGIN if teacher_margin is None else teacher_margin,
        skip_top=skip_top,
        per_query=per_query,
        seed=seed,
        on_progress=on_progress,
    )
    mining = miner.mine(ranking)
    mining.report.queries_excluded = len(whole.queries) - len(rest.queries)
    mining.report.documents_excluded = len(whole.documents) - len(rest.documents)
    return mining


def _warn_of_strangers(corpus: JudgedCorpus, queries: Collection[str], documents: Collection[str]) -> None:
    """Warn of ids to leave out of which none is there: they may be another collection's."""
    known = {
        "exclude_queries": (queries, corpus.query_ids.values()),
        "exclude_documents": (documents, corpus.documents.keys() | corpus.copies.keys()),
    }
    for name, (excluded, there) in known.items():
        if excluded and not set(excluded).intersection(there):
            warnings.warn(
                f"none of the {len(excluded):,} ids of {name} is in the data, such as {min(excluded)!r}: nothing is "
                "left out",
                stacklevel=3,
            )


def _named(model: UserPath | Encode | None) -> str | Encode | None:
    """Spell out a model's folder; one that is missing is refused before anything is read."""
    if not isinstance(model, str | os.PathLike):
        return model
    from blockrank_rerank.model.checkpoint import Checkpoint

    return Checkpoint(model=path_text(model)).model


def _check_named(settings: dict[str, str | None], model: str | Encode | None, teacher: str | Encode | None) -> None:
    """Refuse settings of embedding models where none is given by name, and warn where two that differ share them."""
    given = " and ".join(name for name, value in settings.items() if value is not None)
    named = list(dict.fromkeys(one for one in (model, teacher) if isinstance(one, str)))
    if given and not named:
        raise ValueError(f"{given} must come with an embedding model given by name, as model or teacher; got none")
    if given and len(named) > 1:
        warnings.warn(
            f"{given} is used for {named[0]!r} and {named[1]!r}, which may have been trained with others: leave out "
            "what comes with the models, or mine with one and score with the other",
            stacklevel=3,
        )


def _corpus(
    source: UserPath | Sequence[TrainingExample], split: str, format: str, columns: dict[str, str] | None
) -> JudgedCorpus:
    if not isinstance(source, str | os.PathLike):
        return JudgedCorpus.from_examples(source)
    source = expanded_source(source)
    if resolve_format(source, format, columns) == "beir":
        return read_judged_corpus(Path(source), split, refuse)
    return JudgedCorpus.from_examples(read_examples(source, split=split, format=format, columns=columns))


def _ranking(corpus: JudgedCorpus, method: Method, depth: int, seed: int, searcher: Teacher | None) -> Ranking:
    if method == "embeddings" and searcher is not None:
        return _embedding_ranking(corpus, searcher, depth)
    if method == "bm25":
        return bm25_ranking(corpus, depth, "BM25 needs documents that share a word with a query; " + OTHER_METHODS)
    return random_ranking(corpus, depth if method == "random" else 0, seed)


def _embedding_ranking(corpus: JudgedCorpus, searcher: Teacher, depth: int) -> Ranking:
    names, texts = list(corpus.documents), list(corpus.documents.values())
    queries = list(corpus.queries.values())
    searcher.read(queries, texts)
    found = nearest(searcher.queries[queries], searcher.documents[texts], depth)
    return {
        query: unjudged(corpus, query, [names[number] for number in numbers])
        for query, numbers in zip(corpus.queries, found, strict=True)
    }


def _check(
    methods: Sequence[str],
    model: object,
    depth: int,
    skip_top: int,
    per_query: int,
    teacher_margin: float | None,
    queries_limit: int | None,
    batch_size: int,
) -> None:
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"method must name at least one, and none twice, got {list(methods)}")
    if ("embeddings" in methods) != (model is not None):
        raise ValueError(
            f"model is needed for method 'embeddings' (--model) and for no other, got {model!r} for "
            f"{' and '.join(map(repr, methods))}"
        )
    for name, value in (("depth", depth), ("per_query", per_query), ("skip_top", skip_top)):
        check_count(name, value, LARGEST_DEPTH, None)
    if depth < 1 or per_query < 1 or not 0 <= skip_top < depth:
        raise ValueError(
            f"depth and per_query must be at least 1 and skip_top in 0..{depth - 1}, "
            f"got depth {depth}, per_query {per_query}, skip_top {skip_top}"
        )
    check_count("batch_size", batch_size, LARGEST_BATCH)
    if queries_limit is not None:
        check_count("queries_limit", queries_limit, (1 << 31) - 1)
    if teacher_margin is not None and (not is_real(teacher_margin) or not 0 < teacher_margin < 100):
        raise ValueError(f"teacher_margin must be above 0 and below 100, got {shown(teacher_margin)}")
