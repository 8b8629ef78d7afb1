from __future__ import annotations

import asyncio
import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs the llama-index extra")

from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.blockrank_rerank import BlockRankRerank

import blockrank_rerank
from blockrank_rerank import BlockRankReranker
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.errors import install_line
from tests.integrations.conftest import CUT, QUESTION, TEXTS


def nodes(texts=TEXTS, score=0.5):
    return [NodeWithScore(node=TextNode(id_=str(n), text=text), score=score) for n, text in enumerate(texts)]


class Fixed(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes()


@contextmanager
def rerank_events():
    seen = []

    class Handler(BaseEventHandler):
        def handle(self, event, **kwargs):
            if isinstance(event, ReRankStartEvent | ReRankEndEvent):
                seen.append(event)

    handler, root = Handler(), get_dispatcher()
    root.add_event_handler(handler)
    try:
        yield seen
    finally:
        root.event_handlers.remove(handler)


def ids(found):
    return [node.node.node_id for node in found]


def test_nodes_come_in_the_engines_order_with_python_floats(ranking):
    found = BlockRankRerank(top_n=None, score_type="share").postprocess_nodes(nodes(), query_str=QUESTION)
    assert ids(found) == [str(document.index) for document in ranking]
    assert [node.score for node in found] == [document.score for document in ranking]
    assert all(type(node.score) is float for node in found)
    json.loads(found[0].to_json())


@pytest.mark.parametrize("top_n", [0, 1, 5, 6, 100, None])
def test_top_n_is_an_upper_bound_and_none_means_all(top_n):
    found = BlockRankRerank(top_n=top_n).postprocess_nodes(nodes(), query_str=QUESTION)
    assert len(found) == (len(TEXTS) if top_n is None else min(top_n, len(TEXTS)))


def test_inputs_are_not_changed():
    given = nodes()
    before = copy.deepcopy(given)
    BlockRankRerank(keep_retrieval_score=True).postprocess_nodes(given, query_str=QUESTION)
    assert given == before


@pytest.mark.parametrize("score", [0.25, None])
def test_the_retrieval_score_is_kept_where_no_model_reads_it(score):
    found = BlockRankRerank(keep_retrieval_score=True).postprocess_nodes(nodes(score=score), query_str=QUESTION)
    assert all(node.node.metadata["retrieval_score"] == score for node in found)
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert all("retrieval_score" not in node.node.get_content(metadata_mode=mode) for node in found)


def test_thresholds_come_before_top_n(ranking):
    shares = {"score_threshold": ranking[2].score, "score_type": "share"}
    found = BlockRankRerank(top_n=None, **shares).postprocess_nodes(nodes(), query_str=QUESTION)
    assert len(found) == 3
    found = BlockRankRerank(top_n=2, **shares).postprocess_nodes(nodes(), query_str=QUESTION)
    assert len(found) == 2


def test_probabilities_filter_whatever_the_list(ranking):
    cut = ranking[1].probability
    kept = BlockRankRerank(top_n=None, min_probability=cut).postprocess_nodes(nodes(), query_str=QUESTION)
    assert ids(kept) == [str(d.index) for d in ranking if d.probability >= cut]


def test_an_instance_loads_its_own_dump():
    ranker = BlockRankRerank(top_n=2)
    assert BlockRankRerank.model_validate(ranker.model_dump()).top_n == 2
    assert BlockRankRerank(**ranker.to_dict()).top_n == 2


def test_a_copy_with_other_settings_of_the_model_uses_them():
    original = BlockRankRerank(cache="1MB")
    assert original.model_copy(update={"top_n": 2})._reranker is original._reranker  # and so its cache
    copied = original.model_copy(update={"max_document_tokens": 8})
    assert copied._reranker.config.max_document_tokens == 8


def test_a_cache_of_true_is_refused():
    with pytest.raises(ValueError, match="cache"):
        BlockRankRerank(cache=True)


def test_a_query_without_text_is_refused_before_any_event():
    with rerank_events() as seen, pytest.raises(ValueError, match="query must not be empty"):
        BlockRankRerank().postprocess_nodes(nodes(), query_str=" ")
    assert seen == []


def test_metadata_is_read_as_the_mode_says(ranking):
    given = [NodeWithScore(node=TextNode(text="a page", metadata={"topic": topic})) for topic in TEXTS[:3]]
    found = BlockRankRerank(top_n=1).postprocess_nodes(given, query_str=QUESTION)
    assert found[0].node.metadata["topic"] == TEXTS[1]
    found = BlockRankRerank(top_n=None, metadata_mode=MetadataMode.NONE).postprocess_nodes(given, query_str=QUESTION)
    assert len({node.score for node in found}) == 1


def test_highlights_point_into_the_nodes_own_text_and_no_model_reads_them():
    given = [NodeWithScore(node=TextNode(text=f"{text}\n", metadata={"topic": "hearts"})) for text in TEXTS]
    for found in BlockRankRerank(top_n=None, explain=True).postprocess_nodes(given, query_str=QUESTION):
        text = found.node.get_content(metadata_mode=MetadataMode.NONE)
        for highlight in found.node.metadata["highlights"]:
            assert text[highlight["start"] : highlight["end"]] == highlight["text"]
        assert "highlights" not in found.node.get_content(metadata_mode=MetadataMode.LLM)
        assert bool(found.node.metadata["highlights"]) == bool(text.strip())
    assert all("highlights" not in node.node.metadata for node in given)


def test_an_empty_list_stays_empty_and_loads_nothing(monkeypatch):
    monkeypatch.setattr(Engine, "load", None)
    assert BlockRankRerank(max_document_tokens=77).postprocess_nodes([], query_str=QUESTION) == []


def test_a_missing_query_is_refused():
    with pytest.raises(ValueError, match="needs the query"):
        BlockRankRerank().postprocess_nodes(nodes())


def test_image_nodes_and_duplicates_stay():
    given = [*nodes(), NodeWithScore(node=ImageNode(id_="image")), nodes()[1]]
    found = BlockRankRerank(top_n=None).postprocess_nodes(given, query_str=QUESTION)
    assert sorted(ids(found)) == sorted(ids(given))


def test_unknown_settings_and_a_missing_folder_are_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="topn"):
        BlockRankRerank(topn=3)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        BlockRankRerank(model=str(tmp_path / "nothing"))


