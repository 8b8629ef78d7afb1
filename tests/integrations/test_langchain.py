from __future__ import annotations

import asyncio
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("langchain_core", reason="needs the langchain extra")
classic = pytest.importorskip("langchain_classic.retrievers", reason="needs langchain-classic")

from langchain_blockrank import BlockRankCrossEncoder, BlockRankRerank
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough

import blockrank_rerank
from blockrank_rerank.adapters import Scoring
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.errors import install_line
from tests.integrations.conftest import CUT, QUESTION, TEXTS


def documents(texts=TEXTS):
    return [Document(id=str(n), page_content=text, metadata={"n": n}) for n, text in enumerate(texts)]


def ids(found):
    return [document.id for document in found]


class Fixed(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return documents()


def test_documents_come_in_the_engines_order_with_their_scores_and_ids(ranking):
    found = BlockRankRerank(top_n=None, score_type="share").compress_documents(documents(), QUESTION)
    assert ids(found) == [str(document.index) for document in ranking]
    assert [document.metadata["relevance_score"] for document in found] == [d.score for d in ranking]
    assert [document.metadata["n"] for document in found] == [d.index for d in ranking]
    assert all(type(document.metadata["relevance_score"]) is float for document in found)


def test_inputs_are_not_changed():
    given = documents()
    before = copy.deepcopy(given)
    BlockRankRerank().compress_documents(given, QUESTION)
    assert given == before


@pytest.mark.parametrize("top_n", [0, 1, 3, 100, None])
def test_top_n_is_an_upper_bound_and_none_means_all(top_n):
    found = BlockRankRerank(top_n=top_n).compress_documents(documents(), QUESTION)
    assert len(found) == (len(TEXTS) if top_n is None else min(top_n, len(TEXTS)))


def test_thresholds_come_before_top_n(ranking):
    cut = ranking[2].score
    assert (
        len(
            BlockRankRerank(top_n=None, score_threshold=cut, score_type="share").compress_documents(
                documents(), QUESTION
            )
        )
        == 3
    )
    assert (
        len(BlockRankRerank(top_n=2, score_threshold=cut, score_type="share").compress_documents(documents(), QUESTION))
        == 2
    )
    likely = ranking[1].probability
    found = BlockRankRerank(top_n=None, min_probability=likely).compress_documents(documents(), QUESTION)
    assert ids(found) == [str(d.index) for d in ranking if d.probability >= likely]


def test_highlights_point_into_the_text():
    for found in BlockRankRerank(top_n=None, explain=True).compress_documents(documents(), QUESTION):
        for highlight in found.metadata["highlights"]:
            assert found.page_content[highlight["start"] : highlight["end"]] == highlight["text"]


ANSWER = "Bread is baked. Aspirin treats a heart attack. The moon is far. Concrete hardens."


def words(text):
    return len(text.split())


def test_documents_are_cut_to_the_sentences_that_fit_a_budget():
    given = [Document(page_content=ANSWER, id="a"), Document(page_content="", id="b")]
    (found,) = BlockRankRerank(top_n=None, max_tokens=5, tokenizer=words).compress_documents(given, QUESTION)
    assert (found.id, found.page_content) == ("a", "Aspirin treats a heart attack.")
    assert [ANSWER[start:end] for start, end in found.metadata["pieces"]] == [found.page_content]
    assert {"relevance_score", "probability"} <= found.metadata.keys()
    (whole,) = BlockRankRerank(top_n=None, max_tokens=100).compress_documents(given, QUESTION)
    assert whole.page_content == ANSWER
    assert given[0].page_content == ANSWER


def test_a_cut_document_has_pieces_instead_of_highlights():
    with pytest.raises(ValueError, match="explain and max_tokens do not go together"):
        BlockRankRerank(max_tokens=50, explain=True)
    reranker = BlockRankRerank(explain=True)
    with pytest.raises(ValueError, match="explain and max_tokens do not go together"):
        reranker.max_tokens = 50
    with pytest.raises(TypeError, match="tokenizer must be a Hugging Face or tiktoken tokenizer"):
        BlockRankRerank(max_tokens=50, tokenizer=7)


def test_all_documents_may_be_in_a_budget_unless_top_n_is_given():
    assert len(BlockRankRerank(max_tokens=100).compress_documents(documents(), QUESTION)) == 5  # one is empty
    assert len(BlockRankRerank(max_tokens=100, top_n=3).compress_documents(documents(), QUESTION)) == 3
    reranker = BlockRankRerank()
    assert reranker.top_n == 3
    reranker.max_tokens = 100
    assert reranker.top_n is None
    assert BlockRankRerank(**reranker.model_dump()).top_n is None
    reranker.max_tokens = None
    assert reranker.top_n == 3


def test_diversity_reaches_the_context(monkeypatch):
    seen = []
    monkeypatch.setattr(Scoring, "context", lambda *given: seen.append(given[4]) or (None, []))
    BlockRankRerank(max_tokens=100, diversity=0.5).compress_documents(documents(), QUESTION)
    assert [settings.diversity for settings in seen] == [0.5]


@pytest.mark.parametrize(("name", "value"), [("tokenizer", words), ("diversity", 0.5)])
def test_what_means_nothing_without_a_budget_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is for documents that are cut to max_tokens, got max_tokens=None"):
        BlockRankRerank(**{name: value})


def test_a_budget_is_saved_and_a_tokenizer_is_not():
    saved = BlockRankRerank(max_tokens=50, tokenizer=words).model_dump()
    assert saved["max_tokens"] == 50
    assert "tokenizer" not in saved


def test_an_empty_list_stays_empty_and_loads_nothing(monkeypatch):
    monkeypatch.setattr(Engine, "load", None)
    assert BlockRankRerank(max_document_tokens=79).compress_documents([], QUESTION) == []


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="topn"):
        BlockRankRerank(topn=3)


