from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

haystack = pytest.importorskip("haystack", reason="needs the haystack extra")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import SerializationError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.components.rankers.blockrank import BlockRankContext, BlockRankRanker
from tokenizers import Tokenizer

import blockrank_rerank
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.errors import install_line
from tests.integrations.conftest import CUT, QUESTION, TEXTS

FOLDER = Path(blockrank_rerank.__file__).parent / "default_model"


def documents(texts=TEXTS):
    return [Document(id=str(n), content=text, score=0.5) for n, text in enumerate(texts)]


def ids(found):
    return [document.id for document in found["documents"]]


def pipeline(kind=Pipeline, **settings):
    built = kind()
    built.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=10))
    built.add_component("ranker", BlockRankRanker(**settings))
    built.connect("retriever.documents", "ranker.documents")
    built.get_component("retriever").document_store.write_documents(documents())
    return built


def test_documents_come_in_the_engines_order_with_python_floats(ranking):
    found = BlockRankRanker(score_type="share").run(QUESTION, documents())
    assert ids(found) == [str(document.index) for document in ranking]
    assert [document.score for document in found["documents"]] == [document.score for document in ranking]
    assert all(type(document.score) is float for document in found["documents"])


def test_inputs_are_not_changed():
    given = documents()
    before = copy.deepcopy(given)
    BlockRankRanker(meta_fields_to_embed=["title"]).run(QUESTION, given)
    assert given == before


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_top_k_of_the_call_comes_before_that_of_the_component(top_k):
    assert len(ids(BlockRankRanker(top_k=2).run(QUESTION, documents(), top_k=top_k))) == min(top_k, len(TEXTS))
    assert len(ids(BlockRankRanker(top_k=2).run(QUESTION, documents()))) == 2


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True, "2"])
def test_a_top_k_below_one_is_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k must be a whole number of at least 1, got {top_k!r}"):
        BlockRankRanker(top_k=top_k)
    with pytest.raises(ValueError, match=f"top_k must be a whole number of at least 1, got {top_k!r}"):
        BlockRankRanker().run(QUESTION, documents(), top_k=top_k)


def test_numpys_integers_are_integers():
    assert len(ids(BlockRankRanker(top_k=np.int64(2)).run(QUESTION, documents()))) == 2


def test_a_threshold_keeps_equal_scores_and_zero_overrides(ranking):
    ranker = BlockRankRanker(score_threshold=2.0, score_type="share")
    assert ids(ranker.run(QUESTION, documents())) == []
    assert len(ids(ranker.run(QUESTION, documents(), score_threshold=0.0))) == len(TEXTS)
    assert len(ids(ranker.run(QUESTION, documents(), score_threshold=ranking[1].score))) == 2
    assert len(ids(ranker.run(QUESTION, documents(), top_k=1, score_threshold=ranking[1].score))) == 1


def test_probabilities_filter_whatever_the_list(ranking):
    cut = ranking[1].probability
    kept = BlockRankRanker(min_probability=cut).run(QUESTION, documents())
    assert ids(kept) == [str(d.index) for d in ranking if d.probability >= cut]


def test_highlights_point_into_the_content():
    given = [Document(content=text, meta={"title": "A heart. Attack"}) for text in TEXTS[:3]]
    ranker = BlockRankRanker(
        explain=True, meta_fields_to_embed=["title"], document_prefix="passage: ", document_suffix=" end"
    )
    found = ranker.run(QUESTION, given)["documents"]
    for document in found:
        assert document.meta["highlights"]
        for highlight in document.meta["highlights"]:
            assert document.content[highlight["start"] : highlight["end"]] == highlight["text"]
    assert [d.id for d in found] == [
        d.id for d in BlockRankRanker.from_dict({**ranker.to_dict()}).run(QUESTION, given)["documents"]
    ]


def test_an_empty_list_stays_empty_and_loads_nothing(monkeypatch):
    monkeypatch.setattr(Engine, "load", None)
    assert BlockRankRanker(max_document_tokens=78).run(QUESTION, []) == {"documents": [], "answerable": None}


@pytest.mark.parametrize("other", [0.1, None])
def test_of_documents_with_one_id_the_highest_score_counts(other):
    given = [Document(id="a", content="x", score=other), Document(id="a", content="x", score=0.9, meta={"best": True})]
    (found,) = BlockRankRanker().run(QUESTION, given)["documents"]
    assert found.meta.pop("probability") == found.score
    assert found.meta == {"best": True}


