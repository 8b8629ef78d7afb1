"""BlockRank as a ranker in a Haystack pipeline that is saved to YAML and loaded again.

pip install '.[haystack,eval]'
python examples/haystack_pipeline.py
"""

from haystack import Document, Pipeline, component
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from sample import CANDIDATES, TEXTS, report


@component
class FirstStage:
    """The examples' BM25; a retriever of Haystack goes here."""

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict[str, list[Document]]:
        """Return the 20 best passages."""
        return {"documents": [Document(id=name, content=TEXTS[name]) for name in CANDIDATES[query]]}


def build() -> Pipeline:
    """BM25, then BlockRank."""
    pipeline = Pipeline()
    pipeline.add_component("retriever", FirstStage())
    pipeline.add_component("ranker", BlockRankRanker(top_k=10))  # the one new line
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def main() -> None:
    pipeline = Pipeline.loads(build().dumps())
    rankings = {}
    for question in CANDIDATES:
        found = pipeline.run({"retriever": {"query": question}, "ranker": {"query": question}})
        rankings[question] = [document.id for document in found["ranker"]["documents"]]
    report(rankings)


if __name__ == "__main__":
    main()
