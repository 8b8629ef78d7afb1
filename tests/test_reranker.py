from __future__ import annotations

import copy
import gc
import importlib.util
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from blockrank_rerank import DEFAULT_MODEL, BlockRankConfig, BlockRankReranker, RankedDocument, Ranking
from blockrank_rerank.engine import engine
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.model import devices
from blockrank_rerank.ranking.progress import work_progress
from blockrank_rerank.ranking.results import Limits
from tests.tiny_models import CONFIG, PHRASE, save_model

QUERY = "what treats a heart attack"
DOCUMENTS = ["the liver stores sugar", "aspirin thins the blood", "a blocked artery is a heart attack", "who"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("llama"), "llama")
    CONFIG.save(folder)
    return folder


@pytest.fixture(scope="module")
def ranker(folder):
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def default():
    return BlockRankReranker.from_pretrained(DEFAULT_MODEL, device="cpu", dtype="float32")


@pytest.fixture
def loads(monkeypatch):
    """How many engines are loaded, each slowly enough for a race."""
    count, load = [], Engine.load.__func__

    def slow(cls, spec):
        count.append(spec)
        threading.Event().wait(0.05)
        return load(cls, spec)

    monkeypatch.setattr(Engine, "load", classmethod(slow))
    return count


@pytest.fixture
def half_precision():
    """Torch's default dtype while this process reads another model with Transformers."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def other_device():
    """Torch's default device in a program that has its own models elsewhere."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """What may come of a model, as numbers."""

    def made():
        ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32")
        store = tmp_path_factory.mktemp("store")
        ranker.prepare_store(store, DOCUMENTS)
        int8 = ["int8"] if importlib.util.find_spec("openvino") else []
        rankers = [BlockRankReranker.from_pretrained(device="cpu", dtype="float32", quantization=bits) for bits in int8]
        found = [ranker.search(store, QUERY), ranker.rank(QUERY, DOCUMENTS, deadline_ms=1e6)]
        found += [one.rank(QUERY, DOCUMENTS) for one in [ranker, *rankers]]
        context = ranker.context(QUERY, DOCUMENTS, max_tokens=20, diversity=0.5)
        answerable = [ranking.answerable for ranking in found]
        return [[d.raw_score for d in ranking] for ranking in found], answerable, [p.score for p in context.pieces]

    return made


@pytest.mark.parametrize("default", ["half_precision", "other_device"])
def test_a_default_of_torch_that_is_another_meanwhile_changes_no_number(numbers, request, default):
    want = numbers()
    gc.collect()  # so that the model is read again
    request.getfixturevalue(default)
    assert numbers() == want


def close(ranking, other):
    assert [document.index for document in ranking] == [document.index for document in other]
    assert [document.score for document in ranking] == pytest.approx([d.score for d in other], abs=1e-5)


# The default model


def test_the_default_model_ranks_an_obvious_example_right():
    ranking = BlockRankReranker.from_pretrained().rank(
        "Why is the sky blue?",
        [
            "The stock market closed lower on Friday after weak earnings.",
            "A recipe for sourdough bread needs flour, water, salt and time.",
            "Air molecules scatter short wavelengths of sunlight more than long ones, so the sky looks blue.",
            "Blue jeans were patented in 1873 by Jacob Davis and Levi Strauss.",
        ],
    )
    assert ranking[0].index == 2
    assert ranking[0].text.startswith("Air molecules")
    assert sum(document.score for document in ranking) == pytest.approx(1, abs=1e-4)


def test_the_default_model_handles_hostile_text(default):
    documents = ["", "\ud800", "\x00", "[SEP] [CLS] [SEP]", "🫀", "قلب", "word " * 20_000, "the heart pumps blood"]
    ranking = default.rank("heart", documents)
    assert sorted(document.index for document in ranking) == list(range(8))
    assert [document.index for document in ranking if document.passage] == [6]
    assert not any(document.truncated for document in ranking)
    assert ranking[0].index == 7


