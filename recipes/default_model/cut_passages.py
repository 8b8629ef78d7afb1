"""Cut training collections into short passages, of the length of web passages, as BEIR folders.

    python -m recipes.default_model.cut_passages DATA build/passages selqa squad-dev-noxquad stackexchange

DATA is a folder of BEIR folders. Documents are cut at sentence borders into passages of at most 40 to 90 words (drawn
per document). All passages of a relevant document are relevant, best first: by the inverse document frequency of the
query's words that they hold.
"""

from __future__ import annotations

import argparse
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from blockrank_rerank.formats import Corpus, Qrels, read_collection, read_corpus
from blockrank_rerank.text.document import document_text
from recipes.beir_folder import write_corpus, write_judged_queries

FEWEST_WORDS, MOST_WORDS = 40, 90
SENTENCE_BORDER = re.compile(r"(?<=[.!?])\s+|\n+")
WORD = re.compile(r"\w+")


def passages(text: str, limit: int) -> Iterator[str]:
    """Yield consecutive whole sentences of at most ``limit`` words together; a longer sentence is cut."""
    passage: list[str] = []
    for sentence in SENTENCE_BORDER.split(text):
        words = sentence.split()
        if passage and len(passage) + len(words) > limit:
            yield " ".join(passage)
            passage = []
        passage += words
        while len(passage) > limit:
            yield " ".join(passage[:limit])
            passage = passage[limit:]
    if passage:
        yield " ".join(passage)


def cut_collection(source: Path, output: Path) -> None:
    """Write one collection's passages, queries and judgements."""
    collection = read_collection(source, "train")
    cut: dict[str, Corpus] = {
        name: _cut(name, document) for name, document in read_corpus(source / "corpus.jsonl").items()
    }
    words_of = {
        name: set(_words(document_text(passage, 0))) for parts in cut.values() for name, passage in parts.items()
    }
    counts = Counter(word for words in words_of.values() for word in words)
    qrels: Qrels = {}
    for query, text in collection.queries.items():
        asked = set(_words(text))

        def worth(name: str, asked: set[str] = asked) -> float:
            return sum(math.log(len(words_of) / counts[word]) for word in asked & words_of[name])

        found = [name for document in collection.qrels[query] for name in cut[document]]
        qrels[query] = dict.fromkeys(sorted(found, key=worth, reverse=True), 1)
    write_judged_queries(output, "train", collection.queries, qrels)
    write_corpus(output, {name: passage for parts in cut.values() for name, passage in parts.items()})


def _cut(name: str, document: str | dict[str, str]) -> Corpus:
    """Passages of a document, each with its title."""
    title, text = ("", document) if isinstance(document, str) else (document["title"], document["text"])
    limit = random.Random(name).randint(FEWEST_WORDS, MOST_WORDS)
    return {f"{name}-{n}": {"title": title, "text": passage} for n, passage in enumerate(passages(text, limit))}


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def main(source: Path, output: Path, collections: list[str]) -> None:
    """Cut every named collection of a folder into a folder of its name."""
    for collection in collections:
        cut_collection(source / collection, output / collection)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("collections", nargs="+")
    main(**vars(parser.parse_args()))
