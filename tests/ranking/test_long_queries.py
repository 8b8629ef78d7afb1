"""Queries that are longer than a model reads: refused before anything is ranked, or cut."""

from __future__ import annotations

import asyncio
import json
import warnings
from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankConfig, BlockRankCrossEncoder, BlockRankReranker, PromptTemplate
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.failures import ARGUMENTS, BAD_DATA, OK
from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.evaluation.rerank_run import rerank_run
from blockrank_rerank.formats import DataError
from blockrank_rerank.text.prompt import PromptEncoder
from tests.states.test_prepared import assert_same, save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, bert_tokenizer, byte_level_tokenizer

DOCUMENTS = ["sugar", "aspirin thins the blood and treats a heart attack", "the liver stores sugar", ""]
LONG = "what treats a heart attack " * 60
CUT = "have more than the .* tokens that the model reads"


@pytest.fixture(scope="module", params=["llama", "bert"])
def folder(request, tmp_path_factory):
    config = CONFIG if request.param == "llama" else BERT_CONFIG
    config = replace(config, prompt=config.prompt.without_query())
    return save_ranker(tmp_path_factory.mktemp(request.param), request.param, config)


def load(folder, **options):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def strict(folder):
    return load(folder)


@pytest.fixture(scope="module")
def cutting(folder):
    return load(folder, long_queries="truncate")


def block(ranker, query):
    return ranker.engine.prompt.encode(query, []).query