def test_settings_of_the_call_can_be_changed_later_and_those_of_the_model_cannot():
    reranker = BlockRankRerank()
    reranker.top_n = 2
    assert len(reranker.postprocess_nodes(nodes(), query_str=QUESTION)) == 2
    with pytest.raises(ValueError, match="frozen"):
        reranker.device = "cuda"


def test_in_a_query_engine_sync_and_async(ranking, monkeypatch):
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    engine = RetrieverQueryEngine.from_args(
        Fixed(), node_postprocessors=[BlockRankRerank(top_n=3)], response_mode="no_text"
    )
    expected = [str(document.index) for document in ranking[:3]]
    assert ids(engine.query(QUESTION).source_nodes) == expected
    assert ids(asyncio.run(engine.aquery(QUESTION)).source_nodes) == expected


def test_events_and_callbacks_are_sent():
    debug = LlamaDebugHandler(print_trace_on_end=False)
    reranker = BlockRankRerank(top_n=None)
    reranker.callback_manager = CallbackManager([debug])
    with rerank_events() as seen:
        reranker.postprocess_nodes(nodes(), query_str=QUESTION)
    start, end = seen
    assert start.top_n == len(TEXTS)
    assert len(end.nodes) == len(TEXTS)
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1


def test_folders_may_be_paths_and_are_saved_as_text(tmp_path):
    folder = Path(blockrank_rerank.__file__).parent / "default_model"
    reranker = BlockRankRerank(model=folder, store=tmp_path / "states")
    assert reranker.to_dict()["model"] == str(folder)
    assert BlockRankRerank.from_json(reranker.to_json()).store == str(tmp_path / "states")
    with pytest.raises(ValueError, match="valid string"):
        BlockRankRerank(model=3)
    with pytest.raises(FileNotFoundError, match=r"'\./default' does not exist"):
        BlockRankRerank(model=Path("default"))  # not the model in the package


