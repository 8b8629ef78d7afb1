"""Contexts for a generator: what is in them, what is not and why, and what they cost."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BatchEncoding, PreTrainedTokenizerFast

pytest.importorskip("hypothesis", reason="makes texts")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import blockrank_rerank
from blockrank_rerank import BlockRankReranker, StoredDocuments
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.model import devices
from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.ranking.attended import AttendedList
from blockrank_rerank.ranking.context.context import build_context
from blockrank_rerank.ranking.context.counter import token_counter
from blockrank_rerank.ranking.context.selection import NEAR_DUPLICATE, select
from blockrank_rerank.ranking.context.sentence import Sentence
from blockrank_rerank.ranking.context.settings import ContextSettings
from blockrank_rerank.states.pack import StatePack
from tests.model.test_families import global_layers
from tests.tiny_models import BERT_CONFIG, CONFIG, PHRASE, PROMPT, randomise, save_model

FOLDER = Path(blockrank_rerank.__file__).parent / "default_model"
QUERY = "what treats a heart attack"
DOCUMENTS = [
    "  The liver stores sugar. Aspirin treats a heart attack!\nBread is baked. ",
    {"title": "Heart attack", "text": "Aspirin 🩺 thins the blood. </s> [SEP] is text.", "id": "d7"},
    "",
    "Concrete hardens. " + PHRASE,
]
QUERY_FREE = replace(CONFIG, prompt=PROMPT.without_query())


def save_family(folder, family, config):
    save_model(folder, family)
    if config.scoring_head:
        head = ScoringHead(32, 2)
        randomise(head, 1)
        head.save(folder)
    config.save(folder)
    return folder


@pytest.fixture(scope="module")
def default():
    return BlockRankReranker.from_pretrained(dtype="float32", device="cpu")


@pytest.fixture(scope="module", params=["llama", "llama-free", "bert", "default"])
def ranker(request, tmp_path_factory, default):
    if request.param == "default":
        return default
    config = {"llama": CONFIG, "bert": BERT_CONFIG}.get(request.param, QUERY_FREE)
    folder = save_family(tmp_path_factory.mktemp(request.param), request.param.removesuffix("-free"), config)
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")


def own_text(document):
    return document if isinstance(document, str) else document["text"]


def words(number):
    return lambda text: number * len(text.split())


# What is in it


def test_a_context_is_made_of_parts_of_the_texts_as_given_within_the_budget(ranker):
    for max_tokens in (4, 9, 1000):
        context = ranker.context(QUERY, DOCUMENTS, max_tokens, words(1))
        assert context.num_tokens == len(context.text.split()) <= max_tokens
        assert context.pieces
        for piece in [*context.pieces, *context.dropped]:
            assert own_text(DOCUMENTS[piece.index])[piece.start : piece.end] == piece.text
        assert context.text.split() == [word for piece in context.pieces for word in piece.text.split()]


def test_with_room_for_all_nothing_is_dropped_and_documents_are_whole_in_the_order_of_the_ranking(default):
    context = default.context(QUERY, DOCUMENTS)
    assert context.dropped == []
    assert [document.index for document in context.ranking] == [d.index for d in default.rank(QUERY, DOCUMENTS)]
    assert context.texts == {
        d.index: own_text(DOCUMENTS[d.index]).strip() for d in context.ranking if own_text(DOCUMENTS[d.index]).strip()
    }
    assert context.text == "\n\n".join(context.texts.values())


def test_the_default_model_takes_the_sentence_that_answers(default):
    context = default.context(QUERY, DOCUMENTS[:1], 5, words(1))
    assert [piece.text for piece in context.pieces] == ["Aspirin treats a heart attack!"]
    assert [piece.text for piece in context.dropped] == ["The liver stores sugar.", "Bread is baked."]


def test_scores_of_pieces_do_not_depend_on_the_rest_of_the_list_and_probabilities_are_the_documents(default):
    alone = default.context(QUERY, DOCUMENTS[:1])
    among = default.context(QUERY, DOCUMENTS)
    (piece,) = alone.pieces
    (same,) = (other for other in among.pieces if other.index == 0)
    assert piece.score == pytest.approx(same.score, abs=1e-4)
    assert piece.probability == pytest.approx(default.rank(QUERY, DOCUMENTS[:1])[0].probability, abs=1e-5)


def test_sentences_of_every_passage_of_a_long_document_are_taken(default):
    ranker = default.with_config(max_document_tokens=32)
    long = (
        "Aspirin treats a heart attack. " + "Bread is baked in an oven. " * 12 + "Heart attacks are treated with rest."
    )
    context = ranker.context(QUERY, [long], 12, words(1))
    assert context.ranking[0].passage is not None
    assert [piece.text for piece in context.pieces] == [
        "Aspirin treats a heart attack.",
        "Heart attacks are treated with rest.",
    ]


def test_what_was_cut_off_before_reading_is_named(default):
    ranker = default.with_config(max_document_tokens=20, long_documents="truncate")
    context = ranker.context(QUERY, ["Bread is baked. " * 8 + "Aspirin treats a heart attack."])
    assert context.dropped[-1].text == "Aspirin treats a heart attack."
    assert context.dropped[-1].reason == "not read"
    assert context.dropped[-1].score is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = save_family(tmp_path_factory.mktemp("tiny"), "bert", replace(BERT_CONFIG, max_document_tokens=24))
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32", long_documents="split")


SENTENCES = st.sampled_from(
    [*PHRASE.split(), ". ", "! ", "\n", "  ", "。", '." ', "🩺", "</s> ", "[SEP]", "\ud800", "{x}", "\x00"]
)
TEXTS = st.lists(SENTENCES, max_size=60).map(" ".join) | st.text(max_size=40)
DOCUMENT_LISTS = st.lists(
    TEXTS | st.builds(lambda title, text: {"title": title, "text": text}, TEXTS, TEXTS), max_size=5
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=DOCUMENT_LISTS, max_tokens=st.integers(1, 60), diversity=st.sampled_from([0.0, 0.5]))
def test_nothing_is_in_a_context_that_is_not_in_the_documents_and_nothing_is_lost(
    tiny, documents, max_tokens, diversity
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = tiny.context(QUERY, documents, max_tokens, words(1), diversity=diversity)
    texts = [own_text(document) for document in documents]
    assert len(context.text.split()) == context.num_tokens <= max_tokens
    assert context.text.split() == [word for piece in context.pieces for word in piece.text.split()]
    unseen = [{place for place, letter in enumerate(text) if not letter.isspace()} for text in texts]
    for piece in [*context.pieces, *context.dropped]:
        assert piece.text == texts[piece.index][piece.start : piece.end]
        inside = {place for place in range(piece.start, piece.end) if not texts[piece.index][place].isspace()}
        assert inside <= unseen[piece.index]  # in no other piece
        unseen[piece.index] -= inside
    assert not any(unseen)


# Which documents


def test_documents_below_a_threshold_are_dropped_whole(default):
    ranking = default.rank(QUERY, DOCUMENTS)
    limit = ranking[1].score
    context = default.context(QUERY, DOCUMENTS, threshold=(ranking[0].score + limit) / 2)
    assert set(context.texts) == {ranking[0].index}
    below = {piece.index: piece for piece in context.dropped}
    assert {piece.reason for piece in below.values()} == {"below threshold"}
    assert {index: piece.text for index, piece in below.items()} == {
        d.index: own_text(DOCUMENTS[d.index]) for d in ranking[1:] if own_text(DOCUMENTS[d.index])
    }
    assert set(default.context(QUERY, DOCUMENTS, top_k=2).texts) <= {d.index for d in ranking[:2]}
    both = default.context(QUERY, DOCUMENTS, threshold=ranking[1].score, top_k=1).dropped
    assert {(piece.index, piece.reason) for piece in both} == {
        (d.index, "beyond top_k" if place == 1 else "below threshold")
        for place, d in enumerate(ranking)
        if place and own_text(DOCUMENTS[d.index])
    }
    assert default.context(QUERY, DOCUMENTS, min_probability=1.0).pieces == []


def test_pruned_documents_are_dropped_and_say_so(default):
    ranker = BlockRankReranker.from_pretrained(dtype="float32", device="cpu", prune={1: 2})
    context = ranker.context(QUERY, DOCUMENTS)
    assert {d.index for d in context.ranking if d.pruned} >= {p.index for p in context.dropped}
    assert {p.reason for p in context.dropped} == {"pruned"}
    assert len(context.texts) == 2


# Near-duplicates and diversity


def test_a_sentence_that_says_what_one_before_says_is_dropped_with_the_others_document(default):
    context = default.context(
        QUERY,
        [
            "Bread is baked.",
            "Aspirin treats a heart attack. Concrete hardens.",
            "The moon is far. Aspirin  treats a heart attack.",
            "Aspirin treats a heart attack",
        ],
    )
    kept = [piece for piece in context.pieces if "Aspirin" in piece.text]
    assert len(kept) == 1
    reasons = {piece.index: (piece.reason, piece.duplicate_of) for piece in context.dropped}
    other = kept[0].index
    assert reasons == dict.fromkeys({1, 2, 3} - {other}, (f"near-duplicate of {other}", other))


def test_neighbours_in_a_document_are_no_near_duplicates_of_each_other(default):
    text = (
        "Unlike most people with insulin resistance, females with the syndrome are usually not overweight. "
        "The features of the syndrome are more subtle in affected males. The features of the syndrome are more subtle "
        "in affected males!"
    )
    context = default.context("Who has insulin resistance syndrome?", [text])
    assert [(piece.text[:12], piece.reason) for piece in context.dropped] == [("The features", "near-duplicate of 0")]


def sentence(number, score, key):
    return Sentence(number, 0, 1, f"sentence {number}", score, torch.nn.functional.normalize(torch.tensor(key), dim=0))


def test_diversity_prefers_what_is_unlike_the_sentences_before():
    alike = NEAR_DUPLICATE - 0.02
    one, other, third = (  # of three documents
        sentence(0, 3.0, [1.0, 0.0]),
        sentence(1, 2.9, [alike, (1 - alike**2) ** 0.5]),
        sentence(2, 2.0, [0.0, 1.0]),
    )

    def taken(diversity):
        return select([one, other, third], 2, lambda sentence, is_first: 1, diversity).taken

    assert taken(0.0) == [one, other]
    assert taken(0.7) == [one, third]


# The budget


def test_room_that_is_left_is_not_filled_with_punctuation_and_numbers(default):
    text = "1. Aspirin treats a heart attack. 2. - 3. Bread is baked by Dr. Smith."
    with pytest.warns(UserWarning, match="leaves room for no sentence"):
        assert default.context(QUERY, [text], 3, words(1)).text == ""
    context = default.context(QUERY, [text], 8, words(1))
    assert context.text == "1. Aspirin treats a heart attack."
    assert [piece.text for piece in context.dropped] == ["2. - 3. Bread is baked by Dr. Smith."]


def test_where_no_sentence_fits_the_context_is_empty_and_a_warning_names_what_the_shortest_takes(default):
    with pytest.warns(UserWarning, match=r"max_tokens=2 leaves room for no sentence.* shortest of 7 takes 20 tokens"):
        context = default.context(QUERY, DOCUMENTS, 2, words(10))
    assert (context.pieces, context.text, context.num_tokens) == ([], "", 0)
    assert {(piece.reason, piece.duplicate_of) for piece in context.dropped} == {("budget", None)}


def test_a_best_sentence_that_is_longer_than_the_budget_is_named_though_others_fit(default):
    text = "Aspirin treats a heart attack of whoever has one. Bread is baked."
    with pytest.warns(UserWarning, match=r"^max_tokens=4 leaves no room for the best sentence, which takes 9 tokens"):
        context = default.context(QUERY, [text], 4, words(1))
    assert context.text == "Bread is baked."


def test_no_documents_give_an_empty_context_and_load_nothing(monkeypatch):
    monkeypatch.setattr("blockrank_rerank.engine.engine.Engine.load", None)
    context = BlockRankReranker.from_pretrained(max_document_tokens=81).context(QUERY, [])
    assert (context.pieces, context.dropped, context.ranking, context.text) == ([], [], [], "")


def test_documents_without_text_give_no_warning(default):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert default.context(QUERY, ["", "  "]).pieces == []


def test_a_joined_text_with_more_tokens_than_its_parts_is_shortened(default):
    def jumpy(text):  # costs more joined than in parts
        return len(text.split()) ** 2

    context = default.context(QUERY, DOCUMENTS, 60, jumpy)
    assert context.num_tokens == jumpy(context.text) <= 60
    assert context.pieces


def test_tokens_are_counted_by_whatever_tokenizer_is_given(default):
    tiktoken = pytest.importorskip("tiktoken", reason="brings the tokenizers of OpenAI")
    ranks = {bytes([number]): number for number in range(256)}
    of_bytes = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"</s>": 256})
    context = default.context(QUERY, DOCUMENTS, 40, of_bytes)
    assert context.num_tokens == len(context.text.encode()) <= 40
    own = default.engine.prompt._tokenizer._tokenizer  # of Hugging Face's tokenizers
    assert default.context(QUERY, DOCUMENTS, 12, own) == default.context(QUERY, DOCUMENTS, 12)
    slow = default._shared.spec.checkpoint.tokenizer(30522)  # of Transformers
    assert default.context(QUERY, DOCUMENTS, 12, slow).pieces == default.context(QUERY, DOCUMENTS, 12).pieces


def stored(length):
    """A tokenizer as embedding models save it: it pads and truncates."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding(length=length)
    tokenizer.enable_truncation(length)
    return tokenizer


