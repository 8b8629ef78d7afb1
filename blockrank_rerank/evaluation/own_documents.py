"""Queries that are documents of the corpus themselves, as in ArguAna and Quora."""

from __future__ import annotations

from blockrank_rerank.formats import Corpus, Queries, Run
from blockrank_rerank.text.document import Document, document_text, given_text


def is_query(query: str, document: Document) -> bool:
    """Say whether a document's text, with its title or without, is that of the query; white space does not count."""
    words = query.split()
    return words in (document_text(document, 0).split(), given_text(document).split())


def own_documents(queries: Queries, corpus: Corpus) -> frozenset[str]:
    """Return the ids under which a query and a document have the same text.

    Where only the id is the same, as in CISI and NPL, query and document are two things.
    """
    return frozenset(query for query, text in queries.items() if query in corpus and is_query(text, corpus[query]))


def without_own(run: Run, own: frozenset[str]) -> Run:
    """Leave each query's own document out of its candidates, as BEIR does.

    Parameters
    ----------
    run : Run
        Candidates.
    own : frozenset of str
        As from :func:`own_documents`.
    """
    return {
        query: {d: score for d, score in ranking.items() if d != query} if query in own else ranking
        for query, ranking in run.items()
    }
