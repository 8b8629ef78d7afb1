"""Where sentences end, and what is none."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("hypothesis", reason="makes texts")

from hypothesis import given
from hypothesis import strategies as st

from blockrank_rerank.text.sentences import sentence_spans


def sentences_of(text):
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n ", []),
        ("One", ["One"]),
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ('He said "no." Then 3.5 left.', ['He said "no."', "Then 3.5 left."]),
        ("a\n\nb", ["a", "b"]),
        ("你好。再见！是。", ["你好。", "再见！", "是。"]),
        ("ما هذا؟ هذا كتاب.", ["ما هذا؟", "هذا كتاب."]),
        ("यह क्या है। यह किताब है।", ["यह क्या है।", "यह किताब है।"]),
        ("أهلا. كيف حالك! جيد.", ["أهلا.", "كيف حالك!", "جيد."]),
    ],
)
def test_sentences_end_with_punctuation_or_lines(text, sentences):
    assert sentences_of(text) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. Bake. 2. Eat.", ["1. Bake.", "2. Eat."]),
        ("a) Bake.\nb)\nEat.", ["a) Bake.", "b)\nEat."]),
        ("- Bake. - Eat. -", ["- Bake.", "- Eat. -"]),
        ("Bake.\n***\n\n12\n•\nEat.\n1998.\n", ["Bake.", "***\n\n12\n•\nEat.\n1998."]),
        ("你好。1。再见。", ["你好。", "1。再见。"]),
        ("1. 2. -", ["1. 2. -"]),
        (" 🩺 \n 🩺 ", ["🩺 \n 🩺"]),
    ],
)
def test_what_has_no_letters_belongs_to_the_sentence_after_it_or_else_to_the_last(text, sentences):
    assert sentences_of(text) == sentences


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. A. B. Smith met Mr. and Mrs. Jones in St. Louis.",
        "It costs less, e.g. Half, i.e. 50 vs. 100.",
        "E.g. No. 5, Fig. 3 and pp. 12 ff.",
        "Smith et al. found that the U.S. has Acme Inc. (a firm), etc. and more.",
        "He holds a Ph.D. in law since 5 p.m. today.",
    ],
)
def test_common_abbreviations_end_no_sentence(sentence):
    assert sentences_of(f"{sentence} Then he left.") == [sentence, "Then he left."]


@pytest.mark.parametrize(
    "end", ["Is it? No.", "It is in the U.S.", "Bread, salt, etc.", "Plan B.", "He saw the doctor Dr.\n"]
)
def test_what_stands_at_the_end_of_a_sentence_ends_it(end):
    assert sentences_of(f"{end} Then he left.")[-1] == "Then he left."


PARTS = st.sampled_from(
    ["Dr.", "1.", "-", "word", "e.g.", "U.S.", "a)", "。", "你", "؟", "🩺", "!", '"', "\n", " ", "  ", "\u2028"]
)


@given(st.lists(PARTS, max_size=30).map("".join) | st.text(max_size=60))
def test_sentences_cover_a_text_in_order(text):
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    borders = [0, *(border for span in spans for border in span), len(text)]
    assert all(not text[end:start].strip() for end, start in list(pairwise(borders))[::2])
    assert all(sentence == sentence.strip() for sentence in sentences_of(text))
    assert len(spans) < 2 or all(any(map(str.isalpha, sentence)) for sentence in sentences_of(text))