def of_transformers(length):
    return PreTrainedTokenizerFast(tokenizer_object=stored(length))


@pytest.mark.parametrize("kind", [stored, of_transformers])
def test_padding_and_truncation_that_a_tokenizer_has_stored_count_for_nothing(kind):
    tokenizer = kind(128)
    count = token_counter(tokenizer)
    assert [count("word " * number) for number in (0, 1, 300)] == [0, 1, 300]
    if kind is stored:  # whose settings are its owner's
        assert (tokenizer.padding["length"], tokenizer.truncation["max_length"]) == (128, 128)


def test_a_budget_holds_for_a_tokenizer_that_pads_and_truncates(default):
    with pytest.warns(UserWarning, match="max_tokens=130 leaves room for no sentence.* takes 300 tokens"):
        context = default.context(QUERY, ["word " * 300], 130, stored(128))
    assert (context.text, context.num_tokens) == ("", 0)


@pytest.mark.parametrize(
    "tokens",
    [
        lambda text: tuple(text.split()),
        lambda text: np.array(text.split()),
        lambda text: np.zeros([1, len(text.split())]),
        lambda text: torch.zeros(len(text.split())),
        lambda text: np.array(len(text.split())),
        lambda text: np.int64(len(text.split())),
        lambda text: {"input_ids": text.split(), "attention_mask": None},
        lambda text: BatchEncoding({"input_ids": torch.zeros(1, len(text.split()))}),
        lambda text: [text.split()],
        lambda text: Tokenizer(WordLevel({"x": 0}, "x")).encode(text.split(), is_pretokenized=True),
    ],
)
def test_tokens_are_counted_in_whatever_holds_them(tokens):
    assert [token_counter(tokens)(text) for text in ("", "a", "a b c")] == [0, 1, 3]


