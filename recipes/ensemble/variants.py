"""Training lists in which some documents are stuffed with the query, and some answers stand inside other text.

    python -m recipes.ensemble.variants build/lists build/varied

A stuffed document keeps the opinion that the teachers had of it before: the query in it makes it no better. An answer
inside other text keeps its own, and so does an irrelevant document that is treated alike. Other lists stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from bm25s.stopwords import STOPWORDS_EN_PLUS

from blockrank_rerank.finetune.data import Candidate, TrainingExample, read_examples, write_examples
from blockrank_rerank.text.sentences import sentence_spans

STUFFED_SHARE, SURROUNDED_SHARE = 0.08, 0.08
STUFFED_DOCUMENTS = 2
WORDS_AROUND = (10, 80)
AS_THEY_ARE = ("opposites", "passages")
STOP_WORDS = frozenset(STOPWORDS_EN_PLUS)


def stuffed(query: str, text: str, rng: random.Random) -> str:
    """A text with the query or its keywords put in: mostly often, which no honest text does (dev/LOG.md)."""
    keywords = " ".join(word for word in query.split() if word.lower().strip("?") not in STOP_WORDS)
    wording, copies = rng.choice([(query, rng.choice([1, 3, 5, 8])), (keywords or query, rng.choice([4, 7, 10]))])
    if rng.random() < 0.25:
        sentences = [text[start:end] for start, end in sentence_spans(text)]
        return " ".join(f"{sentence} {query}" for sentence in sentences)
    copied = " ".join([wording] * copies)
    return rng.choice([f"{copied} {text}", f"{copied} {text}", f"{text} {copied}"])


def surrounded(text: str, filler: str, rng: random.Random) -> str:
    """A text with words of another one before and after it."""
    words = filler.split()[: rng.randint(*WORDS_AROUND)]
    place = rng.randint(0, len(words))
    return " ".join([*words[:place], text, *words[place:]])


def with_stuffed(example: TrainingExample, rng: random.Random) -> TrainingExample:
    """Some irrelevant documents, stuffed."""
    places = [place for place, one in enumerate(example.candidates) if not one.relevant]
    drawn = rng.sample(places, min(STUFFED_DOCUMENTS, len(places)))
    return _with_texts(example, {place: stuffed(example.query, example.candidates[place].text, rng) for place in drawn})


def with_surrounded(example: TrainingExample, fillers: Sequence[str], rng: random.Random) -> TrainingExample:
    """The answers and as many other documents, inside other text."""
    answers = [place for place, one in enumerate(example.candidates) if one.relevant]
    others = [place for place, one in enumerate(example.candidates) if not one.relevant]
    drawn = [*answers, *rng.sample(others, min(2 * len(answers), len(others)))]
    return _with_texts(
        example, {place: surrounded(example.candidates[place].text, rng.choice(fillers), rng) for place in drawn}
    )


def varied(example: TrainingExample, fillers: Sequence[str]) -> TrainingExample:
    """A list as it is, or one of its variants: by the query, so that a rerun gives the same."""
    rng = random.Random(f"{example.query}:{example.query_id}")
    chance = rng.random()
    if chance < STUFFED_SHARE:
        return with_stuffed(example, rng)
    if chance < STUFFED_SHARE + SURROUNDED_SHARE:
        return with_surrounded(example, fillers, rng)
    return example


def _with_texts(example: TrainingExample, texts: dict[int, str]) -> TrainingExample:
    candidates = [
        Candidate(texts.get(place, one.text), one.grade, one.teacher_score)
        for place, one in enumerate(example.candidates)
    ]
    return dataclasses.replace(example, candidates=tuple(candidates))


def main(lists: Path, output: Path) -> None:
    """Write the variants of every file of lists."""
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in lists.glob("*.jsonl") if path.stem not in AS_THEY_ARE):
        examples = list(read_examples(path))
        fillers = [one.text for example in examples for one in example.negatives]
        write_examples(output / path.name, (varied(example, fillers) for example in examples))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path)
    parser.add_argument("output", type=Path)
    main(**vars(parser.parse_args()))
