"""A ranker without a model: the share of query words in a document is its score."""

import math
from types import SimpleNamespace

from blockrank_rerank.ranking.results import Ranking


class FakeRanker:
    model = "fake"
    device = "cpu"
    dtype = "float32"
    longest = 50

    def __init__(self):
        self.requests = []
        self.min_probability = None

    def rank(self, query, documents, *, top_k=None, threshold=None, min_probability=None):
        assert min_probability is None
        return self.rank_batch([(query, documents)], top_k=top_k, threshold=threshold)[0]

    def fitting_queries(self, queries):
        return dict(queries)

    def rank_batch(
        self, requests, *, top_k=None, threshold=None, min_probability=None, show_progress=None, on_progress=None
    ):
        rankings, self.min_probability = [], min_probability
        for query, documents in requests:
            self.requests.append((query, documents))
            rankings.append(Ranking(self._ranking(query, documents, threshold)[:top_k]))
            if on_progress:
                on_progress(1, sum(len(_text(document)) for document in documents))
        return rankings

    def _ranking(self, query, documents, threshold):
        if not query.strip():
            raise ValueError("query must not be empty")
        words = set(query.lower().split())
        raw = [float(len(words & set(_text(document).lower().split()))) for document in documents]
        total = sum(map(math.exp, raw))
        ranked = [
            SimpleNamespace(
                index=index,
                score=math.exp(value) / total,
                raw_score=value,
                probability=None,
                text=_text(documents[index]),
                passage=None,
                pruned=False,
                layers_read=None,
                unreadable=0.0,
                truncated=len(_text(documents[index]).split()) > self.longest,
            )
            for index, value in enumerate(raw)
        ]
        kept = [document for document in ranked if threshold is None or document.score >= threshold]
        return sorted(kept, key=lambda document: -document.score)


def _text(document):
    return document if isinstance(document, str) else f"{document['title']} {document['text']}"