# The template


def test_the_template_writes_titles_ids_and_numbers(default):
    context = default.context(QUERY, DOCUMENTS[1:2], template="[{number}] {title} ({id}, {index}) {{x}}: {text}")
    assert context.text == f"[1] Heart attack (d7, 0) {{x}}: {DOCUMENTS[1]['text']}"


def test_braces_in_a_text_are_text(default):
    assert default.context(QUERY, ["A {title} and {0} stay."]).text == "A {title} and {0} stay."


def test_the_template_counts_towards_the_budget(default):
    template = "one two three {text}"
    context = default.context(QUERY, DOCUMENTS, 8, words(1), template=template)
    assert context.num_tokens == len(context.text.split()) == 8
    assert context.text.startswith("one two three Aspirin treats")


# What is wrong


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"max_tokens": 0}, r"^max_tokens must be a whole number of at least 1, got 0$"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number"),
        ({"max_tokens": True}, "max_tokens must be a whole number"),
        ({"diversity": -0.1}, r"^diversity must be a number in 0..1, got -0.1$"),
        ({"diversity": float("nan")}, "diversity must be a number"),
        ({"tokenizer": "gpt2"}, r"^tokenizer must be a tokenizer itself, got the str 'gpt2'; load it first, e.g. "),
        ({"tokenizer": b"gpt2"}, "got the bytes b'gpt2'; load it first"),
        ({"tokenizer": 7}, "^tokenizer must be a Hugging Face or tiktoken tokenizer, or a callable.* got int$"),
        ({"template": "{txt}"}, r"^template must have \{text\}, and no other fields than"),
        ({"template": "{"}, "template cannot be read.*twice"),
        ({"template": 3}, "template must be a str, got int"),
        ({"template": "{number:02d} {text}"}, "template takes fields as they are"),
        ({"template": "{text!r}"}, "template takes fields as they are"),
        ({"top_k": -1}, "top_k must be"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_the_model_is_loaded(monkeypatch, chosen, message):
    monkeypatch.setattr("blockrank_rerank.engine.engine.Engine.load", None)
    ranker = BlockRankReranker.from_pretrained(max_document_tokens=82)
    with pytest.raises((TypeError, ValueError), match=message):
        ranker.context(QUERY, DOCUMENTS, **chosen)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (lambda text: 1 / 0, r"^tokenizer function failed on '.*': ZeroDivisionError: division by zero$"),
        (
            lambda text: "many",
            "^tokenizer must give the tokens of a text, or their number, which is not negative, got str 'many'$",
        ),
        (lambda text: -1, "got int -1$"),
        (lambda text: True, "got bool True$"),
        (lambda text: 2.0, "got float 2.0$"),
        (lambda text: {"tokens": [7] * 900}, r"got dict \{'tokens': \[7, 7, 7, 7, 7, 7, \.\.\.\]\}$"),
        (lambda text: np.array(0.5), "^tokenizer function failed on .*TypeError: only integer scalar arrays"),
    ],
)
def test_a_tokenizer_that_fails_is_named(default, tokenizer, message):
    with pytest.raises(ValueError, match=message):
        default.context(QUERY, DOCUMENTS, tokenizer=tokenizer)


