"""Calibrations: probabilities of a model from a file that is bound to it."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
from dataclasses import replace

import pytest

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.adapters import Scoring
from blockrank_rerank.cli.app import main
from blockrank_rerank.engine.calibrated import calibration_bases, tuning_digest
from blockrank_rerank.model.probability_map import ProbabilityMap
from tests.engine.test_tuned import saved, tuning_of
from tests.states.test_prepared import QUERIES, save_ranker
from tests.tiny_models import BERT_CONFIG

DOCUMENTS = ["a heart attack is a blocked artery", "sugar", {"title": "the liver", "text": "stores sugar " * 9}, "it"]
QUERY = QUERIES[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was not trained to abstain."""
    return save_ranker(tmp_path_factory.mktemp("bert") / "small", "bert", BERT_CONFIG)


@pytest.fixture(scope="module")
def plain(folder):
    return BlockRankReranker.from_pretrained(folder, dtype="float32")


def map_of(ranker, **changes):
    """A map whose threshold leaves the two documents with the highest raw scores."""
    raw = sorted(document.raw_score for document in ranker.rank(QUERY, DOCUMENTS))
    found = ProbabilityMap(
        slope=2.0,
        intercept=-2 * raw[1],
        threshold=0.0,
        bases=calibration_bases(ranker.engine, ranker._shared.spec),
        tuning=tuning_digest(ranker.engine),
        facts={},
    )
    return replace(found, **({"threshold": found.probabilities(raw)[2]} | changes))


@pytest.fixture(scope="module")
def file(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    map_of(plain).save(path)
    return path


@pytest.fixture(scope="module")
def ranker(folder, file):
    return BlockRankReranker.from_pretrained(folder, dtype="float32", calibration=file)


def test_probabilities_come_of_raw_scores_and_the_threshold_is_the_default(ranker, plain, file):
    found = ProbabilityMap.load(file)
    before = plain.rank(QUERY, DOCUMENTS)
    every = ranker.rank(QUERY, DOCUMENTS, min_probability=0)
    assert [(d.index, d.score, d.raw_score) for d in every] == [(d.index, d.score, d.raw_score) for d in before]
    assert [d.probability for d in before] == [None] * 4
    assert [d.probability for d in every] == [1 / (1 + math.exp(-2 * d.raw_score - found.intercept)) for d in every]
    likely = [d for d in every if d.probability >= found.threshold]
    assert len(likely) == 2
    assert ranker.rank(QUERY, DOCUMENTS) == ranker.rank_batch([(QUERY, DOCUMENTS)])[0] == likely
    assert [e.ranked for e in ranker.explain(QUERY, DOCUMENTS)] == likely
    assert {piece.index for piece in ranker.context(QUERY, DOCUMENTS).pieces} <= {d.index for d in likely}
    assert ranker.rank(QUERY, DOCUMENTS, min_probability=1.0) == []
    assert not plain.gives_probabilities
    assert ranker.gives_probabilities


def test_copies_and_pickles_have_the_calibration_and_another_config_has_none(ranker):
    expected = ranker.rank(QUERY, DOCUMENTS)
    for other in (copy.deepcopy(ranker), copy.copy(ranker), pickle.loads(pickle.dumps(ranker))):
        assert other.rank(QUERY, DOCUMENTS) == expected
    assert not ranker.with_config(max_document_tokens=9).gives_probabilities


def test_the_model_is_loaded_once(ranker, plain):
    assert ranker.engine.backbone is plain.engine.backbone
    assert plain.rank(QUERY, DOCUMENTS)[0].probability is None


def test_adapters_go_by_the_calibrated_probability(ranker):
    kept = Scoring().rank(ranker, QUERY, DOCUMENTS)
    assert [d.score for d in kept] == [d.probability for d in ranker.rank(QUERY, DOCUMENTS)]
    assert len(Scoring(min_probability=0.0).rank(ranker, QUERY, DOCUMENTS)) == 4


def test_a_cross_encoder_scores_every_pair(folder, file, ranker):
    encoder = BlockRankCrossEncoder(str(folder), dtype="float32", calibration=file)
    scores = encoder.predict([(QUERY, document) for document in DOCUMENTS[:2]])
    every = {d.index: d.probability for d in ranker.rank(QUERY, DOCUMENTS, min_probability=0)}
    assert scores == pytest.approx([every[0], every[1]], abs=1e-5)


def test_a_cross_encoder_ranks_every_document(ranker):
    found = BlockRankCrossEncoder(ranker).rank(QUERY, DOCUMENTS)
    expected = ranker.rank(QUERY, DOCUMENTS, min_probability=0)
    assert [(row["corpus_id"], row["score"]) for row in found] == [
        (document.index, pytest.approx(document.probability, abs=1e-5)) for document in expected
    ]


def test_the_ranker_of_rerankers_scores_a_document_below_the_threshold(folder, file, ranker):
    pytest.importorskip("rerankers", reason="needs the rerankers extra")
    from rerankers_blockrank import BlockRankRanker

    last = ranker.rank(QUERY, [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[3]], min_probability=0)[-1]
    assert ranker.rank(QUERY, [last.text]) == []
    adapter = BlockRankRanker(folder, dtype="float32", calibration=file)
    assert adapter.score(QUERY, last.text) == pytest.approx(last.probability, abs=1e-5)


def test_an_assistant_gets_every_document_with_its_probability(ranker):
    pytest.importorskip("mcp", reason="needs the mcp extra")
    from mcp import Client

    from blockrank_rerank.serving.tool import tool_server

    texts = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[3]]

    async def call():
        async with Client(tool_server(ranker)) as client:
            answer = await client.call_tool("rerank", {"query": QUERY, "documents": texts})
            return answer.structured_content["documents"]

    expected = {d.index: d.probability for d in ranker.rank(QUERY, texts, min_probability=0)}
    assert {row["index"]: row["score"] for row in asyncio.run(call())} == pytest.approx(expected, abs=1e-5)


