"""Queries as people type them into a web search, made from passages, each with BM25's best 60 of its group.

    python scripts/make_web_queries.py build/passages build/mined-web

Phrases that several passages hold, most of them in the words of such queries ("what is …", "… definition"), pairs of
phrases, and the rare words of a sentence, all in lower case. Nobody has judged these lists: their order is what
scripts/score_with_teachers.py says.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import bm25s

from blockrank_rerank.finetune.data import Candidate, TrainingExample, write_examples
from blockrank_rerank.formats import read_corpus
from blockrank_rerank.prompt import document_text

GROUPS = {
    "web-articles": {"selqa": 8650, "wiki-entities": 3000, "covid-qa": 1000},
    "web-textbooks": {"squad-dev-noxquad": 5143, "medquad": 3500, "openstax": 3500},
}
"""How many neighbouring passages of which collection are searched together."""

QUERIES, CANDIDATES, FEWEST_CANDIDATES = 2400, 60, 20
FEWEST_WORDS, LONGEST_PHRASE, SHORTEST_QUERY = 12, 4, 4
FEWEST_PASSAGES, FEWEST_REPEATS, SINGLE_WORDS = 4, 3, 0.2

TOKEN = re.compile(r"[A-Za-z][A-Za-z'-]*[A-Za-z]|[A-Za-z]|\d{4}|[.,;:!?()\"]")
SENTENCE_BORDER = re.compile(r"(?<=[.!?])\s+")
JOINING = """
    a an the of in on at to for from by with and or but nor is are was were be been being it its this that these
    those as he she his her they their them we our you your i my who whom which what when where why how not no do does
    did done can could may might must shall should will would has have had also more most many much some any each
    other such than then there here so if into over under between about after before during while because through up
    down out off again further only own same very just both few all one two three first second new use used using made
    make including however often usually known called like well
"""
BETWEEN_PHRASES = frozenset(JOINING.split())
ABOUT_THINGS = [
    "what is {}", "define {}", "{} definition", "{} meaning", "{}", "{}", "{}", "what does {} mean", "{} facts",
    "types of {}", "what causes {}", "how does {} work", "where is {}", "why is {} important",
    "difference between {} and {}",
]  # fmt: skip
ABOUT_NAMES = [
    "who is {}", "who was {}", "where is {}", "{}", "{}", "what is {}", "when was {}", "{} history",
    "what is {} known for",
]  # fmt: skip

Phrase = list[str]


class Phrasebook:
    """What the passages of a group have to say, and how often."""

    def __init__(self, texts: list[str]) -> None:
        self.passages = Counter(word for text in texts for word in {word.lower() for word in TOKEN.findall(text)})
        self.repeats = Counter(_lower(phrase) for text in texts for phrase in phrases(text))
        self.most_passages = max(60, len(texts) // 60)

    def of_use(self, phrase: Phrase, rng: random.Random) -> bool:
        """Neither everywhere nor nearly nowhere; words alone, of which there are too many, now and then."""
        rarest = min(self.passages[word.lower()] for word in phrase)
        if not FEWEST_PASSAGES <= rarest <= self.most_passages:
            return False
        return self.repeats[_lower(phrase)] >= FEWEST_REPEATS if len(phrase) > 1 else rng.random() < SINGLE_WORDS

    def rare_words(self, sentence: str, rng: random.Random) -> str | None:
        """The three to six rarest words of a sentence, in its order."""
        words = [word for word in TOKEN.findall(sentence) if _is_word(word) and word.lower() not in BETWEEN_PHRASES]
        rarest = sorted(range(len(words)), key=lambda place: self.passages[words[place].lower()])
        kept = sorted(rarest[: rng.randint(3, 6)])
        return _lower([words[place] for place in kept]) if len(kept) > 2 else None


def phrases(text: str) -> list[Phrase]:
    """Runs of words between punctuation and words that join."""
    found: list[Phrase] = [[]]
    for token in TOKEN.findall(text):
        if token.lower() in BETWEEN_PHRASES or not _is_word(token):
            found.append([])
        else:
            found[-1].append(token)
    return [phrase for phrase in found if 0 < len(phrase) <= LONGEST_PHRASE]


def made_query(passage: str, book: Phrasebook, rng: random.Random) -> str | None:
    """A query that the passage may or may not answer."""
    usable = [phrase for phrase in phrases(passage) if book.of_use(phrase, rng)]
    if len(usable) < 2:
        return None
    kind = rng.random()
    if kind < 0.6:
        phrase = rng.choice(usable)
        words = rng.choice(ABOUT_NAMES if all(word[0].isupper() for word in phrase) else ABOUT_THINGS)
        two = words.count("{}") == 2
        other = rng.choice([one for one in usable if one != phrase] or [phrase]) if two else phrase
        return words.format(" ".join(phrase), " ".join(other)).lower()
    if kind < 0.8:
        first, second = sorted(rng.sample(range(len(usable)), 2))
        return _lower(usable[first] + usable[second])
    return book.rare_words(rng.sample(SENTENCE_BORDER.split(passage), 1)[0], rng)


def _is_word(token: str) -> bool:
    return token[0].isalnum()


def _lower(words: list[str]) -> str:
    return " ".join(words).lower()


def _texts(source: Path, parts: dict[str, int], rng: random.Random) -> list[str]:
    texts: list[str] = []
    for collection, count in parts.items():
        everything = [document_text(one, 0) for one in read_corpus(source / collection / "corpus.jsonl").values()]
        start = rng.randrange(max(1, len(everything) - count))
        texts += everything[start : start + count]
    return list(dict.fromkeys(text for text in texts if len(text.split()) >= FEWEST_WORDS))


def made_lists(texts: list[str], name: str, rng: random.Random) -> Iterator[TrainingExample]:
    """Queries without end, each with BM25's best documents; the first of them stands in for the relevant one."""
    book, index, seen = Phrasebook(texts), bm25s.BM25(), set()
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    while True:
        query = made_query(rng.choice(texts), book, rng)
        if not query or query in seen or len(query) < SHORTEST_QUERY:
            continue
        seen.add(query)
        words = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)
        if not words[0]:
            continue
        found, scores = index.retrieve(words, k=CANDIDATES, show_progress=False)
        documents = [texts[place] for place, score in zip(found[0], scores[0], strict=True) if score > 0]
        if len(documents) >= FEWEST_CANDIDATES:
            candidates = [Candidate(text, float(not place)) for place, text in enumerate(documents)]
            yield TrainingExample(query, tuple(candidates), name)


def main(source: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, parts in GROUPS.items():
        rng = random.Random(0)
        lists = made_lists(_texts(source, parts, rng), name, rng)
        write_examples(output / f"{name}.jsonl", (next(lists) for _ in range(QUERIES)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    main(**vars(parser.parse_args()))
