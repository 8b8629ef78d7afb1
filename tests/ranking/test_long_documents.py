"""Documents that are too long for one block: split, truncated or refused."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from tokenizers.normalizers import NFC

from blockrank_rerank import BlockRankReranker, PromptTemplate
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.failures import BAD_DATA
from blockrank_rerank.evaluation.rerank_run import rerank_run
from blockrank_rerank.formats import DataError
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import document_text
from blockrank_rerank.text.prompt import PromptEncoder
from blockrank_rerank.text.sentences import sentence_spans
from blockrank_rerank.text.tokenizer import TextTokenizer
from tests.states.test_prepared import assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, byte_level_tokenizer

ANSWER = "aspirin thins the blood and treats a heart attack"
FILLER = "the liver stores sugar. who stores what? "
LONG = FILLER * 12 + ANSWER + ". " + FILLER * 12
DOCUMENTS = ["sugar", LONG, {"title": "the liver", "text": FILLER * 20}, ANSWER]
QUERY = "what treats a heart attack"


@pytest.fixture(scope="module", params=["llama", "bert"])
def folder(request, tmp_path_factory):
    config = replace(
        CONFIG if request.param == "llama" else BERT_CONFIG, max_document_tokens=40, long_documents="split"
    )
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, config)


@pytest.fixture(scope="module")
def ranker(folder):
    return BlockRankReranker.from_pretrained(folder, dtype="float32")


def in_order(ranking):
    return sorted(ranking, key=lambda document: document.index)


def test_a_split_document_scores_as_its_best_passage_does(ranker):
    ranking = in_order(ranker.rank(QUERY, DOCUMENTS))
    assert [document.passage is None for document in ranking] == [True, False, False, True]
    assert not any(document.truncated for document in ranking)
    assert [document.text for document in ranking][:2] == DOCUMENTS[:2]
    start, end = ranking[1].passage
    assert 0 <= start < end <= len(LONG)
    # A model whose documents are independent gives the passage the same score alone.
    if ranker.config.scoring_head:
        (alone,) = ranker.rank(QUERY, [LONG[start:end]])
        assert alone.raw_score == pytest.approx(ranking[1].raw_score, abs=1e-4)


@pytest.mark.parametrize(
    ("raw_scores", "best"), [([1, 1, 0, 2, 2], [0, 3]), ([0, 1, 1, 2, 3], [1, 4]), ([-3, -2, -1, -2, -3], [2, 3])]
)
def test_the_best_passage_is_the_one_of_the_highest_score_and_the_first_of_equals(raw_scores, best):
    blocks = Blocks(texts=[*"abcde"], owners=[0, 0, 0, 1, 1], bounds=[(n, n + 1) for n in range(5)])
    assert blocks.best(raw_scores) == best


def test_the_default_model_finds_the_passage_with_the_answer():
    text = " ".join(f"Paragraph {number} is about concrete, sand and water." for number in range(120))
    middle = text.index("Paragraph 60")
    document = text[:middle] + "Aspirin treats a heart attack because it thins the blood. " + text[middle:]
    (ranked,) = BlockRankReranker.from_pretrained().rank(QUERY, [document])
    start, end = ranked.passage
    assert "Aspirin treats a heart attack" in document[start:end]
    assert not ranked.truncated


def test_short_documents_are_scored_as_if_nothing_could_be_split(ranker):
    short = ["sugar", ANSWER, ""]
    assert_same(ranker.rank(QUERY, short), ranker.with_config(long_documents="truncate").rank(QUERY, short))


def test_truncation_says_so_and_an_error_names_the_document(ranker):
    cut = in_order(ranker.with_config(long_documents="truncate").rank(QUERY, DOCUMENTS))
    assert [document.truncated for document in cut] == [False, True, True, False]
    assert all(document.passage is None for document in cut)
    with pytest.raises(ValueError, match=r"documents\[1\] has \d+ tokens, more than the 40 .*long_documents="):
        ranker.with_config(long_documents="error").rank(QUERY, DOCUMENTS)
    with pytest.raises(ValueError, match="long_documents must be one of"):
        ranker.with_config(long_documents="drop")


@pytest.mark.parametrize("queries", [1, 2])
def test_where_documents_have_ids_an_error_names_the_id(queries, ranker):
    corpus = {"short": "sugar", "long": LONG}
    run = {f"q{number}": dict.fromkeys(["short", "long"][: number + 1], 1.0) for number in range(2)[-queries:]}
    strict = ranker.with_config(long_documents="error")
    with pytest.raises(DataError, match=r"^query 'q1': document 'long' has \d+ tokens, more than the 40 "):
        rerank_run(strict, run, dict.fromkeys(run, QUERY), corpus)


def test_the_command_line_names_the_line_of_a_document_that_is_too_long(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text(f"sugar\n{'sugar ' * 600}\n")
    code = main(["rerank", QUERY, str(tmp_path / "texts.txt"), "--long-documents", "error"])
    message = " ".join(capsys.readouterr().err.split())
    assert code == BAD_DATA
    assert "texts.txt:2 has 601 tokens, more than the 511 that a block may have" in message


def test_prepared_and_stored_passages_score_alike(ranker, folder, tmp_path):
    free = ranker.query_free()
    expected = free.rank(QUERY, DOCUMENTS)
    prepared = free.prepare(DOCUMENTS)
    got = free.rank(QUERY, prepared)
    assert_same(got, expected)
    assert [d.passage for d in got] == [d.passage for d in expected]
    reordered = free.rank(QUERY, prepared.select([3, 1]))
    assert_same(reordered, free.rank(QUERY, [DOCUMENTS[3], DOCUMENTS[1]]))
    done = free.prepare_store(tmp_path, DOCUMENTS)
    assert done.prepared == done.blocks > len(DOCUMENTS)
    stored = BlockRankReranker.from_pretrained(folder, config=free.config, dtype="float32", store=tmp_path)
    assert_same(stored.rank(QUERY, DOCUMENTS), expected)


def test_an_explanation_shows_the_passage_that_won(ranker):
    explained = next(d for d in ranker.explain(QUERY, DOCUMENTS) if d.ranked.index == 1)
    start, end = explained.ranked.passage
    seen = [word for word in explained.words if word.weight > 0]
    assert seen
    # A passage may begin or end inside a word.
    assert all(start < word.end and word.start < end for word in seen)
    assert LONG[seen[0].start : seen[0].end] == seen[0].text


def test_a_title_that_fills_the_block_leaves_truncation(ranker):
    document = {"title": "sugar " * 60, "text": FILLER * 5}
    (ranked,) = ranker.rank(QUERY, [document])
    assert ranked.truncated
    assert ranked.passage is None


@pytest.fixture
def tokenised(monkeypatch):
    """Data that goes through a tokenizer, piece by piece."""
    pieces, encode = [], TextTokenizer.encode

    def counting(self, blocks):
        pieces.extend(piece.content for block in blocks for piece in block if piece.is_data)
        return encode(self, blocks)

    monkeypatch.setattr(TextTokenizer, "encode", counting)
    return pieces


@pytest.mark.parametrize("way", ["rank", "cache", "in passing", "prepare", "store"])
def test_a_text_is_tokenised_once_and_a_split_one_once_more_in_passages(folder, ranker, tokenised, tmp_path, way):
    free = ranker.query_free()
    if way in ("cache", "in passing"):
        limit = "1GB" if way == "in passing" else None
        free = BlockRankReranker.from_pretrained(
            folder, config=free.config, dtype="float32", cache="10MB", max_memory=limit
        )
    long = " ".join(f"the liver stores sugar {number}." for number in range(30))
    documents = ["sugar", ANSWER, {"title": "the liver", "text": FILLER}, "who stores what? " * 3, long]
    texts = [document_text(document, 0) for document in documents]
    # Most are longer in bytes than a block in tokens, so that they might have to be split.
    assert sum(len(text) > free.config.max_document_tokens for text in texts) == 4
    free.rank(QUERY, ["a"])  # loads the model, whose tokenizer is asked for its template
    tokenised.clear()
    if way == "prepare":
        free.prepare(documents)
    elif way == "store":
        free.prepare_store(tmp_path, documents)
    else:
        free.rank(QUERY, documents)
    counts = Counter(tokenised)
    assert [counts[text] for text in texts] == [1] * 5
    passages = [text for text in tokenised if text and text != long and text in long]
    assert len(passages) == len({*passages}) > 5
    assert sum(map(len, passages)) < 1.3 * len(long)


def passages_of(ranker, text):
    """Bounds of the blocks of a document, and whether any of it was cut."""
    engine = ranker.engine
    blocks, _ = Blocks.of(QUERY, [text], [text], engine.prompt)
    return blocks.bounds, engine.prompt.encode(QUERY, blocks.texts).truncated


@pytest.mark.parametrize("template", ["x {text}", "x: {text} end", "x{text}"])
def test_passages_cover_the_whole_text_whatever_stands_before_it(ranker, template):
    prompt = replace(ranker.config.prompt, document=template)
    bounds, truncated = passages_of(ranker.with_config(prompt=prompt), LONG)
    assert bounds[0][0] == 0
    assert not LONG[bounds[-1][1] :].strip()
    assert not any(truncated)
    for (_, end), (start, _) in itertools.pairwise(bounds):
        assert not LONG[end:start].strip()


@pytest.mark.parametrize("title", [None, "", "the liver", " it stores "])
@pytest.mark.parametrize("blanks", ["", "  \n "], ids=["", "blanks"])
def test_passages_are_counted_in_the_text_as_given_and_read_with_its_title(ranker, title, blanks):
    text = blanks + LONG
    document = text if title is None else {"title": title, "text": text}
    blocks, _ = Blocks.of(QUERY, [document], [document_text(document, 0)], ranker.engine.prompt)
    parts = [text[start:end] for start, end in blocks.bounds]
    assert len(parts) > 5
    assert blocks.texts == [f"{title} {part}".strip() if title else part.strip() for part in parts]
    # Cut between sentences; a token may begin with the blank before its word.
    sentences = {start for start, _ in sentence_spans(text)}
    assert {start + len(part) - len(part.lstrip()) for part, (start, _) in zip(parts, blocks.bounds, strict=True)} <= (
        sentences
    )


@pytest.mark.parametrize(
    "text",
    ["\U0001fac0" * 60, "a\U0001fac0" * 60, "心臓" * 60, "\u0958" * 60, "\U0001d160" * 50, "\ufb2c" * 70],
    ids=lambda text: ascii(text[:2]),
)
def test_passages_of_characters_with_several_tokens_fit_their_blocks(ranker, text):
    bounds, truncated = passages_of(ranker.with_config(max_document_tokens=48), text)
    assert (bounds[0][0], bounds[-1][1]) == (0, len(text))
    assert not any(truncated)


def test_surrogates_shift_no_passage(ranker):
    text = "\ud83d\ude00" * 30 + " the liver stores sugar. aspirin thins the blood and treats a heart attack"
    bounds, truncated = passages_of(ranker.with_config(max_document_tokens=48), text)
    assert bounds[-1][1] == len(text)
    assert not any(truncated)


@pytest.mark.parametrize("text", ["\u0958" * 14, "\ufb2c" * 14, "\U0001d160" * 12], ids=lambda text: ascii(text[0]))
def test_texts_that_unicode_normalisation_lengthens_are_long(text):
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.normalizer = NFC()
    config = replace(CONFIG, max_document_tokens=64, long_documents="error", prompt=PromptTemplate(chat=False))
    with pytest.raises(ValueError, match=r"documents\[0\] has \d+ tokens, more than the 64"):
        Blocks.of("q", [text], [text], PromptEncoder(tokenizer, config, 4096), lambda text: False)