def test_meta_fields_stand_before_the_content_none_left_out_and_falsy_kept():
    ranker = BlockRankRanker(meta_fields_to_embed=["a", "b", "c", "d"], embedding_separator="|", document_prefix="<")
    text = ranker._text(Document(content="text", meta={"a": 0, "b": None, "c": ""}))
    assert text == "<0||text"


def test_documents_without_content_stay():
    found = BlockRankRanker().run(QUESTION, [Document(id="none", content=None), *documents()])
    assert "none" in ids(found)


def test_in_a_pipeline_that_was_saved_and_loaded(ranking):
    before = pipeline(top_k=3)
    loaded = Pipeline.loads(before.dumps())  # in one process, a store is loaded with its documents
    found = [
        one.run({"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION}})["ranker"]["documents"]
        for one in (before, loaded)
    ]
    assert [d.id for d in found[0]] == [d.id for d in found[1]]
    assert "cuda" not in before.dumps()
    assert "cpu" not in before.dumps()


def test_a_saved_pipeline_runs_in_a_fresh_process(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(pipeline(top_k=3).dumps(), encoding="utf-8")
    code = f"""
import pathlib, sys
from haystack import Document, Pipeline
loaded = Pipeline.loads(pathlib.Path({str(path)!r}).read_text())
store = loaded.get_component("retriever").document_store
store.write_documents([Document(id=str(n), content=text) for n, text in enumerate({TEXTS!r})])
found = loaded.run({{"retriever": {{"query": {QUESTION!r}}}, "ranker": {{"query": {QUESTION!r}}}}})
print([d.id for d in found["ranker"]["documents"]][0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_in_an_async_pipeline(ranking):
    kind = getattr(haystack, "AsyncPipeline", Pipeline)  # its own class in haystack-ai 2
    data = {"retriever": {"query": QUESTION}, "ranker": {"query": QUESTION}}
    found = asyncio.run(pipeline(kind, top_k=1).run_async(data))
    assert [document.id for document in found["ranker"]["documents"]] == [str(ranking[0].index)]


def test_every_setting_survives_saving(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hf_secret")
    ranker = BlockRankRanker(
        device=ComponentDevice.from_str("cpu"),
        token=Secret.from_env_var("MY_TOKEN"),
        top_k=2,
        query_prefix="q: ",
        query_suffix="?",
        document_prefix="d: ",
        document_suffix=".",
        meta_fields_to_embed=["title"],
        embedding_separator=" ",
        score_threshold=0.1,
        min_probability=0.2,
        max_document_tokens=30,
        dtype="float32",
        local_files_only=True,
    )
    saved = ranker.to_dict()
    assert set(saved["init_parameters"]) == {*inspect.signature(BlockRankRanker.__init__).parameters} - {"self"}
    assert "hf_secret" not in str(saved)
    loaded = BlockRankRanker.from_dict(saved)
    assert loaded.to_dict() == saved
    assert loaded.device == ranker.device
    assert loaded.run(QUESTION, documents()) == ranker.run(QUESTION, documents())


def test_copies_and_pickles_work_after_warm_up():
    ranker = BlockRankRanker(top_k=2)
    ranker.warm_up()
    expected = ids(ranker.run(QUESTION, documents()))
    assert ids(copy.deepcopy(ranker).run(QUESTION, documents())) == expected
    assert ids(pickle.loads(pickle.dumps(ranker)).run(QUESTION, documents())) == expected


def test_a_pickle_of_a_warm_component_asks_for_its_secret_again(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    ranker = BlockRankRanker(token=Secret.from_env_var("MY_TOKEN"))
    ranker.warm_up()
    pickled = pickle.dumps(ranker)
    assert b"secret" not in pickled
    assert pickle.loads(pickled)._loaded()._shared.spec.checkpoint.token == "secret"


@pytest.mark.parametrize("query", [None, 5, ["why"]])
def test_a_query_that_is_no_text_is_refused(query):
    with pytest.raises(TypeError, match="query must be a str"):
        BlockRankRanker(query_prefix="query: ").run(query, documents())


def test_an_empty_query_is_refused_whatever_the_prefix():
    with pytest.raises(ValueError, match="query must not be empty"):
        BlockRankRanker(query_prefix="query: ").run("", documents())


def test_a_device_and_field_names_of_the_wrong_type_are_refused_at_once():
    with pytest.raises(ValueError, match="device must be a ComponentDevice"):
        BlockRankRanker(device="cpu")
    with pytest.raises(ValueError, match="meta_fields_to_embed must be a list of names, got 'title'"):
        BlockRankRanker(meta_fields_to_embed="title")


def test_it_warms_up_by_itself_once_and_again_after_closing():
    ranker = BlockRankRanker()
    asyncio.run(ranker.warm_up_async())
    first = ranker._reranker
    ranker.warm_up()
    assert ranker._reranker is first
    ranker.close()
    assert len(ids(ranker.run(QUESTION, documents()))) == len(TEXTS)


def test_closing_it_breaks_no_call_that_is_under_way(monkeypatch):
    ranker = BlockRankRanker()
    text = ranker._text
    monkeypatch.setattr(ranker, "_text", lambda document: ranker.close() or text(document))
    assert len(ids(ranker.run(QUESTION, documents()))) == len(TEXTS)


def test_a_cancelled_call_leaves_the_ranker_usable():
    ranker = BlockRankRanker()

    async def cancel():
        task = asyncio.create_task(ranker.run_async(QUESTION, documents(TEXTS * 50)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await ranker.run_async(QUESTION, documents())

    assert len(ids(asyncio.run(cancel()))) == len(TEXTS)


def test_sixteen_threads_get_what_one_gets(one_core_each):
    ranker = BlockRankRanker(dtype="float32")
    lists = [TEXTS[shift : shift + 2] for shift in range(4)]
    expected = [BlockRankRanker(dtype="float32").run(QUESTION, documents(texts)) for texts in lists]
    work = list(range(16 * 10))
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda n: ranker.run(QUESTION, documents(lists[n % len(lists)])), work))
    for number, result in zip(work, found, strict=True):
        assert ids(result) == ids(expected[number % len(lists)])


def test_without_the_framework_the_import_says_what_to_install(without_frameworks):
    assert install_line("haystack") in without_frameworks["haystack_integrations.components.rankers.blockrank"]


def test_what_is_no_document_and_no_probability_is_refused():
    with pytest.raises(TypeError, match=r"documents\[1\] must be a Document, got str"):
        BlockRankRanker().run(QUESTION, [*documents()[:1], "text"])
    with pytest.raises(ValueError, match=r"min_probability must be a number in 0..1, or None, got 5"):
        BlockRankRanker(min_probability=5)


def test_a_cut_document_says_so_and_the_others_do_not():
    given = documents([CUT, TEXTS[0]])
    settings = {"max_document_tokens": 20, "long_documents": "truncate"}
    for explain in (False, True):
        found = BlockRankRanker(**settings, explain=explain).run(QUESTION, given)["documents"]
        assert {one.id: one.meta.get("truncated") for one in found} == {"0": True, "1": None}
    with pytest.raises(ValueError, match=r"documents\[0\] has \d+ tokens, more than the 20"):
        BlockRankRanker(max_document_tokens=20, long_documents="error").run(QUESTION, given)


@pytest.mark.parametrize(
    "name", ["query_prefix", "query_suffix", "document_prefix", "document_suffix", "embedding_separator"]
)
def test_an_empty_value_in_a_saved_pipeline_is_no_text(name):
    with pytest.raises(ValueError, match=f"{name} must be a str, got None"):
        BlockRankRanker(**{name: None})


def test_a_token_that_is_no_secret_is_refused_and_not_shown():
    with pytest.raises(ValueError, match=r"token must be a Secret, .* got str") as refused:
        BlockRankRanker(token="hf_x")
    assert "hf_x" not in str(refused.value)


def test_whatever_is_accepted_can_be_saved(tmp_path):
    built = pipeline(
        model=FOLDER,
        top_k=np.int64(2),
        score_threshold=np.float32(0.25),
        min_probability=np.float64(0.125),
        dtype=torch.float32,
        store=tmp_path,
    )
    again = Pipeline.loads(built.dumps()).get_component("ranker")
    assert (again.model, again.top_k, again.score_threshold, again.min_probability) == (str(FOLDER), 2, 0.25, 0.125)
    assert (again.dtype, again.store) == ("float32", str(tmp_path))


# The context


def by_words(text):
    return text.split()


def test_documents_are_cut_to_the_sentences_that_fit_a_budget():
    text = "Bread is baked. Aspirin treats a heart attack. The moon is far."
    given = [Document(id="a", content=text, meta={"topic": "A heart attack is treated."}), Document(id="b", content="")]
    settings = {"document_prefix": "passage: ", "document_suffix": " Over.", "meta_fields_to_embed": ["topic"]}
    context = BlockRankContext(max_tokens=5, tokenizer=by_words, **settings)
    found = context.run(QUESTION, given)
    (document,) = found["documents"]
    assert (document.id, document.content, found["text"]) == ("a", *["Aspirin treats a heart attack."] * 2)
    assert [text[start:end] for start, end in document.meta["pieces"]] == [document.content]
    assert 0 < document.meta["probability"] < 1
    assert given[0].content == text
    assert context.run(QUESTION, given, max_tokens=100)["documents"][0].content == text
    assert context.run(QUESTION, []) == {"documents": [], "text": "", "dropped": [], "answerable": None}
    assert {(one["id"], text[one["start"] : one["end"]], one["text"], one["reason"]) for one in found["dropped"]} == {
        ("a", sentence, sentence, "budget") for sentence in ("Bread is baked.", "The moon is far.")
    }
    assert asyncio.run(context.run_async(QUESTION, given)) == found


def test_a_context_stands_between_a_retriever_and_a_prompt_in_a_saved_pipeline(monkeypatch):
    # Haystack loads functions of modules that it was told to trust.
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "tests.*")
    built = Pipeline()
    built.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore(), top_k=10))
    built.add_component("context", BlockRankContext(max_tokens=20, tokenizer=by_words, template="- {text}"))
    built.connect("retriever.documents", "context.documents")
    built.get_component("retriever").document_store.write_documents(documents())
    loaded = Pipeline.loads(built.dumps())
    context = loaded.get_component("context")
    assert (context.settings, context.top_k) == (built.get_component("context").settings, None)
    loaded.get_component("retriever").document_store.write_documents(documents(), policy="overwrite")
    asked = {"retriever": {"query": QUESTION}, "context": {"query": QUESTION}}
    assert loaded.run(asked)["context"]["text"].startswith("- A heart attack is treated with aspirin")


def test_all_documents_may_be_in_a_context_and_what_is_left_out_is_named_by_ids():
    given = [Document(id=f"d{number}", content=f"Aspirin treats a heart attack of {number}.") for number in range(12)]
    given += [Document(id="d0", content=given[0].content), Document(id="e", content=given[3].content)]
    found = BlockRankContext(meta_fields_to_embed=["topic"]).run(QUESTION, given)
    dropped = {one["id"]: one["reason"] for one in found["dropped"]}
    assert len(found["documents"]) + len(dropped) == 13
    assert {"d3": "near-duplicate of e", "e": "near-duplicate of d3"}.items() & dropped.items()
    others = {one["id"]: one["duplicate_of"] for one in found["dropped"]}
    assert {name: f"near-duplicate of {other}" for name, other in others.items() if other}.items() <= dropped.items()
    assert {"d3": "e", "e": "d3"}.items() & others.items()
    some = BlockRankContext(top_k=2).run(QUESTION, given[:4])
    assert [one["reason"] for one in some["dropped"]].count("beyond top_k") == 2
    assert BlockRankContext.from_dict(BlockRankContext().to_dict()).top_k is None
    assert len(BlockRankRanker(top_k=None).run(QUESTION, given)["documents"]) == 13


def test_a_tokenizer_without_a_name_cannot_be_saved_and_says_so():
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    with pytest.raises(SerializationError, match="a saved pipeline needs a named function as tokenizer, got an object"):
        BlockRankContext(tokenizer=tokenizer).to_dict()


def test_a_contexts_settings_are_checked_when_it_is_built():
    with pytest.raises(ValueError, match="max_tokens must be a whole number"):
        BlockRankContext(max_tokens=0)
    with pytest.raises(TypeError, match="has no explain"):
        BlockRankContext(explain=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        BlockRankContext(topk=3)
