"""Search all 430 passages instead of reranking BM25's, and count for how many questions that helps.

pip install '.[eval]'
python examples/search.py
"""

from tempfile import TemporaryDirectory

from sample import CANDIDATES, TEXTS, report

from blockrank_rerank import BlockRankReranker


def main() -> None:
    ranker = BlockRankReranker.from_pretrained()
    with TemporaryDirectory() as store:
        ranker.prepare_store(store, [{"id": name, "text": text} for name, text in TEXTS.items()])
        rankings = {
            question: [document.id for document in ranker.search(store, question, top_k=20)] for question in CANDIDATES
        }
    report(rankings)


if __name__ == "__main__":
    main()