def test_the_default_model_keeps_duplicates_in_their_order(default):
    documents = [text for number in range(30) for text in ("the heart pumps blood", "filler " * (1 + number % 9))]
    ranking = default.rank("heart", documents)
    same = [document for document in ranking if document.text == "the heart pumps blood"]
    assert len(same) == 30
    assert [document.index for document in same] == sorted(document.index for document in same)


def test_the_default_model_is_named_by_a_word_and_needs_no_network(default):
    assert default.model == DEFAULT_MODEL
    offline = BlockRankReranker.from_pretrained(local_files_only=True, dtype="float32", device="cpu")
    assert offline.config == default.config


# Arguments of rank


def test_no_documents_give_an_empty_ranking(ranker):
    assert ranker.rank(QUERY, []) == []
    assert ranker.rank(QUERY, ()) == []
    assert ranker.rank(QUERY, iter([])) == []


@pytest.mark.parametrize("query", ["", " ", "\n\t"])
def test_an_empty_query_is_refused(ranker, query):
    with pytest.raises(ValueError, match=r"^query must not be empty$"):
        ranker.rank(query, DOCUMENTS)


@pytest.mark.parametrize("query", ["\u200b", "\xad\u2060\ufeff", "\x00"], ids=ascii)
@pytest.mark.parametrize("long_queries", ["error", "truncate"])
def test_a_query_that_the_tokenizer_drops_is_refused(query, long_queries):
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32", long_queries=long_queries)
    with pytest.raises(ValueError, match="query must contain text that the model's tokenizer knows"):
        ranker.rank(query, DOCUMENTS)


@pytest.mark.parametrize("query", [None, 7, ["a"], b"a"])
def test_a_query_that_is_no_string_is_refused(ranker, query):
    with pytest.raises(TypeError, match=f"^query must be a str, got {type(query).__name__}$"):
        ranker.rank(query, DOCUMENTS)


@pytest.mark.parametrize("bad", [None, 7, b"bytes", ["nested"], {"title": "no text"}, {"text": None}, float("nan")])
def test_a_document_of_another_type_is_refused_by_its_index(ranker, bad):
    with pytest.raises(TypeError, match=r"documents\[2\]"):
        ranker.rank(QUERY, ["a", "b", bad, "c"])


@pytest.mark.parametrize("documents", ["one text", {"text": "one"}, None, 7, {"a", "b"}])
def test_one_text_is_not_taken_for_a_list_of_documents(ranker, documents):
    with pytest.raises(TypeError, match=f"documents must be a list of documents, got {type(documents).__name__}"):
        ranker.rank(QUERY, documents)


def test_a_table_is_not_taken_for_its_column_names(ranker):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"title": ["a", "b"], "text": ["c", "d"]})
    for refused in (lambda: ranker.rank(QUERY, table), lambda: ranker.prepare(table)):
        with pytest.raises(TypeError, match=r'got DataFrame; .* give its rows: .to_dict\("records"\) of pandas'):
            refused()
    assert len(ranker.rank(QUERY, table.to_dict("records"))) == 2
    assert len(ranker.rank(QUERY, table["text"])) == 2


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (("liver " * 400, ["a"]), ValueError, "query must have at most"),
        (("", ["a"]), ValueError, "query must not be empty"),
        (("liver", ["a", None]), TypeError, r"documents\[1\]"),
    ],
)
def test_one_of_several_requests_that_cannot_be_ranked_is_named_before_any_is(ranker, request_, error, message):
    done = []
    with pytest.raises(error, match=rf"^requests\[2\]: {message}"):
        ranker.rank_batch([(QUERY, ["a"])] * 2 + [request_], on_progress=lambda *counts: done.append(counts))
    assert not done