def test_settings_of_the_call_can_be_changed_later_and_those_of_the_model_cannot():
    reranker = BlockRankRerank()
    reranker.top_n = 2
    assert len(reranker.compress_documents(documents(), QUESTION)) == 2
    with pytest.raises(ValueError, match="frozen"):
        reranker.device = "cuda"


def test_duplicates_and_documents_without_an_id_stay():
    given = [*documents(), documents()[1], Document(page_content=TEXTS[1])]
    found = BlockRankRerank(top_n=None).compress_documents(given, QUESTION)
    assert sorted(map(str, ids(found))) == sorted(map(str, ids(given)))


def test_around_a_retriever_sync_and_async(ranking):
    retriever = classic.ContextualCompressionRetriever(base_compressor=BlockRankRerank(top_n=2), base_retriever=Fixed())
    expected = [str(document.index) for document in ranking[:2]]
    assert ids(retriever.invoke(QUESTION)) == expected
    assert ids(asyncio.run(retriever.ainvoke(QUESTION))) == expected


def test_as_a_step_of_a_chain_sync_and_async(ranking):
    chain = RunnableParallel(query=RunnablePassthrough(), documents=Fixed()) | BlockRankRerank(top_n=2).as_runnable()
    expected = [str(document.index) for document in ranking[:2]]
    assert ids(chain.invoke(QUESTION)) == expected
    assert ids(asyncio.run(chain.ainvoke(QUESTION))) == expected


def test_the_run_appears_inside_the_trace_of_the_retriever():
    runs = []

    class Handler(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, name=None, **kwargs):
            runs.append((name, parent_run_id))

    retriever = classic.ContextualCompressionRetriever(base_compressor=BlockRankRerank(), base_retriever=Fixed())
    retriever.invoke(QUESTION, config={"callbacks": [Handler()]})
    assert [name for name, parent in runs if parent is not None] == ["BlockRankRerank"]


def test_rerank_gives_indices_and_scores(ranking):
    found = BlockRankRerank(score_type="share").rerank(TEXTS, QUESTION, top_n=2)
    assert found == [{"index": d.index, "relevance_score": d.score} for d in ranking[:2]]
    assert BlockRankRerank().rerank(documents(), QUESTION, top_n=0) == []
    with_titles = BlockRankRerank(top_n=None).rerank([{"text": text, "title": "t"} for text in TEXTS], QUESTION)
    assert len(with_titles) == len(TEXTS)


def test_rerank_takes_top_n_by_place_none_for_all_and_no_text_for_a_list():
    reranker = BlockRankRerank(top_n=3)
    assert [len(reranker.rerank(TEXTS, QUESTION, *top_n)) for top_n in ([], [2], [None])] == [3, 2, len(TEXTS)]
    with pytest.raises(TypeError, match="documents must be a list of documents, got str"):
        reranker.rerank("abc", QUESTION)


def test_documents_may_come_from_a_generator_and_must_be_documents():
    given = documents()
    found = BlockRankRerank(top_n=None).compress_documents((document for document in given), QUESTION)
    assert len(found) == len(given)
    with pytest.raises(TypeError, match=r"documents\[0\] must be a Document, got str"):
        BlockRankRerank().compress_documents(["text"], QUESTION)


def test_a_copy_with_other_settings_of_the_model_uses_them():
    original = BlockRankRerank(cache="1MB")
    assert original.model_copy(update={"top_n": 2})._reranker is original._reranker  # and so its cache
    copied = original.model_copy(update={"max_document_tokens": 8})
    assert copied._reranker.config.max_document_tokens == 8