def test_a_server_answers_every_document_with_its_probability(ranker):
    pytest.importorskip("fastapi", reason="needs the serve extra")
    pytest.importorskip("prometheus_client", reason="needs the serve extra")
    from starlette.testclient import TestClient

    from blockrank_rerank.serving.app import create_app

    texts = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[3]]
    expected = {d.index: d.probability for d in ranker.rank(QUERY, texts, min_probability=0)}
    with TestClient(create_app(ranker)) as client:
        rows = client.post("/v2/rerank", json={"query": QUERY, "documents": texts}).json()["results"]
        info = client.get("/info").json()
    assert (info["score"], info["threshold"]) == ("probability", ranker._shared.probability_map.threshold)
    assert {row["index"]: row["relevance_score"] for row in rows} == pytest.approx(expected, abs=1e-5)


def test_the_command_line_takes_a_calibration(folder, file, tmp_path, capsys, ranker):
    (tmp_path / "d.txt").write_text("a heart attack is a blocked artery\nsugar\nit\n", encoding="utf-8")
    words = ["rerank", QUERY, str(tmp_path / "d.txt"), "--model", str(folder), "--dtype", "float32", "--json"]
    assert main([*words, "--calibration", str(file), "--min-probability", "0"]) == 0
    shown = {row["index"]: row["probability"] for row in json.loads(capsys.readouterr().out)}
    texts = (tmp_path / "d.txt").read_text().splitlines()
    assert shown == {d.index: d.probability for d in ranker.rank(QUERY, texts, min_probability=0)}