@pytest.mark.parametrize("top_k", [-1, True, False, 2.0, "3", float("nan")])
def test_a_wrong_top_k_is_refused(ranker, top_k):
    with pytest.raises(ValueError, match=f"^top_k must be .*, got {top_k!r}$"):
        ranker.rank(QUERY, DOCUMENTS, top_k=top_k)


@pytest.mark.parametrize("threshold", ["0.5", True, [0.5]])
def test_a_wrong_threshold_is_refused(ranker, threshold):
    with pytest.raises(ValueError, match="threshold must be a number, or None, got"):
        ranker.rank(QUERY, DOCUMENTS, threshold=threshold)


def test_a_threshold_that_is_not_a_number_is_refused(ranker):
    with pytest.raises(ValueError, match="threshold must be a number, or None, got nan"):
        ranker.rank(QUERY, DOCUMENTS, threshold=float("nan"))


def test_arguments_are_checked_before_the_model_is_read(loads, folder):
    lazy = BlockRankReranker.from_pretrained(folder)
    for call in (
        lambda: lazy.rank("", DOCUMENTS),
        lambda: lazy.rank(QUERY, DOCUMENTS, top_k=-1),
        lambda: lazy.rank_batch([(QUERY, DOCUMENTS), ("", DOCUMENTS)]),
    ):
        with pytest.raises(ValueError, match="must"):
            call()
    assert loads == []


def test_an_empty_list_does_not_read_the_model(loads, folder):
    assert BlockRankReranker.from_pretrained(folder).rank(QUERY, []) == []
    assert loads == []


@pytest.mark.parametrize("top_k", [0, 1, 3, 4, 99])
def test_top_k_keeps_the_first_of_the_full_ranking(ranker, top_k):
    assert ranker.rank(QUERY, DOCUMENTS, top_k=top_k) == ranker.rank(QUERY, DOCUMENTS)[:top_k]


def test_the_threshold_comes_before_top_k(ranker):
    full = ranker.rank(QUERY, DOCUMENTS)
    bound = full[2].score
    assert ranker.rank(QUERY, DOCUMENTS, threshold=bound) == full[:3]
    assert ranker.rank(QUERY, DOCUMENTS, threshold=bound, top_k=2) == full[:2]
    assert ranker.rank(QUERY, DOCUMENTS, threshold=bound, top_k=4) == full[:3]
    assert ranker.rank(QUERY, DOCUMENTS, threshold=1.1) == []
    assert ranker.rank(QUERY, DOCUMENTS, threshold=0) == full


def test_mappings_and_generators_are_documents_too(ranker):
    plain = ranker.rank(QUERY, DOCUMENTS)
    close(ranker.rank(QUERY, [{"text": text, "id": 7} for text in DOCUMENTS]), plain)
    close(ranker.rank(QUERY, (text for text in DOCUMENTS)), plain)
    close(ranker.rank(QUERY, tuple(DOCUMENTS)), plain)
    close(ranker.rank(QUERY, np.array(DOCUMENTS)), plain)


def test_a_titled_document_scores_as_title_and_text_and_returns_its_text(ranker):
    titled = ranker.rank(QUERY, [{"title": "Aspirin", "text": "thins blood"}, "the liver"])
    close(titled, ranker.rank(QUERY, ["Aspirin thins blood", "the liver"]))
    assert {document.text for document in titled} == {"thins blood", "the liver"}


def test_a_single_document_has_the_whole_share(ranker):
    [document] = ranker.rank(QUERY, ["aspirin"])
    assert document.score == pytest.approx(1)
    assert (document.index, document.text, document.truncated) == (0, "aspirin", False)
    with pytest.raises(FrozenInstanceError):
        document.score = 0.0
    assert isinstance(document, RankedDocument)


# rank_batch


def batch_of(count):
    return [(f"{QUERY} {number}", DOCUMENTS[: number % 4 + 1]) for number in range(count)]


