"""Measure what each adapter adds to the engine's time on 100 documents.

    python benchmarks/adapters.py [--documents 100] [--repeats 9]

The same ranking through the engine and through each framework, in turns; and the adapter's own work alone, with an
engine that answers at once, because the difference of two long times is mostly noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest.mock import patch

from common import median_ms
from haystack import Document as HaystackDocument
from haystack_integrations.components.rankers.blockrank import BlockRankRanker
from langchain_blockrank import BlockRankRerank as LangChainRerank
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank as LlamaIndexRerank
from scaling import passages

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

QUERY = "What are the symptoms of iron-deficiency anemia in adults?"


def adapters(texts: list[str]) -> dict[str, Callable[[], object]]:
    """One call of every adapter."""
    haystack = BlockRankRanker(top_k=10)
    haystack.warm_up()
    langchain, llama_index = LangChainRerank(top_n=10), LlamaIndexRerank(top_n=10)
    haystack_documents = [HaystackDocument(content=text) for text in texts]
    langchain_documents = [LangChainDocument(page_content=text) for text in texts]
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in texts]
    return {
        "Haystack": lambda: haystack.run(query=QUERY, documents=haystack_documents),
        "LangChain": lambda: langchain.compress_documents(langchain_documents, QUERY),
        "LlamaIndex": lambda: llama_index.postprocess_nodes(nodes, query_str=QUERY),
    }


def main(documents: int, repeats: int) -> None:
    texts = passages(documents)
    ranker = BlockRankReranker.from_pretrained()
    calls = adapters(texts)
    print(machine())
    times = median_ms({"engine": lambda: ranker.rank(QUERY, texts, top_k=10)} | calls, repeats)
    ranking = ranker.rank(QUERY, texts)
    with patch.object(BlockRankReranker, "rank", lambda self, query, given, **limits: ranking[:10]):
        alone = median_ms(calls, repeats)
    print(f"engine {times['engine']:.1f} ms")
    for name in calls:
        print(
            f"{name:10} {times[name]:8.1f} ms ({times[name] / times['engine'] - 1:+.1%}); "
            f"its own work {alone[name]:.2f} ms ({alone[name] / times['engine']:.2%} of the engine's)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=9)
    main(**vars(parser.parse_args()))
