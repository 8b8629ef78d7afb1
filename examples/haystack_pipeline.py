"""BlockRank as a ranker in a Haystack pipeline that is saved to YAML and loaded again.

pip install '.[haystack,eval]'
python examples/haystack_pipeline.py
"""

from haystack import Document, Pipeline
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from sample import CANDIDATES, TEXTS, report


def build() -> Pipeline:
    """Documents in, ranked documents out; behind a retriever, connect its documents to the ranker's."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", BlockRankRanker(top_k=10))  # the one new line
    return pipeline


def main() -> None:
    pipeline = Pipeline.loads(build().dumps())
    rankings = {}
    for question, names in CANDIDATES.items():
        documents = [Document(id=name, content=TEXTS[name]) for name in names]
        found = pipeline.run({"ranker": {"query": question, "documents": documents}})
        rankings[question] = [document.id for document in found["ranker"]["documents"]]
    report(rankings)


if __name__ == "__main__":
    main()