# What it costs


@pytest.fixture
def tokens_read(monkeypatch):
    """Tokens of every pass through the model."""
    passes, run = [], Backbone._run

    def counted(backbone, forward):
        passes.append(forward.layout.input_ids.numel())
        return run(backbone, forward)

    monkeypatch.setattr(Backbone, "_run", counted)
    return passes


@pytest.mark.parametrize("method", ["explain", "context"])
@pytest.mark.parametrize("known", ["prepared", "cache", "store"])
def test_known_documents_are_not_read(default, tmp_path, tokens_read, method, known):
    documents = [text for text in DOCUMENTS if text] + ["word " * 60]
    ranker, known_ones = default, documents
    if known == "prepared":
        known_ones = default.prepare(documents)
    elif known == "cache":
        ranker = BlockRankReranker.from_pretrained(dtype="float32", device="cpu", cache="10MB")
        ranker.rank(QUERY, documents)
    else:
        default.prepare_store(tmp_path / "states", documents)
        ranker = BlockRankReranker.from_pretrained(dtype="float32", device="cpu", store=tmp_path / "states")
        known_ones = [*StoredDocuments(tmp_path / "states")]
    tokens_read.clear()
    found = getattr(ranker, method)(QUERY, known_ones)
    alone = ranker.engine.prompt.encode(QUERY, [])
    assert tokens_read
    assert max(tokens_read) <= alone.num_tokens + 8  # lengths are rounded up for some dtypes
    expected = getattr(default, method)(QUERY, documents)
    if method == "context":
        assert [(p.index, p.text) for p in found.pieces] == [(p.index, p.text) for p in expected.pieces]
    else:
        assert [d.ranked.index for d in found] == [d.ranked.index for d in expected]
        for document, other in zip(found, expected, strict=True):
            assert [w.weight for w in document.words] == pytest.approx([w.weight for w in other.words], abs=1e-5)