def test_every_setting_survives_a_dict_a_copy_and_a_pickle():
    reranker = BlockRankRerank(
        top_n=2,
        score_threshold=0.01,
        min_probability=0.0,
        metadata_mode=MetadataMode.LLM,
        keep_retrieval_score=True,
        max_document_tokens=50,
        device="cpu",
        dtype="float32",
        local_files_only=True,
    )
    expected = reranker.postprocess_nodes(nodes(), query_str=QUESTION)
    for other in (
        BlockRankRerank.from_dict(reranker.to_dict()),
        copy.deepcopy(reranker),
        pickle.loads(pickle.dumps(reranker)),
    ):
        assert other.to_dict() == reranker.to_dict()
        assert other.postprocess_nodes(nodes(), query_str=QUESTION) == expected


def test_sixteen_threads_get_what_one_gets(one_core_each):
    reranker = BlockRankRerank(top_n=None, dtype="float32")
    lists = [TEXTS[shift : shift + 2] for shift in range(4)]
    work = [lists[number % len(lists)] for number in range(16 * 10)]
    expected = [reranker.postprocess_nodes(nodes(texts), query_str=QUESTION) for texts in lists]
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda texts: reranker.postprocess_nodes(nodes(texts), query_str=QUESTION), work))
    for number, result in enumerate(found):
        wanted = expected[number % len(lists)]
        assert ids(result) == ids(wanted)
        assert [node.score for node in result] == pytest.approx([node.score for node in wanted], abs=1e-6)


def test_a_cancelled_call_leaves_the_reranker_usable():
    reranker = BlockRankRerank(top_n=1)

    async def cancel():
        task = asyncio.create_task(reranker.apostprocess_nodes(nodes(TEXTS * 50), query_str=QUESTION))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await reranker.apostprocess_nodes(nodes(), query_str=QUESTION)

    assert len(asyncio.run(cancel())) == 1


def test_without_the_framework_the_import_says_what_to_install(without_frameworks):
    assert install_line("llama-index") in without_frameworks["llama_index.postprocessor.blockrank_rerank"]


def test_an_iterator_of_nodes_is_a_list_of_nodes():
    expected = ids(BlockRankRerank().postprocess_nodes(nodes(), query_str=QUESTION))
    assert ids(BlockRankRerank().postprocess_nodes(iter(nodes()), query_str=QUESTION)) == expected
    assert len(BlockRankRerank(top_n=None).postprocess_nodes(iter(nodes()), query_str=QUESTION)) == len(TEXTS)


def test_a_cut_node_says_so_and_the_others_do_not():
    long = [CUT, TEXTS[0]]
    found = BlockRankRerank(max_document_tokens=20, long_documents="truncate").postprocess_nodes(
        nodes(long), query_str=QUESTION
    )
    assert all(node.metadata.pop("probability") == node.score for node in found)
    assert len({node.metadata.pop("answerable") for node in found}) == 1
    assert {node.node_id: node.metadata for node in found} == {"0": {"truncated": True}, "1": {}}
    assert "truncated" not in found[0].node.get_content(MetadataMode.LLM)
    with pytest.raises(ValueError, match=r"documents\[0\] has \d+ tokens, more than the 20"):
        BlockRankRerank(max_document_tokens=20, long_documents="error").postprocess_nodes(
            nodes(long), query_str=QUESTION
        )