def test_as_a_cross_encoder_in_langchains_own_reranker(ranking):
    encoder = BlockRankCrossEncoder(score_type="share")
    scores = encoder.score([(QUESTION, text) for text in TEXTS])
    assert all(type(score) is float for score in scores)
    assert scores == pytest.approx([d.score for d in sorted(ranking, key=lambda d: d.index)], abs=1e-6)
    found = CrossEncoderReranker(model=encoder, top_n=2).compress_documents(documents(), QUESTION)
    assert ids(found) == [str(document.index) for document in ranking[:2]]


def test_a_cross_encoder_scores_nothing_as_nothing_and_survives_a_copy_and_a_pickle():
    encoder = BlockRankCrossEncoder(dtype="float32")
    assert encoder.score([]) == []
    pairs = [(QUESTION, text) for text in TEXTS[:2]]
    expected = encoder.score(pairs)
    assert copy.deepcopy(encoder).score(pairs) == expected
    assert pickle.loads(pickle.dumps(encoder)).score(pairs) == expected


def test_folders_may_be_paths_and_are_saved_as_text(tmp_path):
    folder = Path(blockrank_rerank.__file__).parent / "default_model"
    reranker = BlockRankRerank(model=folder, store=tmp_path / "states")
    assert reranker.model_dump()["model"] == str(folder)
    assert BlockRankRerank.model_validate_json(reranker.model_dump_json()).store == str(tmp_path / "states")
    with pytest.raises(ValueError, match="valid string"):
        BlockRankRerank(model=3)
    with pytest.raises(FileNotFoundError, match=r"'\./default' does not exist"):
        BlockRankRerank(model=Path("default"))  # not the model in the package


def test_every_setting_survives_a_dump_a_copy_and_a_pickle():
    reranker = BlockRankRerank(
        top_n=2, score_threshold=0.01, min_probability=0.0, max_document_tokens=50, device="cpu", dtype="float32"
    )
    expected = reranker.compress_documents(documents(), QUESTION)
    for other in (
        BlockRankRerank(**reranker.model_dump()),
        BlockRankRerank.model_validate_json(reranker.model_dump_json()),
        copy.deepcopy(reranker),
        pickle.loads(pickle.dumps(reranker)),
    ):
        assert other.model_dump() == reranker.model_dump()
        assert other.compress_documents(documents(), QUESTION) == expected


def test_sixteen_threads_get_what_one_gets(one_core_each):
    reranker = BlockRankRerank(top_n=None, dtype="float32")
    lists = [TEXTS[shift : shift + 2] for shift in range(4)]
    expected = [reranker.compress_documents(documents(texts), QUESTION) for texts in lists]
    work = list(range(16 * 10))
    with ThreadPoolExecutor(16) as threads:
        found = list(
            threads.map(lambda n: reranker.compress_documents(documents(lists[n % len(lists)]), QUESTION), work)
        )
    for number, result in zip(work, found, strict=True):
        assert ids(result) == ids(expected[number % len(lists)])


def test_a_cancelled_call_leaves_the_reranker_usable():
    reranker = BlockRankRerank(top_n=1)

    async def cancel():
        task = asyncio.create_task(reranker.acompress_documents(documents(TEXTS * 50), QUESTION))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await reranker.acompress_documents(documents(), QUESTION)

    assert len(asyncio.run(cancel())) == 1


def test_without_the_framework_the_import_says_what_to_install(without_frameworks):
    assert install_line("langchain") in without_frameworks["langchain_blockrank"]


def test_a_cut_document_says_so():
    given = documents([CUT, TEXTS[0]])
    settings = {"max_document_tokens": 20, "long_documents": "truncate"}
    found = {one.id: one for one in BlockRankRerank(**settings).compress_documents(given, QUESTION)}
    assert found["0"].metadata["truncated"] is True
    assert "truncated" not in found["1"].metadata
    shortened = BlockRankRerank(**settings, max_tokens=200).compress_documents(given, QUESTION)
    assert {one.id: one.metadata.get("truncated") for one in shortened} == {"0": True, "1": None}
    with pytest.raises(ValueError, match=r"documents\[0\] has \d+ tokens, more than the 20"):
        BlockRankRerank(max_document_tokens=20, long_documents="error").compress_documents(given, QUESTION)


@pytest.mark.parametrize("documents", ["text", {"text": "x", "title": "y"}, {"a", "b"}, pd.DataFrame({"text": TEXTS})])
def test_what_is_no_list_of_documents_is_not_ranked(documents):
    with pytest.raises(TypeError, match="documents must be a list of documents, got"):
        BlockRankRerank().rerank(documents, QUESTION)


@pytest.mark.parametrize(("name", "value"), [("top_n", -1), ("max_tokens", 0), ("score_threshold", float("inf"))])
def test_settings_are_checked_when_they_are_assigned_too(name, value):
    reranker = BlockRankRerank()
    with pytest.raises(ValueError, match=name):
        setattr(reranker, name, value)
    with pytest.raises(ValueError, match=name):
        BlockRankRerank(**{name: value})