def test_a_run_keeps_what_is_above_the_threshold_and_says_how_much_is_not(folder, file, tmp_path, capsys, ranker):
    texts = {f"d{number}": text for number, text in enumerate(["a heart attack is a blocked artery", "sugar", "it"])}
    corpus = [json.dumps({"_id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(corpus), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}), encoding="utf-8")
    (tmp_path / "run.trec").write_text("".join(f"q Q0 {name} 1 {-n} t\n" for n, name in enumerate(texts)))
    paths = {"--queries": "queries.jsonl", "--corpus": "corpus.jsonl", "--run": "run.trec", "--output": "out.trec"}
    words = [word for flag, name in paths.items() for word in (flag, str(tmp_path / name))]
    words += ["--model", str(folder), "--dtype", "float32", "--calibration", str(file)]
    for options, limits in (([], {}), (["--min-probability", "0"], {"min_probability": 0})):
        kept = [f"d{document.index}" for document in ranker.rank(QUERY, list(texts.values()), **limits)]
        assert main(["rerank", *words, *options]) == 0
        assert [line.split()[2] for line in (tmp_path / "out.trec").read_text().splitlines()] == kept
        left_out = f"{3 - len(kept)} documents were reranked and left out of the output"
        assert (left_out in capsys.readouterr().err) == (len(kept) < 3)


# What does not belong together


def test_a_calibration_of_another_model_is_refused(folder, plain, tmp_path):
    other = save_ranker(tmp_path / "other", "bert", BERT_CONFIG, seed=2)
    map_of(plain).save(tmp_path / "c.json")
    with pytest.raises(ValueError, match=r"c\.json was made for another model than .*other.*blockrank calibrate"):
        BlockRankReranker.from_pretrained(other, dtype="float32", calibration=tmp_path / "c.json").rank(QUERY, ["a"])


def test_a_calibration_is_bound_to_the_tuning_it_was_made_with(folder, plain, file, tmp_path):
    tuning = saved(tmp_path / "t.safetensors", tuning_of(plain))
    tuned = BlockRankReranker.from_pretrained(folder, dtype="float32", tuning=tuning)
    with pytest.raises(ValueError, match=r"is a calibration of scores without a tuning"):
        BlockRankReranker.from_pretrained(folder, dtype="float32", tuning=tuning, calibration=file).rank(QUERY, ["a"])
    map_of(tuned).save(tmp_path / "c.json")
    both = BlockRankReranker.from_pretrained(folder, dtype="float32", tuning=tuning, calibration=tmp_path / "c.json")
    ranked = both.rank(QUERY, DOCUMENTS, min_probability=0)
    assert [d.raw_score for d in ranked] == [d.raw_score for d in tuned.rank(QUERY, DOCUMENTS)]
    with pytest.raises(ValueError, match=r"is a calibration of scores with a tuning"):
        BlockRankReranker.from_pretrained(folder, dtype="float32", calibration=tmp_path / "c.json").rank(QUERY, ["a"])
    with pytest.raises(ValueError, match="cannot go together with several tunings by name"):
        BlockRankReranker.from_pretrained(folder, tuning={"a": tuning}, calibration=file)


def test_a_calibrated_model_is_not_saved_without_its_calibration(ranker, tmp_path):
    with pytest.raises(ValueError, match="a calibration stays a file of its own"):
        ranker.save_pretrained(tmp_path / "mine")


DAMAGES = {
    "empty": ("", "is no calibration"),
    "torn": ('{"format": "blockrank-calibration", "ver', "is no calibration"),
    "list": ("[]", "is no calibration"),
    "nested": ("[" * 100_000, "is no calibration"),
    "another format": ('{"scoring_layer": 3}', "is no calibration"),
    "another version": ({"version": 2}, "another release"),
    "no slope": ({"slope": None}, "slope must be a number"),
    "falling": ({"slope": -1.0}, "slope must be above 0"),
    "infinite": ({"intercept": math.inf}, "intercept finite"),
    "huge": ({"intercept": 10**400}, "is a damaged calibration"),
    "threshold": ({"threshold": 1.5}, r"threshold must be in 0\.\.1"),
    "bases": ({"bases": ["float32"]}, "bases must be texts"),
    "tuning": ({"tuning": 3}, "tuning must be a text or null"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_before_a_model_is_loaded(folder, file, tmp_path, damage):
    change, message = DAMAGES[damage]
    text = change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change)
    (tmp_path / "c.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        BlockRankReranker.from_pretrained(folder, calibration=tmp_path / "c.json")


def test_a_file_that_lacks_a_field_and_one_that_is_not_there_are_refused(folder, file, tmp_path):
    values = json.loads(file.read_text())
    del values["intercept"]
    (tmp_path / "c.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="it has no 'intercept'"):
        BlockRankReranker.from_pretrained(folder, calibration=tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match=r"calibration must be a file that .* wrote, and there is no .*nowhere"):
        BlockRankReranker.from_pretrained(folder, calibration=tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="calibration must be a file that 'blockrank calibrate' wrote, got 3"):
        BlockRankReranker.from_pretrained(folder, calibration=3)


def test_no_raw_score_overflows():
    found = ProbabilityMap(slope=1e3, intercept=0.0, threshold=0.5, bases={}, tuning=None, facts={})
    assert found.probabilities([-1e9, 0.0, 1e9]) == [0.0, 0.5, 1.0]
