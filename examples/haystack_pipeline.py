"""BlockRank as a ranker in a Haystack pipeline that is saved to YAML and loaded again.

pip install '.[haystack,eval]'
python examples/haystack_pipeline.py
"""

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from sample import QUERIES, TEXTS, ndcg, show


def build() -> Pipeline:
    """BM25 over an in-memory store, then BlockRank."""
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=20))
    pipeline.add_component("ranker", BlockRankRanker(top_k=10))  # the one new line
    pipeline.connect("retriever.documents", "ranker.documents")
    return pipeline


def main() -> None:
    pipeline = Pipeline.loads(build().dumps())
    store = pipeline.get_component("retriever").document_store
    store.write_documents([Document(id=name, content=text) for name, text in TEXTS.items()])
    before, after = {}, {}
    for query, question in QUERIES.items():
        found = pipeline.run(
            {"retriever": {"query": question}, "ranker": {"query": question}}, include_outputs_from={"retriever"}
        )
        before[query] = [document.id for document in found["retriever"]["documents"]]
        after[query] = [document.id for document in found["ranker"]["documents"]]
    query = next(iter(QUERIES))
    show(QUERIES[query], before[query], after[query])
    print(f"\nnDCG@10 over {len(QUERIES)} questions: BM25 {ndcg(before):.3f}, reranked {ndcg(after):.3f}")


if __name__ == "__main__":
    main()
