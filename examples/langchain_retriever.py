"""BlockRank as a document compressor in LangChain: around a retriever, and as a step of an LCEL chain.

pip install '.[langchain,eval]' langchain-classic
python examples/langchain_retriever.py
"""

from typing import Any

from langchain_blockrank import BlockRankRerank
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from sample import CANDIDATES, TEXTS, report


class FirstStage(BaseRetriever):
    """The examples' BM25; a retriever of yours goes here."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(id=name, page_content=TEXTS[name]) for name in CANDIDATES[query]]


def main() -> None:
    retriever, reranker = FirstStage(), BlockRankRerank(top_n=10)
    compressed = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=retriever)
    chain = RunnableParallel(query=RunnablePassthrough(), documents=retriever) | reranker.as_runnable()
    rankings = {question: [str(document.id) for document in compressed.invoke(question)] for question in CANDIDATES}
    question = next(iter(CANDIDATES))
    assert rankings[question] == [document.id for document in chain.invoke(question)]
    report(rankings)


if __name__ == "__main__":
    main()
