"""The same where code calls a sentence-transformers CrossEncoder: `rank` and its list of mappings.

pip install '.[eval]'
python examples/cross_encoder.py
"""

from sample import CANDIDATES, TEXTS, report

from blockrank_rerank import BlockRankCrossEncoder


def main() -> None:
    model = BlockRankCrossEncoder()  # the one new line
    rankings = {}
    for question, names in CANDIDATES.items():
        ranked = model.rank(question, [TEXTS[name] for name in names], top_k=10)
        rankings[question] = [names[found["corpus_id"]] for found in ranked]
    report(rankings)


if __name__ == "__main__":
    main()
