"""Training collections cut into short passages, of the length of web passages, as BEIR folders.

    python scripts/cut_passages.py SHARED/data/train build/passages selqa squad-dev-noxquad stackexchange

Documents are cut at sentence borders into passages of at most 40 to 90 words (drawn per document). All passages of a
relevant document are relevant, best first: by the inverse document frequency of the query's words that they hold.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FEWEST_WORDS, MOST_WORDS = 40, 90
SENTENCE_BORDER = re.compile(r"(?<=[.!?])\s+|\n+")
WORD = re.compile(r"\w+")


def passages(text: str, limit: int) -> Iterator[str]:
    """Consecutive whole sentences of at most ``limit`` words together; a longer sentence is cut."""
    held: list[str] = []
    for sentence in SENTENCE_BORDER.split(text):
        words = sentence.split()
        if held and len(held) + len(words) > limit:
            yield " ".join(held)
            held = []
        held += words
        while len(held) > limit:
            yield " ".join(held[:limit])
            held = held[limit:]
    if held:
        yield " ".join(held)


def cut_collection(source: Path, output: Path) -> None:
    """Write one collection's passages, queries and judgements."""
    cut: dict[str, list[dict[str, Any]]] = {}
    for document in _records(source / "corpus.jsonl"):
        limit = random.Random(document["_id"]).randint(FEWEST_WORDS, MOST_WORDS)
        cut[document["_id"]] = [
            {"_id": f"{document['_id']}-{number}", "title": document["title"], "text": text}
            for number, text in enumerate(passages(document["text"], limit))
        ]
    held = {one["_id"]: set(_words(f"{one['title']} {one['text']}")) for parts in cut.values() for one in parts}
    counts = Counter(word for words in held.values() for word in words)
    (output / "qrels").mkdir(parents=True)
    with (output / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for parts in cut.values() for one in parts)
    queries = (source / "queries.jsonl").read_text(encoding="utf-8")
    (output / "queries.jsonl").write_text(queries, encoding="utf-8")
    relevant = _relevant(source / "qrels/train.tsv")
    with (output / "qrels/train.tsv").open("w", encoding="utf-8") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query in map(json.loads, queries.splitlines()):
            asked = set(_words(query["text"]))

            def worth(name: str, asked: set[str] = asked) -> float:
                return sum(math.log(len(held) / counts[word]) for word in asked & held[name])

            found = [one["_id"] for document in relevant[query["_id"]] for one in cut[document]]
            file.writelines(f"{query['_id']}\t{name}\t1\n" for name in sorted(found, key=worth, reverse=True))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _relevant(path: Path) -> dict[str, list[str]]:
    relevant = defaultdict(list)
    for row in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, _ = row.split("\t")
        relevant[query].append(document)
    return relevant


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def main(source: Path, output: Path, collections: list[str]) -> None:
    for collection in collections:
        cut_collection(source / collection, output / collection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("collections", nargs="+")
    main(**vars(parser.parse_args()))