def test_a_batch_may_be_a_generator_and_comes_back_in_its_order(ranker):
    batch = batch_of(9)
    rankings = ranker.rank_batch(request for request in batch)
    for request, ranking in zip(batch, rankings, strict=True):
        close(ranking, ranker.rank(*request))


def test_empty_lists_amid_others_give_empty_rankings(ranker):
    rankings = ranker.rank_batch([(QUERY, []), (QUERY, DOCUMENTS), (QUERY, []), ("liver", ["a"]), (QUERY, [])])
    assert [len(ranking) for ranking in rankings] == [0, 4, 0, 1, 0]
    close(rankings[1], ranker.rank(QUERY, DOCUMENTS))


def test_an_empty_batch_is_empty(ranker):
    assert ranker.rank_batch([]) == []
    assert ranker.rank_batch(iter([])) == []


@pytest.mark.parametrize("budget", [1, 300, 900, 10**9])
def test_packing_under_a_token_budget_changes_no_ranking(ranker, monkeypatch, budget):
    batch, tokens = batch_of(7), []
    expected = [ranker.rank(*request) for request in batch]
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=budget))
    rankings = ranker.rank_batch(batch, on_progress=lambda count, used: tokens.append((count, used)))
    for ranking, alone in zip(rankings, expected, strict=True):
        close(ranking, alone)
    assert sum(count for count, _ in tokens) == 7
    assert all(used <= budget or count == 1 for count, used in tokens)
    assert len(tokens) == {1: 7, 10**9: 1}.get(budget, len(tokens))


@pytest.mark.parametrize("abstention", [False, True])
@pytest.mark.parametrize("budget", [1, 60])
def test_a_list_over_the_budget_goes_through_in_groups_with_the_same_scores(default, monkeypatch, budget, abstention):
    ranker = default.with_config(abstention=abstention)
    documents = [*DOCUMENTS, PHRASE * 3, DOCUMENTS[0]]
    expected = ranker.rank(QUERY, documents)
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=budget))
    runs, build = [], engine.build_layout
    monkeypatch.setattr(engine, "build_layout", lambda *args, **options: runs.append(1) or build(*args, **options))
    close(ranker.rank(QUERY, documents), expected)
    assert len(runs) == (len(documents) if budget == 1 else len(runs))
    assert len(runs) > 1


def test_progress_adds_up_to_the_requests_with_documents_and_all_their_tokens(ranker, monkeypatch):
    batch, calls = [*batch_of(5), (QUERY, [])], []
    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=500))
    ranker.rank_batch(batch, on_progress=lambda *call: calls.append(call))
    prompt = ranker.engine.prompt
    assert sum(requests for requests, _ in calls) == 5
    assert sum(tokens for _, tokens in calls) == sum(prompt.encode(*request).num_tokens for request in batch[:5])


@pytest.mark.parametrize("options", [{"cache": "10MB"}, {"prune": {1: 2}}, {"prune": {1: 2}, "cache": "10MB"}])
def test_tokens_of_documents_that_are_known_or_dropped_count_too(default, options):
    batch, plain, calls = [(QUERY, DOCUMENTS), ("liver", [PHRASE * 40, *DOCUMENTS])], [], []
    default.rank_batch(batch, on_progress=lambda *call: plain.append(call))
    ranker = BlockRankReranker.from_pretrained(**options)
    for _ in range(2):
        ranker.rank_batch(batch, on_progress=lambda *call: calls.append(call))
    assert sum(tokens for _, tokens in calls) == 2 * sum(tokens for _, tokens in plain)


def test_top_k_and_threshold_apply_to_every_request(ranker):
    rankings = ranker.rank_batch(batch_of(4), top_k=1, threshold=0.0)
    assert [len(ranking) for ranking in rankings] == [1, 1, 1, 1]


