"""Rerank BM25's candidates in plain Python, and count for how many questions it helps.

pip install '.[eval]'
python examples/plain_python.py
"""

from sample import CANDIDATES, TEXTS, report

from blockrank_rerank import BlockRankReranker


def main() -> None:
    ranker = BlockRankReranker.from_pretrained()
    rankings = {}
    for question, names in CANDIDATES.items():
        ranked = ranker.rank(question, [TEXTS[name] for name in names])
        rankings[question] = [names[document.index] for document in ranked]
    report(rankings)


if __name__ == "__main__":
    main()
