"""BlockRank as a node postprocessor in a LlamaIndex query engine, offline and without an LLM.

pip install '.[llama-index,eval]'
python examples/llama_index_query_engine.py
"""

from llama_index.core import QueryBundle, Settings
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank
from sample import CANDIDATES, TEXTS, report


class FirstStage(BaseRetriever):
    """The examples' BM25; the retriever of an index goes here."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(id_=name, text=TEXTS[name])) for name in CANDIDATES[query_bundle.query_str]]


def main() -> None:
    Settings.llm = MockLLM()  # this example only retrieves
    engine = RetrieverQueryEngine.from_args(
        FirstStage(),
        node_postprocessors=[BlockRankRerank(top_n=10)],  # the one new line
        response_mode="no_text",
    )
    report({question: [n.node.node_id for n in engine.query(question).source_nodes] for question in CANDIDATES})


if __name__ == "__main__":
    main()
