"""BlockRank as a document compressor in LangChain: around a retriever, and as a step of an LCEL chain.

pip install '.[langchain,eval]' langchain-classic
python examples/langchain_retriever.py
"""

from typing import Any

import bm25s
from langchain_blockrank import BlockRankRerank
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from sample import QUERIES, TEXTS, ndcg, show


class BM25(BaseRetriever):
    """The best 20 documents by BM25."""

    documents: list[Document]
    index: Any = None

    def model_post_init(self, context: Any) -> None:
        """Index the documents."""
        self.index = bm25s.BM25(corpus=self.documents)
        texts = [document.page_content for document in self.documents]
        self.index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        return list(self.index.retrieve(words, k=20, show_progress=False).documents[0])


def main() -> None:
    retriever = BM25(documents=[Document(id=name, page_content=text) for name, text in TEXTS.items()])
    reranker = BlockRankRerank(top_n=10)
    compressed = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=retriever)
    chain = RunnableParallel(query=RunnablePassthrough(), documents=retriever) | reranker.as_runnable()
    before, after = {}, {}
    for query, question in QUERIES.items():
        before[query] = [document.id for document in retriever.invoke(question)]
        after[query] = [document.id for document in compressed.invoke(question)]
    query = next(iter(QUERIES))
    assert after[query] == [document.id for document in chain.invoke(QUERIES[query])]
    show(QUERIES[query], before[query], after[query])
    print(f"\nnDCG@10 over {len(QUERIES)} questions: BM25 {ndcg(before):.3f}, reranked {ndcg(after):.3f}")


if __name__ == "__main__":
    main()
