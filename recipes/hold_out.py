"""Hold out a test set by document: its queries, and every document that answers one of them, leave the training data.

    python -m recipes.hold_out DATA/medquad build/domain-test --also examples/data/medquad-sample [--split train]

DATA is a folder of BEIR folders. Writes one with the drawn queries over the whole corpus, and
``excluded_queries.txt`` and ``excluded_documents.txt`` for ``blockrank-finetune mine-negatives``. Queries and answers
of the collections after --also, which choose the checkpoint, are excluded too.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

from blockrank_rerank.formats import read_collection
from recipes.beir_folder import write_judged_queries, write_lines

SEED = 29


def hold_out(source: Path, output: Path, split: str, count: int, also: list[Path]) -> None:
    """Write the test set of ``count`` queries of a collection, and what its training data must leave out."""
    others = [read_collection(folder, "test") for folder in also]
    taken = {query for other in others for query in other.queries}
    collection = read_collection(source, split)
    drawn = sorted(random.Random(SEED).sample(sorted(collection.queries.keys() - taken), count))
    judged = [collection.qrels[query] for query in drawn] + [
        grades for other in others for grades in other.qrels.values()
    ]
    answers = {document for grades in judged for document, grade in grades.items() if grade > 0}
    write_judged_queries(output, "test", {query: collection.queries[query] for query in drawn}, collection.qrels)
    shutil.copyfile(source / "corpus.jsonl", output / "corpus.jsonl")
    write_lines(output / "excluded_queries.txt", sorted(taken.union(drawn)))
    write_lines(output / "excluded_documents.txt", sorted(answers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--split", default="train", help="of the source; what is written is a split test")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    hold_out(arguments.source, arguments.output, arguments.split, arguments.queries, arguments.also)
