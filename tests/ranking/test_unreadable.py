"""What a tokenizer cannot read matches nothing, and says so."""

from __future__ import annotations

import hashlib
import warnings

import pytest

from blockrank_rerank import BlockRankReranker, RankedDocument
from blockrank_rerank.ranking.batches import UNREADABLE_SHARE
from blockrank_rerank.text.tokenizer import TextTokenizer
from tests.tiny_models import bert_tokenizer, byte_level_tokenizer

FLOWERS = "The annual flower show opens in May."
AMHARIC = ["የብረት እጥረት የደም ማነስ ያስከትላል", "ሌላ ጽሑፍ እዚህ አለ"]


def digest(text: str) -> str:
    """A word of 128 characters, of which BERT's tokenizers read 100 at most."""
    return hashlib.sha512(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def ranker() -> BlockRankReranker:
    return BlockRankReranker.from_pretrained(dtype="float32", device="cpu")


def quiet_rank(ranker: BlockRankReranker, query: str, documents) -> dict[int, RankedDocument]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {document.index: document for document in ranker.rank(query, documents)}


@pytest.mark.parametrize(
    ("query", "documents"),
    [(digest("a"), [digest("b"), digest("c"), FLOWERS]), (AMHARIC[0], AMHARIC), (digest("a"), [FLOWERS, AMHARIC[0]])],
)
def test_a_query_that_cannot_be_read_finds_nothing_and_says_so_once(ranker, query, documents):
    with pytest.warns(UserWarning, match="of the query is text that the model's tokenizer cannot read") as caught:
        ranking = ranker.rank(query, documents)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert {document.unreadable for document in ranking} == {1.0}
    assert max(document.probability for document in ranking) < 0.1


def test_documents_that_cannot_be_read_are_counted_and_not_probable(ranker):
    with pytest.warns(UserWarning, match="more than 25% of 2 of 3 documents"):
        ranking = ranker.rank("annual flower show", [AMHARIC[0], FLOWERS, digest("a")])
    assert ranking[0].index == 1
    assert (ranking[0].unreadable, ranking[0].probability > 0.5) == (0.0, True)
    assert all(document.unreadable > 0.9 and document.probability < 0.1 for document in ranking[1:])


def test_two_words_that_cannot_be_read_are_no_match_of_each_other(ranker):
    query, other = f"checksum of the file {digest('a')}", f"release notes of the year {digest('b')}"
    found = quiet_rank(ranker, query, [other, "release notes of the year"])
    assert found[0].raw_score < found[1].raw_score + 1


@pytest.mark.parametrize("kind", ["prepared", "cached", "batch", "groups"])
def test_every_route_keeps_them_apart(ranker, kind, monkeypatch):
    query, documents = f"checksum {digest('a')} of it", [f"file {digest('b')}", FLOWERS, digest("c")]
    expected = quiet_rank(ranker, query, documents)
    if kind == "prepared":
        found = quiet_rank(ranker, query, ranker.prepare(documents))
    elif kind == "batch":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = {d.index: d for d in ranker.rank_batch([(query, documents), ("other", documents)])[0]}
    else:
        options = {"cache": "10MB"} if kind == "cached" else {"max_memory": "1MB"}
        other = BlockRankReranker.from_pretrained(dtype="float32", device="cpu", **options)
        found = quiet_rank(other, query, documents)
    for index, document in expected.items():
        assert found[index].raw_score == pytest.approx(document.raw_score, abs=1e-4)
        assert found[index].unreadable == document.unreadable


def test_a_stray_symbol_changes_nothing(ranker):
    document = FLOWERS + " There will be prizes \N{YELLOW HEART} for the best roses and tulips."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = ranker.rank("flower show", [document])
    assert 0 < found.unreadable < UNREADABLE_SHARE


def test_explanations_do_not_point_at_what_was_not_read(ranker):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (explained,) = ranker.explain(f"flower {digest('a')} show", [f"flower show {digest('b')}"])
    weights = {word.text: word.weight for word in explained.words}
    assert weights[digest("b")] < min(weights["flower"], weights["show"])


def test_bytes_are_read_always():
    assert TextTokenizer(byte_level_tokenizer()).unknown_id is None
    assert TextTokenizer(bert_tokenizer()).unknown_id == bert_tokenizer().unk_token_id
