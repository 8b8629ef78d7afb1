"""BlockRank as a node postprocessor in a LlamaIndex query engine, offline and without an LLM.

pip install '.[llama-index,eval]' llama-index-retrievers-bm25
python examples/llama_index_query_engine.py
"""

from llama_index.core import Settings
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank
from llama_index.retrievers.bm25 import BM25Retriever
from sample import QUERIES, TEXTS, ndcg, show


def main() -> None:
    Settings.llm = MockLLM()  # this example only retrieves
    nodes = [TextNode(id_=name, text=text) for name, text in TEXTS.items()]
    retriever = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=20)
    engine = RetrieverQueryEngine.from_args(
        retriever,
        node_postprocessors=[BlockRankRerank(top_n=10)],  # the one new line
        response_mode="no_text",
    )
    before, after = {}, {}
    for query, question in QUERIES.items():
        before[query] = [found.node.node_id for found in retriever.retrieve(question)]
        after[query] = [found.node.node_id for found in engine.query(question).source_nodes]
    query = next(iter(QUERIES))
    show(QUERIES[query], before[query], after[query])
    print(f"\nnDCG@10 over {len(QUERIES)} questions: BM25 {ndcg(before):.3f}, reranked {ndcg(after):.3f}")


if __name__ == "__main__":
    main()