@pytest.mark.parametrize(("bad", "got"), [("text", "str"), ((QUERY,), "tuple"), (None, "NoneType"), ({}, "dict")])
def test_a_request_that_is_no_pair_is_refused_by_its_number(ranker, bad, got):
    with pytest.raises(TypeError, match=rf"requests\[1\] must be a \(query, documents\) pair, got {got}"):
        ranker.rank_batch([(QUERY, DOCUMENTS), bad])


def test_a_progress_bar_is_drawn_on_stderr_where_it_is_asked_for(ranker, capsys):
    rankings = ranker.rank_batch(batch_of(3), show_progress=True)
    shown = capsys.readouterr()
    assert "reranking" in shown.err
    assert shown.out == ""
    assert len(rankings) == 3
    ranker.rank_batch(batch_of(3))
    assert capsys.readouterr().err == ""


def test_the_bar_moves_within_one_long_list(ranker, monkeypatch):
    from rich.progress import Progress

    monkeypatch.setitem(devices.PROFILES, "cpu", devices.PROFILES["cpu"]._replace(budget_tokens=60))
    moved, ended = [], []
    monkeypatch.setattr(Progress, "advance", lambda self, task, share: moved.append(share))
    monkeypatch.setattr(Progress, "update", lambda self, task, completed: ended.append(completed))
    documents = [*DOCUMENTS, PHRASE * 3, DOCUMENTS[0]]
    ranker.rank_batch([(QUERY, documents)], show_progress=True)
    assert len(moved) > 1
    assert sum(moved) == pytest.approx(1)
    assert ended == [1]
    ranker.rank_batch([(QUERY, documents)], show_progress=False)
    assert sum(moved) == pytest.approx(1)


@pytest.mark.parametrize(("letters", "drawn"), [(1000, False), (400_000, True)])
def test_a_bar_appears_by_itself_on_a_terminal_for_one_list_that_is_long(letters, drawn, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with work_progress("reranking", 1, letters, None) as advance:
        advance(1, 0)
    assert ("reranking" in capsys.readouterr().err) is drawn


# Loading, copying, threads


def test_the_model_is_read_once_and_only_when_it_is_needed(loads, folder):
    lazy = BlockRankReranker.from_pretrained(folder)
    assert lazy.model == str(folder)
    assert lazy.config == CONFIG
    assert loads == []
    lazy.rank(QUERY, DOCUMENTS)
    lazy.rank(QUERY, DOCUMENTS)
    assert lazy.device == torch.device("cpu")
    assert len(loads) == 1


def test_copies_share_the_model(loads, folder):
    original = BlockRankReranker.from_pretrained(folder)
    copies = [copy.copy(original), copy.deepcopy(original), copy.deepcopy({"a": [original]})["a"][0]]
    rankings = [each.rank(QUERY, DOCUMENTS) for each in [*copies, original]]
    assert rankings[1:] == rankings[:-1]
    assert len(loads) == 1


def test_a_pickle_carries_the_settings_and_reads_the_model_again(loads, ranker, folder):
    original = BlockRankReranker.from_pretrained(folder, config=replace(CONFIG, scoring_layer=1), dtype=torch.float64)
    expected = original.rank(QUERY, DOCUMENTS)
    frozen = pickle.dumps(original)
    assert len(frozen) < 5000
    del original
    gc.collect()
    thawed = pickle.loads(frozen)
    assert thawed.rank(QUERY, DOCUMENTS) == expected
    assert thawed.dtype == torch.float64
    assert len(loads) == 2


def test_threads_share_one_model_that_is_read_once_under_a_race(loads, folder, ranker):
    queries = [f"{QUERY} {number}" for number in range(20)]
    expected = {query: ranker.rank(query, DOCUMENTS) for query in queries}
    shared = BlockRankReranker.from_pretrained(folder, max_document_tokens=60, device="cpu", dtype="float32")
    start = threading.Barrier(16)

    def work(_):
        start.wait()
        return [(query, shared.rank(query, DOCUMENTS)) for query in queries]

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answers in pool.map(work, range(16)) for answer in answers]
    assert len(answers) == 320
    assert all(ranking == expected[query] for query, ranking in answers)
    assert len(loads) == 1