def test_numpys_scores_become_pythons_and_are_saved():
    [best] = BlockRankRerank(top_n=1, keep_retrieval_score=True).postprocess_nodes(
        nodes(score=np.float32(0.5)), query_str=QUESTION
    )
    assert best.metadata["retrieval_score"] == 0.5
    assert json.loads(best.to_json())["node"]["metadata"]["retrieval_score"] == 0.5


@pytest.mark.parametrize(("name", "value"), [("top_n", -1), ("min_probability", 2), ("score_threshold", float("nan"))])
def test_settings_are_checked_when_they_are_assigned_too(name, value):
    reranker = BlockRankRerank()
    with pytest.raises(ValueError, match=name):
        setattr(reranker, name, value)
    with pytest.raises(ValueError, match=name):
        BlockRankRerank(**{name: value})


@pytest.mark.parametrize("template", ["{metadata_str}\n\n{content}", "{content}\n{metadata_str}"])
@pytest.mark.parametrize("before", ["", "  "])
def test_highlights_are_of_the_content_wherever_it_stands(template, before):
    text = before + "Bread is baked. Aspirin heals."
    node = TextNode(
        text=text, metadata={"source": "It is late. Bread is baked. Aspirin heals."}, text_template=template
    )
    [found] = BlockRankRerank(explain=True).postprocess_nodes([NodeWithScore(node=node)], query_str=QUESTION)
    [expected] = BlockRankReranker.from_pretrained().explain(QUESTION, [node.get_content(MetadataMode.EMBED)])
    read = expected.ranked.text
    start = read.index(text.strip()) if template.startswith("{content}") else read.rindex(text.strip())
    own = expected.within(start, start + len(text.strip())).highlights
    highlights = found.metadata["highlights"]
    assert [one["weight"] for one in highlights] == [one["weight"] for one in own]
    assert sorted(text[one["start"] : one["end"]].strip() for one in highlights) == [
        "Aspirin heals.",
        "Bread is baked.",
    ]


def test_nodes_are_cut_to_the_sentences_that_fit_a_budget_and_metadata_are_not_cut():
    text = "  Bread is baked. Aspirin treats a heart attack. The moon is far."
    node = TextNode(text=text, id_="a", metadata={"topic": "A heart attack is treated."})
    given = [NodeWithScore(node=node, score=0.1), NodeWithScore(node=TextNode(text="", id_="b"), score=0.2)]
    reranker = BlockRankRerank(top_n=None, max_tokens=5, tokenizer=lambda text: text.split(), keep_retrieval_score=True)
    (found,) = reranker.postprocess_nodes(given, query_str=QUESTION)
    assert (found.node.node_id, found.node.text) == ("a", "Aspirin treats a heart attack.")
    assert [text[start:end] for start, end in found.node.metadata["pieces"]] == [found.node.text]
    assert found.node.metadata["retrieval_score"] == 0.1
    assert "pieces" not in found.node.get_content("embed")
    assert node.text == text
    assert "tokenizer" not in reranker.to_dict()
    with pytest.raises(ValueError, match="explain and max_tokens do not go together"):
        BlockRankRerank(max_tokens=5, explain=True)
    with pytest.raises(ValueError, match="diversity is for documents that are cut to max_tokens"):
        BlockRankRerank(diversity=0.5)


def test_all_nodes_may_be_in_a_budget_unless_top_n_is_given():
    foods = ["Bread", "Clay", "Cake", "Pie", "Fish", "Soil", "Salt"]
    given = [NodeWithScore(node=TextNode(text=f"{food} is baked.")) for food in foods]
    reranker = BlockRankRerank(max_tokens=100, diversity=0.2)
    assert len(reranker.postprocess_nodes(given, query_str=QUESTION)) == 7
    again = BlockRankRerank.from_dict(reranker.to_dict())
    assert (again.top_n, again.max_tokens, again.diversity) == (None, 100, 0.2)
    assert len(BlockRankRerank(max_tokens=100, top_n=5).postprocess_nodes(given, query_str=QUESTION)) == 5
    assert BlockRankRerank().top_n == 5
