from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockrank_rerank.text.passages import passage_bounds


def words(text):
    return [(found.start(), found.end()) for found in re.finditer(r"\S+", text)]


def test_a_text_with_room_stays_whole():
    assert passage_bounds("  one two ", words("  one two "), 2) == [(0, 10)]


def test_passages_end_with_sentences_and_repeat_a_little():
    text = " ".join(f"Sentence {number} has five words." for number in range(20))
    bounds = passage_bounds(text, words(text), 22)
    passages = [text[start:end] for start, end in bounds]
    assert all(part.startswith("Sentence") and part.endswith("words.") for part in passages)
    assert all(len(words(part)) == 20 for part in passages)


@pytest.mark.parametrize("pattern", [r" ?\S+", r"\S+ ?", r"\S| ", r" ?\S"], ids=["before", "after", "alone", "letters"])
def test_passages_begin_with_sentences_wherever_tokens_have_their_spaces(pattern):
    text = " ".join(f"Sentence {number} has five words." for number in range(20))
    tokens = [found.span() for found in re.finditer(pattern, text)]
    room = 22 if r"\S+" in pattern else 120
    passages = [text[start:end].strip() for start, end in passage_bounds(text, tokens, room)]
    assert len(passages) > 2
    assert all(part.startswith("Sentence") and part.endswith("words.") for part in passages)


def test_a_sentence_longer_than_a_passage_is_cut_inside_with_overlap():
    text = " ".join(f"w{number}" for number in range(50))
    bounds = passage_bounds(text, words(text), 16)
    assert [text[start:end].split()[0] for start, end in bounds] == ["w0", "w14", "w28", "w42"]


@settings(max_examples=100, deadline=None)
@given(
    text=st.lists(st.sampled_from(["a", "bb.", "ccc", "d!", "e\n", "😀", "é"]), max_size=80).map(" ".join),
    room=st.integers(1, 20),
)
def test_passages_fit_and_cover_every_token(text, room):
    tokens = words(text)
    bounds = passage_bounds(text, tokens, room)
    inside = [[token for token in tokens if start <= token[0] and token[1] <= end] for start, end in bounds]
    assert all(len(part) <= room for part in inside)
    assert [token for token in tokens if not any(token in part for part in inside)] == []
    assert bounds == sorted(bounds)
