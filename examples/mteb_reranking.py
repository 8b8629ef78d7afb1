"""Measure BlockRank with mteb on a task of one's own, with the class that official tasks take too.

pip install '.[eval]' 'mteb>=2'
python examples/mteb_reranking.py
"""

from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.model_meta import ModelMeta
from sample import CANDIDATES, COLLECTION, FOLDER, QUERIES, TEXTS

from blockrank_rerank import BlockRankReranker, __version__


class BlockRankSearch:
    """Ranks the candidates that a reranking task brings: mteb's SearchProtocol."""

    mteb_model_meta = ModelMeta.create_empty(
        {"name": "blockrank-rerank/default", "revision": __version__, "model_type": ["late-interaction"]}
    )

    def __init__(self, ranker: BlockRankReranker) -> None:
        self._ranker = ranker
        self._corpus: dict[str, dict[str, str]] = {}

    def index(self, corpus: Dataset, **task: Any) -> None:
        """Keep the documents by their ids."""
        self._corpus = {row["id"]: {"title": row.get("title") or "", "text": row["text"]} for row in corpus}

    def search(
        self, queries: Dataset, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **task: Any
    ) -> dict[str, dict[str, float]]:
        """Rank each query's candidates, and return raw scores."""
        if top_ranked is None:
            raise ValueError("this task brings no candidates, which BlockRank ranks: see convert_to_reranking of mteb")
        found = {}
        for query in queries:
            names = list(top_ranked[query["id"]])
            ranked = self._ranker.rank(query["text"], [self._corpus[name] for name in names], top_k=top_k)
            found[query["id"]] = {names[document.index]: document.raw_score for document in ranked}
        return found


class MedQuADSample(AbsTaskRetrieval):
    """The sample of this repository as a task: BM25's 20 best for each of 40 questions."""

    metadata = TaskMetadata(
        name="MedQuADSample",
        description="Questions on health, and passages that answer them.",
        type="Reranking",
        category="t2t",
        dataset={"path": str(FOLDER), "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        license="cc-by-4.0",
    )

    def load_data(self, *arguments: Any, **settings: Any) -> None:
        """Take what is in memory."""
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list([{"id": name, "text": text} for name, text in TEXTS.items()]),
                    "queries": Dataset.from_list([{"id": name, "text": text} for name, text in QUERIES.items()]),
                    "relevant_docs": COLLECTION.qrels,
                    "top_ranked": {query: CANDIDATES[question] for query, question in QUERIES.items()},
                }
            }
        }
        self.data_loaded = True


def main() -> None:
    model = BlockRankSearch(BlockRankReranker.from_pretrained())
    results = mteb.evaluate(model, MedQuADSample(), cache=None, show_progress_bar=False)
    (result,) = results.task_results
    print(f"{len(QUERIES)} questions, nDCG@10: reranked {result.get_score():.3f}")


if __name__ == "__main__":
    main()