def test_a_load_that_failed_is_tried_again(folder, tmp_path):
    late = tmp_path / "late"
    late.mkdir()
    waiting = BlockRankReranker.from_pretrained(late)
    with pytest.raises((FileNotFoundError, ValueError), match="cannot read"):
        waiting.rank(QUERY, DOCUMENTS)
    save_model(late, "llama")
    CONFIG.save(late)
    assert len(waiting.rank(QUERY, DOCUMENTS)) == 4


def test_ranking_leaves_no_gradient_graph_and_no_training_mode(ranker):
    backbone = ranker.engine.backbone
    assert not any(module.training for module in backbone.model.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# Settings


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None, "auto"], ids=str)
def test_a_device_may_be_a_name_or_an_object(folder, device):
    ranker = BlockRankReranker.from_pretrained(folder, device=device)
    assert isinstance(ranker.device, torch.device)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("torch.float32", torch.float32),
        (torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16),
        (torch.float16, torch.float16),
        ("float64", torch.float64),
    ],
    ids=str,
)
def test_a_dtype_may_be_a_name_or_an_object(folder, dtype, expected):
    ranker = BlockRankReranker.from_pretrained(folder, device="cpu", dtype=dtype)
    assert ranker.dtype == expected
    assert len(ranker.rank(QUERY, DOCUMENTS)) == 4


@pytest.mark.parametrize("dtype", [None, "auto"])
def test_the_dtype_is_chosen_where_none_is_named(folder, dtype):
    assert BlockRankReranker.from_pretrained(folder, dtype=dtype).dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", ["int8", torch.int64, "half-precision", "nn", 32, ""], ids=str)
def test_a_dtype_that_is_no_floating_one_is_refused(folder, dtype):
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16, float16, float64 or auto, got"):
        BlockRankReranker.from_pretrained(folder, device="cpu", dtype=dtype).rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "tpu", "cpu:x", ""], ids=repr)
