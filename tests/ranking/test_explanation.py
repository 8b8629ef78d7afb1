from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.app import main
from blockrank_rerank.ranking.explanation import ExplainedDocument, Explanation, Span, word_spans
from blockrank_rerank.ranking.results import RankedDocument
from blockrank_rerank.states.pack import StatePack
from tests.tiny_models import BERT_CONFIG, CONFIG, PHRASE, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = [
    "  The liver stores sugar. Aspirin treats a heart attack!\nBread is baked. ",
    {"title": "Heart attack", "text": "Aspirin 🩺 thins the blood. </s> [SEP] is text."},
    "",
    PHRASE * 20,
]


@pytest.fixture(scope="module", params=["llama", "bert", "default"])
def ranker(request, tmp_path_factory):
    if request.param == "default":
        return BlockRankReranker.from_pretrained(dtype="float32", device="cpu", max_document_tokens=64)
    folder = save_model(tmp_path_factory.mktemp(request.param), request.param)
    config = CONFIG
    if request.param == "bert":
        from blockrank_rerank.model.scoring_head import ScoringHead

        config = BERT_CONFIG
        ScoringHead(32, 2).save(folder)
    config.save(folder)
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")


def original(document):
    return document if isinstance(document, str) else document["text"]


def test_documents_may_come_from_a_generator(ranker):
    explanation = ranker.explain(QUERY, (document for document in DOCUMENTS))
    assert [document.ranked for document in explanation.documents] == ranker.rank(QUERY, DOCUMENTS)


def test_the_ranking_is_that_of_rank(ranker):
    explanation = ranker.explain(QUERY, DOCUMENTS)
    assert [document.ranked for document in explanation] == ranker.rank(QUERY, DOCUMENTS)
    assert [document.ranked for document in ranker.explain(QUERY, DOCUMENTS, top_k=1)] == [
        explanation.documents[0].ranked
    ]
    assert ranker.explain(QUERY, []).documents == []


def test_words_and_sentences_are_parts_of_the_text_as_given(ranker):
    for document in ranker.explain(QUERY, DOCUMENTS):
        text = original(DOCUMENTS[document.ranked.index])
        assert [word.text for word in document.words] == text.split()
        for span in [*document.words, *document.sentences]:
            assert text[span.start : span.end] == span.text
            assert span.weight >= 0
        assert sum(word.weight for word in document.words) <= 1 + 1e-5
        assert sum(s.weight for s in document.sentences) == pytest.approx(sum(w.weight for w in document.words))


def test_attention_inside_every_document_sums_to_one_and_agrees_with_its_log_sum_exps(ranker):
    engine = ranker.engine
    request = engine.prompt.encode(QUERY, [original(document) for document in DOCUMENTS])
    states = StatePack([*engine.states_of(request, engine.dtype)])
    attention = engine.token_attention(replace(request, documents=[], truncated=[]), states)
    assert [len(weights) for weights in attention] == [len(document) for document in request.documents]
    for weights in attention:
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


def test_what_was_not_read_has_no_weight(ranker):
    document = next(d for d in ranker.explain(QUERY, DOCUMENTS) if d.ranked.truncated or d.ranked.passage)
    unread = [word for word in document.words if word.weight == 0]
    assert unread
    assert len(unread) < len(document.words)
    if document.ranked.passage:
        start, end = document.ranked.passage
        assert all(word.end <= start or word.start >= end for word in unread)
    else:
        assert document.words[0].weight > 0
        assert document.words[-1].weight == 0


def test_the_default_model_looks_at_the_sentence_that_answers():
    document = BlockRankReranker.from_pretrained().explain(QUERY, DOCUMENTS[:1]).documents[0]
    assert document.best_sentence.text == "Aspirin treats a heart attack!"


def test_a_text_without_words_has_no_best_sentence(ranker):
    document = next(d for d in ranker.explain(QUERY, DOCUMENTS) if d.ranked.index == 2)
    assert document.words == []
    assert document.best_sentence is None


def test_weights_go_to_the_words_behind_the_tokens_and_the_title_gets_none():
    # Encoded as "T  ab  cd", title, space, text, so that the text starts at 2.
    tokens = [(-2, -1), (0, 3), (4, 6), (6, 7), (7, 10)]
    words = word_spans(" ab  cd", tokens, [0.1, 0.2, 0.3, 0.3, 0.1])
    assert [(word.text, pytest.approx(word.weight)) for word in words] == [("ab", 0.2), ("cd", 0.6)]


def test_html_shows_the_text_as_text(ranker):
    html = ranker.explain("<b>", ["<script> & co", "plain"])._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;" in html
    assert html.count("<li>") == 2


@pytest.mark.parametrize("shown", [(), ("first",), ("last",), ("first", "last")])
def test_html_shows_as_text_what_stands_beside_and_between_the_words(shown):
    text = "<i> first <script> & last </i>"
    words = [Span(text.index(word), text.index(word) + len(word), 0.5, word) for word in shown]
    ranked = RankedDocument(index=0, score=1.0, raw_score=0.0, text=text, truncated=False)
    html = Explanation("q", [ExplainedDocument(ranked, words)])._repr_html_()
    assert not any(tag in html for tag in ("<i>", "<script>", "</i>", " & "))
    for part in ("&lt;i&gt;", "&lt;script&gt;", "&amp;", "&lt;/i&gt;"):
        assert html.count(part) == 1


def explained_sentences(weights):
    text = " ".join(f"word{number}." for number in range(len(weights)))
    words = word_spans(text, [match.span() for match in re.finditer(r"\S+", text)], weights)
    ranked = RankedDocument(index=0, score=1.0, raw_score=0.0, text=text, truncated=False)
    return Explanation("q", [ExplainedDocument(ranked, words)])._repr_html_()


def test_html_begins_with_the_best_sentences_and_opens_the_whole_text_on_demand():
    html = explained_sentences([0.1, 0.2, 0.4, 0.3])
    best, whole = html.split("<details>")
    assert re.findall(r"\d+%|word\d", best) == ["40%", "word2", "30%", "word3"]
    assert re.findall(r"word\d", whole) == ["word0", "word1", "word2", "word3"]
    assert "<details>" not in explained_sentences([0.6, 0.4])


def luminance(red, green, blue):
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red / 255, green / 255, blue / 255)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_html_shades_words_so_that_they_are_read_on_any_page():
    html = explained_sentences([0.4, 0.3, 0.1, 0.01])
    styles = re.findall(r'style="background: rgb\((\d+), (\d+), (\d+)\); color: #111"', html)
    assert html.count("style=") == len(styles) == 5  # two in the best sentences, three in the whole text
    for colour in styles:  # contrast as WCAG defines it; 7 is its strictest level
        assert (luminance(*map(int, colour)) + 0.05) / (luminance(0x11, 0x11, 0x11) + 0.05) > 7


def test_the_terminal_shows_a_window_of_an_endless_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # into a pipe go whole texts
    file = tmp_path / "endless.txt"
    file.write_text("flea " * 5000 + "\n" + "x" * 5000, encoding="utf-8")
    assert main(["rerank", "how long do fleas live", str(file), "--explain"]) == 0
    printed = capsys.readouterr().out
    assert "..." in printed
    assert len(printed) < 4000