def longest(cutting):
    """As many words as the model reads, each of which is one token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cutting.fitting_queries({"q": " ".join(["a"] * 400)})["q"].rstrip()


@pytest.mark.filterwarnings(f"ignore:.*{CUT}")
def test_exactly_the_limit_passes_and_one_token_more_is_refused(strict, cutting):
    query = longest(cutting)
    limit = strict.engine.prompt.longest_query
    assert len(block(strict, query)) == limit
    assert_same(cutting.rank(query, DOCUMENTS), strict.rank(query, DOCUMENTS), tolerance=0)
    assert cutting.fitting_queries({"q": query}) == {"q": query}
    with pytest.raises(ValueError, match=rf"at most {limit} tokens, template included, got {limit + 1}: .*truncate"):
        strict.rank(query + " a", DOCUMENTS)
    assert cutting.fitting_queries({"q": query + " a"}) == {"q": query}
    assert len(block(cutting, query + " a")) == limit
    assert query.count("a") > 50


def test_the_default_model_reads_511_tokens_of_a_query():
    ranker = BlockRankReranker.from_pretrained()
    assert ranker.rank("liver " * 510, DOCUMENTS)
    with pytest.raises(ValueError, match="query must") as error:
        ranker.rank("liver " * 511, DOCUMENTS)
    assert str(error.value) == (
        "query must have at most 511 tokens, template included, got 512: the model has 512 positions and query_offset "
        'is 1; shorten the query, or set long_queries="truncate" (--long-queries truncate)'
    )


def test_a_cut_query_ranks_as_its_beginning_does(strict, cutting):
    with pytest.warns(UserWarning, match=rf"^1 of 1 queries {CUT}.*: requests\[0\]$"):
        got = cutting.rank(LONG, DOCUMENTS)
    beginning = strict_beginning(strict, cutting, LONG)
    assert_same(got, strict.rank(beginning, DOCUMENTS), tolerance=0)
    assert not any(document.truncated for document in got)


def strict_beginning(strict, cutting, query):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beginning = cutting.fitting_queries({"q": query})["q"]
    assert query.startswith(beginning)
    assert len(beginning) > 50
    assert block(strict, beginning)
    return beginning


@pytest.mark.filterwarnings(f"ignore:.*{CUT}")
def test_batches_prepared_cached_stored_pruned_and_awaited_lists_read_the_same_beginning(
    folder, strict, cutting, tmp_path
):
    expected = strict.rank(strict_beginning(strict, cutting, LONG), DOCUMENTS)
    assert_same(cutting.rank_batch([("sugar", DOCUMENTS), (LONG, DOCUMENTS)])[1], expected)
    assert_same(cutting.rank(LONG, strict.prepare(DOCUMENTS)), expected)
    strict.prepare_store(tmp_path / "states", DOCUMENTS)
    for keeping in ({"cache": "1MB"}, {"store": tmp_path / "states"}):
        kept = load(folder, long_queries="truncate", **keeping)
        assert_same(kept.rank(LONG, DOCUMENTS), expected)
        assert_same(kept.rank(LONG, DOCUMENTS), expected)
    assert_same(asyncio.run(cutting.arank(LONG, DOCUMENTS)), expected)
    pruned = load(folder, long_queries="truncate", prune={1: 2}).rank(LONG, DOCUMENTS)
    same = load(folder, prune={1: 2}).rank(strict_beginning(strict, cutting, LONG), DOCUMENTS)
    assert_same(pruned, same)


@pytest.mark.filterwarnings(f"ignore:.*{CUT}")
def test_an_explanation_of_a_cut_query_has_the_documents_own_offsets(strict, cutting):
    got = cutting.explain(LONG, DOCUMENTS)
    expected = strict.explain(strict_beginning(strict, cutting, LONG), DOCUMENTS)
    assert got.query == LONG
    assert [document.words for document in got] == [document.words for document in expected]
    assert all(word.text == document.ranked.text[word.start : word.end] for document in got for word in document.words)


def test_one_warning_counts_and_names_all_queries_that_are_cut(cutting):
    requests = [("sugar", DOCUMENTS), (LONG, DOCUMENTS), ("liver", DOCUMENTS), (LONG, ["sugar"]), (LONG, [])]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cutting.rank_batch(requests)
    (message,) = {str(warning.message) for warning in told}
    assert len(told) == 1
    assert message.startswith("2 of 4 queries have more than the ")
    assert message.endswith("requests[1], requests[3]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cutting.rank_batch(requests[:1] + requests[2:3])


def test_many_names_are_not_all_listed(cutting):
    with pytest.warns(UserWarning, match=r"7 of 7 queries .*: query 'q0', .*, query 'q4', …$"):
        cutting.fitting_queries({f"q{number}": LONG for number in range(7)})


def test_the_last_query_is_refused_before_the_first_one_is_ranked(strict, monkeypatch):
    monkeypatch.setattr(Engine, "score", None)
    with pytest.raises(ValueError, match=r"^requests\[2\]: query must have at most \d+ tokens"):
        strict.rank_batch([("sugar", DOCUMENTS), ("liver", DOCUMENTS), (LONG, DOCUMENTS)])


@pytest.mark.parametrize("ids", [["a", "b", "long"], ["long"]])
def test_reranking_a_run_names_the_querys_id_before_it_ranks(strict, monkeypatch, ids):
    monkeypatch.setattr(Engine, "score", None)
    queries = dict.fromkeys(ids, "sugar") | {"long": LONG}
    run = {query: {"d": 1.0} for query in ids}
    with pytest.raises(DataError, match=r"^query 'long': query must have at most \d+ tokens.* got \d+.*--long-queries"):
        rerank_run(strict, run, queries, {"d": "sugar"})


def test_reranking_a_run_names_and_counts_the_queries_that_it_cuts(cutting):
    queries = {"a": "sugar", "b": LONG, "c": LONG}
    run = {query: {"d": 2.0, "e": 1.0} for query in queries}
    corpus = {"d": "sugar", "e": "aspirin treats a heart attack"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        reranked = rerank_run(cutting, run, queries, corpus)
    assert [str(warning.message).rpartition(": ")[2] for warning in told] == ["query 'b', query 'c'"]
    assert (reranked.queries_truncated, reranked.truncated) == (2, 0)
    assert set(reranked.run) == set(queries)


# Prompts


REPEATING = PromptTemplate(
    instruction="Q: {query}\nD:", document="\n{text}.", query="\n{query}?", answer="", answer_start="", chat=False
)


def encoder(long_queries, limit=60, offset=1, tokenizer=None, prompt=REPEATING, **settings):
    config = BlockRankConfig(
        scoring_layer=1, query_offset=offset, prompt=prompt, **{"max_document_tokens": None} | settings
    )
    return PromptEncoder(tokenizer or bert_tokenizer(), config, limit, long_queries)


@pytest.mark.parametrize(("cap", "room"), [(None, 30), (12, 12)])
def test_an_instruction_that_repeats_a_cut_query_leaves_documents_room(cap, room):
    prompt = encoder("truncate", max_document_tokens=cap)
    encoded = prompt.encode("liver " * 200, ["sugar " * 200])
    assert len(encoded.instruction) == 60 - room
    assert len(encoded.documents[0]) == room
    # Both places have the same words.
    liver = bert_tokenizer().convert_tokens_to_ids("liver")
    assert encoded.instruction.count(liver) == encoded.query.count(liver) > 10


def test_a_query_that_an_instruction_repeats_is_cut_only_where_it_would_be_refused():
    query = "liver " * 50
    whole = encoder("error").encode(query, ["a"])
    assert encoder("truncate").encode(query, ["a"]) == whole
    with pytest.raises(ValueError, match=r"query is too long: the instruction that repeats it .*long_queries="):
        encoder("error").encode("liver " * 57, ["a"])
    assert encoder("truncate").fitting("liver " * 57) != "liver " * 57


@pytest.mark.parametrize(
    "query", ["\N{GRINNING FACE}" * 90, "é\u0301ab" * 60, "\ud800 liver" * 40, "  " * 90 + "liver"]
)
def test_a_cut_falls_between_characters(query):
    prompt = encoder("truncate", limit=80, tokenizer=byte_level_tokenizer())
    beginning = prompt.fitting(query)
    assert query.startswith(beginning)
    assert 0 < len(beginning) < len(query)
    assert prompt.encode(query, ["a"]) == prompt.encode(beginning, ["a"])


def test_a_template_that_leaves_a_query_no_room_is_refused_without_advice_to_cut():
    prompt = replace(REPEATING, instruction="D:", query="\n" + "liver " * 30 + "{query}?")
    with pytest.raises(ValueError, match="query must have at most 20 tokens") as error:
        encoder("truncate", limit=21, prompt=prompt).encode("sugar", ["a"])
    assert "long_queries" not in str(error.value)
    with pytest.raises(ValueError, match="came to no tokens"):
        encoder("truncate", prompt=replace(REPEATING, query="{query}")).encode("\x00", ["a"])


@pytest.mark.parametrize("value", ["cut", None, True, ""])
def test_other_ways_are_refused_when_the_ranker_is_described(value):
    with pytest.raises(ValueError, match="long_queries must be one of error, truncate, got"):
        BlockRankReranker.from_pretrained(long_queries=value)


def test_a_cross_encoder_takes_the_option():
    query = "Dense housing lowers rents. " * 120
    with pytest.raises(ValueError, match="at most 511 tokens"):
        BlockRankCrossEncoder().predict([(query, "Housing")])
    with pytest.warns(UserWarning, match=CUT):
        scores = BlockRankCrossEncoder(long_queries="truncate").predict([(query, "Housing"), (query, "Tulips")])
    assert scores[0] > scores[1]


# Command line


@pytest.fixture
def beir(tmp_path):
    queries = {"a1": "Zoning laws should be relaxed because dense housing lowers rents. " * 60, "a2": "Relax zoning?"}
    corpus = {"d1": "Dense housing lowers rents.", "d2": "Tulips bloom in spring."}
    for name, texts in (("queries", queries), ("corpus", corpus)):
        lines = (json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in texts.items())
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\na1\td1\t1\na2\td1\t1\n")
    run = "".join(f"{q} Q0 d{i} {i} {3 - i} x\n" for q in ("a1", "a2") for i in (1, 2))
    (tmp_path / "run.trec").write_text(run)
    return tmp_path


def reranking(beir, *options):
    files = {"--queries": "queries.jsonl", "--corpus": "corpus.jsonl", "--run": "run.trec", "--output": "out.trec"}
    words = [word for flag, name in files.items() for word in (flag, str(beir / name))]
    return ["rerank", *words, *options]


REFUSAL = "query 'a1': query must have at most 511 tokens"
ADVICE = 'shorten the query, or set long_queries="truncate" (--long-queries truncate)'


def test_the_commands_refuse_a_long_query_by_its_id_and_name_the_option(beir, capsys):
    pytest.importorskip("ir_measures")
    pytest.importorskip("bm25s")
    for arguments in (["evaluate", str(beir), "--run", str(beir / "run.trec")], reranking(beir)):
        assert main(arguments) == BAD_DATA
        message = " ".join(capsys.readouterr().err.split())
        assert REFUSAL in message
        assert ADVICE in message
    assert not (beir / "out.trec").exists()


def test_the_commands_cut_where_they_are_told_to_and_say_so(beir, capsys):
    pytest.importorskip("ir_measures")
    pytest.importorskip("bm25s")
    option = ("--long-queries", "truncate")
    evaluate = ["evaluate", str(beir), "--run", str(beir / "run.trec"), *option]
    assert main([*evaluate, "--json"]) == OK
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report["queries_truncated"] == 1
    assert report["after"]["nDCG@10"] == 1.0
    assert shown.err.count("tokens that the model reads") == 1
    assert "query 'a1'" in shown.err
    assert main(evaluate) == OK
    assert "1 queries are longer than the model reads" in " ".join(capsys.readouterr().out.split())
    assert main(reranking(beir, *option)) == OK
    assert "1 queries are longer than the model reads" in " ".join(capsys.readouterr().err.split())
    assert {line.split()[0] for line in (beir / "out.trec").read_text().splitlines()} == {"a1", "a2"}


def test_ranking_documents_for_a_long_query_takes_the_option(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("Dense housing lowers rents.\nTulips bloom.\n")
    command = ["rerank", "housing and rents " * 300, str(tmp_path / "texts.txt")]
    assert main(command) == ARGUMENTS
    assert ADVICE in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--long-queries", "truncate", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)[0]["index"] == 0