def test_a_device_that_torch_cannot_use_is_refused_in_one_line(folder, device):
    with pytest.raises(ValueError, match="device must be one that torch can use here, got") as refusal:
        BlockRankReranker.from_pretrained(folder, device=device).rank(QUERY, DOCUMENTS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("config", [2, ["config.json"], {2}])
def test_a_config_of_another_type_is_refused(folder, config):
    with pytest.raises(ValueError, match=f"config must be a BlockRankConfig, got {type(config).__name__}"):
        BlockRankReranker.from_pretrained(folder, config=config)


def test_a_given_config_takes_the_place_of_the_models_own(folder):
    config = replace(CONFIG, scoring_layer=1, signal_tokens=3)
    assert BlockRankReranker.from_pretrained(folder, config=config).config == config
    assert BlockRankReranker.from_pretrained(folder, config=config, scoring_layer=0).config.scoring_layer == 0
    assert BlockRankReranker.from_pretrained(folder, scoring_layer=3).config == replace(CONFIG, scoring_layer=3)


def test_with_config_changes_settings_of_a_new_reranker_only(ranker):
    changed = ranker.with_config(signal_tokens=1, scoring_layer=1)
    assert changed.config == replace(CONFIG, signal_tokens=1, scoring_layer=1)
    assert ranker.config == CONFIG
    assert changed.rank(QUERY, DOCUMENTS) != ranker.rank(QUERY, DOCUMENTS)


def test_with_config_leaves_a_trained_scoring_layer_where_it_is():
    with pytest.raises(ValueError, match="scoring_layer must stay 6"):
        BlockRankReranker.from_pretrained().with_config(scoring_layer=1)


@pytest.mark.parametrize("scoring_layer", ["2", 1.5, True])
def test_a_scoring_layer_of_another_type_is_refused(folder, scoring_layer):
    with pytest.raises(ValueError, match="scoring_layer must be a whole number, got"):
        BlockRankReranker.from_pretrained(folder, scoring_layer=scoring_layer).rank(QUERY, DOCUMENTS)


def test_an_instruction_may_be_empty(folder):
    prompt = replace(CONFIG.prompt, instruction="")
    ranking = BlockRankReranker.from_pretrained(folder, config=replace(CONFIG, prompt=prompt)).rank(QUERY, DOCUMENTS)
    assert sum(document.score for document in ranking) == pytest.approx(1, abs=1e-5)


def test_abstention_without_an_instruction_to_look_at_is_refused_by_name(folder):
    def rank(instruction):
        config = replace(CONFIG, prompt=replace(CONFIG.prompt, instruction=instruction), abstention=True)
        return BlockRankReranker.from_pretrained(folder, config=config).rank(QUERY, DOCUMENTS)

    assert all(0 <= document.probability <= 1 for document in rank("Documents:"))
    with pytest.raises(ValueError, match=r"abstention.*instruction"):
        rank("")


def test_scores_that_are_not_finite_raise_and_nothing_is_returned(folder):
    broken = BlockRankReranker.from_pretrained(folder, max_document_tokens=38, device="cpu", dtype="float32")
    with torch.no_grad():
        embedding = broken.engine.backbone.model.embed_tokens.weight
        embedding.copy_(torch.full_like(embedding, float("inf")))
    with pytest.raises(FloatingPointError, match="non-finite attention scores; load it with dtype='float32'"):
        broken.rank(QUERY, DOCUMENTS)


def test_ranking_warns_about_nothing(ranker):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranker.rank(QUERY, [*DOCUMENTS, PHRASE * 40])


# Importing

UNWANTED = [
    *("transformers", "triton", "typer", "peft", "datasets", "sentence_transformers"),
    *("llama_index", "haystack", "langchain_core", "ray", "fastapi"),
]

PROBE = """
import gc, sys, time
start = time.process_time()  # other processes may have the core
import torch
torch_seconds = time.process_time() - start
gc.disable()  # a collection of all that torch has made takes as long, and falls here or later by chance
before = set(sys.modules)
start = time.process_time()
import blockrank_rerank
from blockrank_rerank import BlockRankReranker
seconds = time.process_time() - start
added = set(sys.modules) - before
print(seconds / torch_seconds, *sorted(name for name in {unwanted} if name in added))
"""


def probe():
    out = subprocess.run(
        [sys.executable, "-c", PROBE.format(unwanted=UNWANTED)], capture_output=True, text=True, check=True, timeout=120
    )
    share, *found = out.stdout.split()
    return float(share), found


def test_importing_is_quick_and_brings_in_no_framework():
    shares = []
    for _ in range(3):
        share, found = probe()
        assert found == []
        shares.append(share)
        if share < 0.25:
            break
    assert min(shares) < 0.25, f"import took {shares} of torch's time, beyond it"


def test_public_names_are_there_and_unknown_ones_are_not():
    import blockrank_rerank

    assert all(hasattr(blockrank_rerank, name) for name in blockrank_rerank.__all__)
    assert dir(blockrank_rerank) == sorted(blockrank_rerank.__all__)
    assert blockrank_rerank.BlockRankConfig is BlockRankConfig
    with pytest.raises(AttributeError, match="has no attribute 'BlockRanker'"):
        _ = blockrank_rerank.BlockRanker


# Probabilities


def test_min_probability_keeps_what_is_likely_enough_whatever_the_list(default):
    ranker = default.with_config(abstention=True)
    ranking = ranker.rank(QUERY, DOCUMENTS)
    cut = sorted(document.probability for document in ranking)[1]
    kept = ranker.rank(QUERY, DOCUMENTS, min_probability=cut)
    assert kept == [document for document in ranking if document.probability >= cut]
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=cut, top_k=1) == ranking[:1]
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=1.0) == []
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=0.0) == ranking


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"top_k": 1, "min_probability": 0.5}, [1]),
        ({"top_k": 2, "min_probability": 0.5}, [1, 3]),
        ({"top_k": 1, "min_probability": 0.5, "threshold": 0.15}, [1]),
        ({"top_k": 2, "min_probability": 0.5, "threshold": 0.15}, [1]),
    ],
)
def test_what_is_not_likely_enough_takes_no_place_of_top_k(limits, kept):
    # Where the query sees the list, its order may be another than that of the probabilities.
    ranking = [
        RankedDocument(index=index, score=score, raw_score=0.0, text="", truncated=False, probability=probability)
        for index, (score, probability) in enumerate([(0.5, 0.1), (0.3, 0.9), (0.2, 0.4), (0.1, 0.5)])
    ]
    assert [document.index for document in Limits(**limits).select(Ranking(ranking))] == kept


