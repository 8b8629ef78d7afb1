"""The same candidates in the same order from LlamaIndex, Haystack, LangChain and the engine itself.

pip install '.[all]'
python examples/same_order.py
"""

from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from langchain_blockrank import BlockRankRerank as LangChainRerank
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from sample import QUERIES, TEXTS

from blockrank_rerank import BlockRankReranker


def orders(question: str, names: list[str]) -> dict[str, list[str]]:
    """Document ids, best first, by framework."""
    nodes = [NodeWithScore(node=TextNode(id_=name, text=TEXTS[name])) for name in names]
    documents = [HaystackDocument(id=name, content=TEXTS[name]) for name in names]
    pages = [LangChainDocument(id=name, page_content=TEXTS[name]) for name in names]
    ranked = BlockRankReranker.from_pretrained().rank(question, [TEXTS[name] for name in names])
    return {
        "engine": [names[document.index] for document in ranked],
        "llama-index": [
            n.node.node_id for n in LlamaIndexRerank(top_n=None).postprocess_nodes(nodes, query_str=question)
        ],
        "haystack": [d.id for d in BlockRankRanker(top_k=len(names)).run(question, documents)["documents"]],
        "langchain": [str(d.id) for d in LangChainRerank(top_n=None).compress_documents(pages, question)],
    }


def main() -> None:
    names = list(TEXTS)[:30]
    for question in list(QUERIES.values())[:5]:
        by_framework = orders(question, names)
        same = len({tuple(order) for order in by_framework.values()}) == 1
        print(f"{question[:60]:60}  {'same order' if same else by_framework}")


if __name__ == "__main__":
    main()