def test_documents_that_are_not_known_are_read_once(default, tokens_read):
    encoded = default.engine.prompt.encode(QUERY, [])
    texts = [f"word {number} " * 30 for number in range(3)]
    documents = sum(map(len, default.engine.prompt.encode(QUERY, texts).documents))
    tokens_read.clear()
    default.context(QUERY, texts)
    assert documents <= sum(tokens_read) < documents + 4 * encoded.num_tokens


def test_documents_of_more_than_a_pass_are_read_once(default, tokens_read, monkeypatch):
    texts = [f"word {number} " * 30 for number in range(9)]
    documents = sum(map(len, default.engine.prompt.encode(QUERY, texts).documents))
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=documents // 3))
    tokens_read.clear()
    default.explain(QUERY, texts)
    assert documents <= sum(tokens_read) < 1.5 * documents


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_cutting_documents_changes_nothing_for_the_query(tmp_path, family):
    """The log-sum-exps of a document's parts are together those of the document, windows of lower layers included."""
    config = replace(CONFIG, scoring_layer=global_layers(family)[-1])
    ranker = BlockRankReranker.from_pretrained(save_family(tmp_path, family, config), device="cpu", dtype="float32")
    engine = ranker.engine
    request = engine.prompt.encode(QUERY, [PHRASE, "sugar", PHRASE * 2])
    pack = StatePack([*engine.states_of(request, engine.dtype)])
    alone = replace(request, documents=[], truncated=[])
    ends = [sorted({1, len(ids) // 2, len(ids)}) for ids in pack.ids]
    whole, cut = (engine.score(Batch([alone], [states]))[0].documents for states in (pack, pack.parts(ends)))
    joined = [part.logsumexp(-1) for part in cut.split([*map(len, ends)], -1)]
    torch.testing.assert_close(torch.stack(joined, -1), whole)


def test_a_context_is_narrowed_to_a_part_of_a_text(default):
    text = "topic: heart attack\nAspirin treats a heart attack. Bread is baked."
    start = text.index("Aspirin")
    attended = AttendedList.of(default._shared.get, None, QUERY, [text])
    context = build_context(attended, attended.ranking, ContextSettings(), within={0: (start, len(text) - 3)})
    assert context.texts == {0: text[start:-3]}


def test_a_document_that_is_not_wanted_is_dropped_as_narrow_as_it_was_looked_at(default):
    texts = ["topic: heart attack\n", "topic: bread\nIt is baked."]
    within = {0: (len(texts[0]), len(texts[0])), 1: (texts[1].index("It"), len(texts[1]))}
    attended = AttendedList.of(default._shared.get, None, QUERY, texts)
    likely = [ranked for ranked in attended.ranking if ranked.index == 0]
    context = build_context(attended, likely, ContextSettings(), within=within)
    assert [(piece.text, piece.reason) for piece in context.dropped] == [("It is baked.", "below threshold")]