def test_min_probability_of_a_model_without_probabilities_is_refused(ranker, folder):
    with pytest.raises(ValueError, match=r"min_probability needs a model that gives probabilities, and .*threshold"):
        ranker.rank(QUERY, DOCUMENTS, min_probability=0.5)
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=0) == ranker.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("value", [7, -0.1])
def test_a_min_probability_outside_0_to_1_is_refused(default, value):
    with pytest.raises(ValueError, match=r"min_probability must be a number in 0\.\.1, or None"):
        default.rank(QUERY, DOCUMENTS, min_probability=value)


def test_numpys_numbers_are_numbers(ranker):
    assert ranker.rank(QUERY, DOCUMENTS, threshold=np.float32(0.1)) == ranker.rank(
        QUERY, DOCUMENTS, threshold=float(np.float32(0.1))
    )


@pytest.mark.parametrize("value", ["0.5", True, float("nan")])
def test_a_min_probability_that_is_no_number_is_refused(default, value):
    with pytest.raises(ValueError, match=r"min_probability must be a number in 0\.\.1, or None"):
        default.rank(QUERY, DOCUMENTS, min_probability=value)


# Sharing


def test_rerankers_with_equal_settings_share_one_engine_also_under_a_race(folder, loads):
    rankers = [BlockRankReranker.from_pretrained(folder, max_document_tokens=40) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda ranker: ranker.rank(QUERY, DOCUMENTS), rankers))
    assert BlockRankReranker.from_pretrained(folder, max_document_tokens=40, token="t").rank(QUERY, DOCUMENTS)
    assert len(loads) == 1
    assert BlockRankReranker.from_pretrained(folder, max_document_tokens=41).rank(QUERY, DOCUMENTS)
    assert len(loads) == 2


def test_an_engine_that_nobody_uses_any_more_is_let_go(folder, loads):
    for _ in range(2):
        ranker = BlockRankReranker.from_pretrained(folder, max_document_tokens=39)
        ranker.rank(QUERY, DOCUMENTS)
        del ranker
        gc.collect()
    assert len(loads) == 2


def test_a_folder_that_was_written_again_is_read_again(tmp_path, loads):
    folder = save_model(tmp_path / "model", "llama")
    CONFIG.save(folder)
    first = BlockRankReranker.from_pretrained(folder)
    before = first.rank(QUERY, DOCUMENTS)
    replace(CONFIG, scoring_layer=1).save(folder)
    after = BlockRankReranker.from_pretrained(folder).rank(QUERY, DOCUMENTS)
    assert len(loads) == 2
    assert [document.raw_score for document in before] != [document.raw_score for document in after]


def test_a_token_is_neither_shown_nor_pickled(folder):
    ranker = BlockRankReranker.from_pretrained(folder, token="hf_secret")
    assert "hf_secret" not in repr(ranker._shared.spec)
    assert b"hf_secret" not in pickle.dumps(ranker)
    assert ranker._shared.spec.checkpoint.options["token"] == "hf_secret"
