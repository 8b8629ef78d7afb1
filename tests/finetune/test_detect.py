"""Layers and heads found from judged queries: what is read, what is chosen, and what is said of chance."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel

from blockrank_rerank import BlockRankConfig, BlockRankReranker
from blockrank_rerank.cli.app import main
from blockrank_rerank.cli.detect import _all_heads
from blockrank_rerank.cli.failures import ARGUMENTS, BAD_DATA
from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.evaluation.measures import measure_queries
from blockrank_rerank.evaluation.paired import Difference, Interval
from blockrank_rerank.finetune.detect.choice import Choice
from blockrank_rerank.finetune.detect.detection import FIRST_STAGE, IN_USE, Detection, Row, find_heads
from blockrank_rerank.finetune.detect.heat_map import shaded
from blockrank_rerank.finetune.detect.readings import WAYS, LayerReader, ListReading, _head_scores
from tests.model.test_families import global_layers
from tests.ranking.test_content_free import DOCUMENTS, QUERY, QUERY_FREE
from tests.states.test_prepared import save_ranker
from tests.tiny_models import BERT_CONFIG, CONFIG, WORDS, save_model

SETTINGS = replace(CONFIG, prompt=QUERY_FREE, signal_tokens=3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_ranker(tmp_path_factory.mktemp("llama"), "llama", SETTINGS)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """24 queries of one word, each with a document that has it and is relevant, and others."""
    folder = tmp_path_factory.mktemp("collection")
    words = list(dict.fromkeys(WORDS)) + [f"word{number}" for number in range(24)]
    draw = random.Random(0)
    documents = {f"d{n}": f"{word} {' '.join(draw.choices(words, k=5))}" for n, word in enumerate(words[:24])}
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": d, "text": t}) + "\n" for d, t in documents.items())
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": word}) + "\n" for n, word in enumerate(words[:24]))
    )
    (folder / "qrels/test.tsv").write_text("".join(f"q{n}\td{n}\t1\n" for n in range(24)))
    run = [f"q{n} Q0 d{(n + k) % 24} {k + 1} {9 - k} x" for n in range(24) for k in range(4)]
    (folder / "run.trec").write_text("\n".join(run) + "\n")
    return folder


def spec_of(folder, **options):
    return BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32", **options)._shared.spec


# Reading


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_one_pass_reads_what_a_ranker_at_each_layer_would(family, tmp_path):
    folder = save_ranker(tmp_path, family, replace(SETTINGS, scoring_layer=global_layers(family)[-1]))
    reader = LayerReader(spec_of(folder), "N/A")
    readings = reader.read(QUERY, DOCUMENTS)
    assert [*readings] == global_layers(family)  # the others' windows hide documents
    for layer, reading in readings.items():
        for query, expected in ((None, reading.documents), ("N/A", reading.documents - reading.content_free.mean(0))):
            options = {"scoring_layer": layer, "content_free_query": query}
            engine = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32", **options).engine
            (lse,) = engine.score(Batch([engine.prompt.encode(QUERY, DOCUMENTS)]))
            torch.testing.assert_close(lse.documents, expected, atol=1e-5, rtol=1e-4)


def test_a_model_without_settings_is_read_at_all_tokens_of_the_query(tmp_path):
    bare = save_model(tmp_path / "bare", "llama", max_position_embeddings=32_768)
    with pytest.warns(UserWarning, match="no settings of its own: every layer and head is read at all tokens"):
        reader = LayerReader(spec_of(bare), "N/A")
    assert (reader.corrected.signal_tokens, reader.today.signal_tokens) == ("all", 2)
    query = reader.prompt.encode(QUERY, DOCUMENTS).query
    assert reader.read(QUERY, DOCUMENTS)[0].documents.shape == (len(query), 4, len(DOCUMENTS))


def test_settings_that_a_model_or_its_user_has_keep_their_signals(llama, tmp_path):
    bare = save_model(tmp_path / "bare", "llama")
    for spec in (spec_of(llama), spec_of(bare, config=SETTINGS)):
        assert LayerReader(spec, "N/A").corrected.signal_tokens == 3


def test_the_mass_is_the_attention_of_a_causal_run_over_one_document(llama):
    reader = LayerReader(spec_of(llama), "N/A")
    request = reader.prompt.encode(QUERY, DOCUMENTS[:1])
    first, document, query = len(request.instruction), len(request.documents[0]), len(request.query)
    positions = torch.cat([torch.arange(first + document), 128 + torch.arange(query)])
    model = AutoModel.from_pretrained(llama, attn_implementation="eager")
    with torch.inference_mode():
        ids = torch.tensor([request.instruction + request.documents[0] + request.query])
        attention = model(ids, position_ids=positions[None], output_attentions=True).attentions
    for layer, reading in reader.read(QUERY, DOCUMENTS[:1]).items():
        everything = torch.logaddexp(reading.documents.logsumexp(-1), reading.rest)
        mass = (reading.documents[..., 0] - everything).exp()
        expected = attention[layer][0, :, -3:, first : first + document].sum(-1).T
        torch.testing.assert_close(mass, expected, atol=1e-5, rtol=1e-4)


def test_ndcg_is_that_of_the_measures():
    draw = np.random.default_rng(0)
    for _ in range(20):
        grades, scores = draw.integers(0, 4, 15), draw.normal(size=15)
        grades[0] = 1
        found = reading_of(grades, scores[None, None])
        qrels = {"q": {str(n): int(grade) for n, grade in enumerate(grades)}}
        run = {"q": {str(n): float(scores[n]) for n in np.argsort(-scores)}}
        expected = measure_queries(qrels, run)["nDCG@10"]["q"]
        assert float(found.ndcg(scores)) == pytest.approx(expected)


def test_each_way_scores_a_list_as_a_ranker_of_these_settings_does(llama):
    reader = LayerReader(spec_of(llama), "N/A")
    scores = _head_scores(reader.read(QUERY, DOCUMENTS)[1])
    for way, (reduction, corrected) in enumerate(WAYS):
        settings = {"reduction": reduction, "content_free_query": "N/A" if corrected else None}
        config = replace(reader.config, scoring_layer=1, heads=(1, 3), **settings)
        ranker = BlockRankReranker.from_pretrained(llama, device="cpu", dtype="float32", config=config)
        expected = [document.index for document in ranker.rank(QUERY, DOCUMENTS)]
        assert np.argsort(-scores[way, [1, 3]].mean(0)).tolist() == expected


# Choosing


def reading_of(grades, plain, corrected=None, mass=None):
    best = np.sort(grades)[::-1][:10]
    both = zip(plain, plain if corrected is None else corrected, strict=True)
    # The mean of shares knows nothing here.
    return ListReading(
        grades=np.asarray(grades),
        ideal=float((best / np.log2(np.arange(2, len(best) + 2))).sum()),
        first_stage=0.5,
        heads={layer: np.stack([np.zeros_like(pair[0]), *pair]) for layer, pair in enumerate(both)},
        mass=dict(enumerate(plain if mass is None else mass)),
    )


def planted(count, strength, seed=0):
    """Lists of 12 of which head 2 of layer 1, corrected, knows the relevant one, and all others nothing."""
    draw = np.random.default_rng(seed)
    readings = []
    for _ in range(count):
        grades = np.zeros(12)
        grades[draw.integers(12)] = 1
        plain, corrected = draw.random((2, 4, 12)), draw.random((2, 4, 12))
        corrected[1, 2] += strength * grades
        readings.append(reading_of(grades, plain, corrected, mass=corrected))
    return readings


@pytest.mark.parametrize("criterion", ["ndcg", "contrastive", "mass"])
def test_a_head_that_knows_is_chosen_and_its_gain_is_no_noise(criterion):
    found = find_heads(planted(40, 1), Choice(0, (0, 1, 2, 3), "softmax_of_mean", False), criterion, seed=0)
    assert found.choice == Choice(1, (2,), "softmax_of_mean", True)
    rows = {row.name: row for row in found.rows}
    assert rows["chosen"].ndcg.mean == pytest.approx(1)
    assert rows[IN_USE].gain.low > 0
    assert rows["this half's choice"].choice == found.choice
    assert found.heat[1][1, 2] == pytest.approx(1)


def test_halves_share_no_list_and_depend_on_the_seed_alone():
    readings = planted(41, 0.5)
    first, again, other = (find_heads(readings, None, "ndcg", seed) for seed in (0, 0, 1))
    assert (first.choosing, first.reporting) == (20, 21)
    assert first.numbers() == again.numbers() != other.numbers()


def test_where_nobody_knows_the_difference_is_noise():
    found = find_heads(planted(40, 0), Choice(0, (0, 1, 2, 3), "softmax_of_mean", False), "ndcg", seed=0)
    gain = {row.name: row for row in found.rows}[IN_USE].gain
    assert gain.low <= 0 <= gain.high


def told(mean, low, high):
    return Difference(mean, low, high, 1, 1, 1)


BETTER, WORSE, NOISE = told(0.2, 0.1, 0.3), told(-0.2, -0.3, -0.1), told(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ("in_use", "first_stage", "said"),
    [
        (BETTER, WORSE, "the first stage is better, beyond chance: do not use what was found"),
        (WORSE, WORSE, "the first stage is better, beyond chance: do not use what was found"),
        (
            BETTER,
            BETTER,
            "better than the layer and heads in use, beyond chance; better than the first stage, beyond chance",
        ),
        (
            WORSE,
            BETTER,
            "worse than the layer and heads in use, beyond chance: keep those; better than the first stage, beyond "
            "chance",
        ),
        (
            NOISE,
            NOISE,
            "these queries cannot tell it from the layer and heads in use (the interval holds 0): keep those; these "
            "queries cannot tell it from the first stage (the interval holds 0)",
        ),
        (
            None,
            BETTER,
            "the layer and heads in use are the best that was found; better than the first stage, beyond chance",
        ),
        ("not read", BETTER, "better than the first stage, beyond chance"),
    ],
)
def test_the_verdict_goes_by_what_is_in_use_and_by_the_first_stage(in_use, first_stage, said):
    gains = {IN_USE: in_use, FIRST_STAGE: first_stage}
    rows = [
        Row(name=name, choice=None, ndcg=Interval(0.5, 0.4, 0.6), gain=gain)
        for name, gain in gains.items()
        if gain != "not read"
    ]
    found = Detection(choice=Choice(0, (0,), "softmax_of_mean", False), rows=rows, heat={}, choosing=10, reporting=10)
    assert found.verdict() == said == found.numbers()["verdict"]


def test_all_heads_of_a_layer_stand_as_none_in_the_config():
    found = find_heads(planted(40, 1), None, "ndcg", seed=0)
    plain = replace(SETTINGS, reduction="softmax_of_mean")
    corrected = replace(plain, content_free_query="N/A")
    assert found.config(corrected) == replace(corrected, scoring_layer=1, heads=(2,))
    whole = replace(found, choice=Choice(0, (0, 1, 2, 3), "softmax_of_mean", False))
    assert whole.config(corrected) == replace(plain, scoring_layer=0, heads=None)


def test_shades_have_one_scale_for_all_heads():
    lines = shaded({0: np.array([[0.0, 0.5], [0.5, 1.0]]), 3: np.array([[1.0, 1.0], [0.0, 0.0]])}, "abc")
    assert lines == {0: ("ab", "bc"), 3: ("cc", "aa")}


# The command


def run(collection, llama, tmp_path, *more):
    options = ["--model", llama, "--device", "cpu", "--dtype", "float32", "--run", collection / "run.trec"]
    return main(["detect", *map(str, [collection, *options, "--output", tmp_path / "found.json", *more])])


def test_the_command_writes_settings_with_which_the_model_ranks(collection, llama, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs the extra report")
    assert run(collection, llama, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "chosen on 12 queries: layer" in shown
    assert "12 other queries" in shown
    assert "at the query's last 3 tokens" in shown
    assert "the first stage is better, beyond chance: do not use what was found" in shown.splitlines()[-1]
    config = BlockRankConfig.load(tmp_path / "found.json")
    assert config.prompt == QUERY_FREE
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    ranker = BlockRankReranker.from_pretrained(llama, config=tmp_path / "found.json", device="cpu")
    assert len(ranker.rank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    assert run(collection, llama, tmp_path, "--json") == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["choice"]["layer"] == config.scoring_layer
    assert numbers["choice"]["reduction"] == config.reduction
    assert numbers["choice"]["corrected"] == (config.content_free_query is not None)
    assert {row["name"] for row in numbers["rows"]} >= {"chosen", IN_USE, FIRST_STAGE}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--queries", "5"], "detect needs at least 20 queries whose candidates are relevant in part, got 5"),
        (["--criterion", "best"], "--criterion must be one of ndcg, contrastive, mass, got 'best'"),
        (["--output", "found.png"], "--output must be a file that ends in .json"),
        (["--content-free-query", " "], "content_free_query must have text"),
        (["--depth", "1"], "detect needs at least 20 queries whose candidates are relevant in part, got 0"),
    ],
)
def test_what_cannot_be_found_is_refused_in_one_line(collection, llama, tmp_path, capsys, more, said):
    assert run(collection, llama, tmp_path, *more) != 0
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize("name", ["blockrank_config.json", "config.json", "tokenizer_config.json"])
def test_files_of_the_model_are_not_replaced(collection, llama, tmp_path, capsys, name):
    before = (llama / name).read_bytes()
    assert run(collection, llama, tmp_path, "--output", llama / name) == ARGUMENTS
    assert f"the output would replace {llama / name}, which is read" in capsys.readouterr().err
    assert (llama / name).read_bytes() == before


def test_the_config_that_is_read_is_not_replaced(collection, llama, tmp_path, capsys):
    config = tmp_path / "blockrank_config.json"
    for given in (config, tmp_path):
        config.write_text(SETTINGS.to_json())
        assert run(collection, llama, tmp_path, "--config", given, "--output", config) == ARGUMENTS
        assert f"the output would replace {config}, which is read" in capsys.readouterr().err
        assert config.read_text() == SETTINGS.to_json()


def test_a_prompt_in_use_that_repeats_the_query_is_not_what_was_read(collection, llama, tmp_path, capsys):
    own = tmp_path / "own.json"
    for prompt, is_said in ((CONFIG.prompt, True), (QUERY_FREE, False)):
        own.write_text(replace(SETTINGS, prompt=prompt).to_json())
        assert run(collection, llama, tmp_path, "--config", own) == 0
        assert ("and not with that in use" in capsys.readouterr().out) is is_said


def test_a_model_that_was_cut_when_it_was_exported_says_so(collection, llama, tmp_path, capsys):
    BlockRankReranker.from_pretrained(llama, device="cpu", dtype="float32").save_pretrained(tmp_path / "cut")
    said = f"the model ends at layer {SETTINGS.scoring_layer}, the scoring layer with which it was exported"
    for folder, is_cut in ((tmp_path / "cut", True), (llama, False)):
        assert run(collection, folder, tmp_path) == 0
        assert (said in capsys.readouterr().out) is is_cut


@pytest.mark.parametrize(
    ("heads", "said"), [((0,), "head 0"), ((0, 2), "heads 0,2 alike"), ((0, 1, 2, 3), "all heads alike")]
)
def test_heads_of_the_choice_are_named_as_many_as_there_are(heads, said):
    found = replace(find_heads(planted(20, 1), None, "ndcg", seed=0), choice=Choice(1, heads, "softmax_of_mean", True))
    assert _all_heads(found.choice, found) == said


def test_a_model_with_a_trained_scoring_layer_is_refused(tmp_path):
    spec = spec_of(save_ranker(tmp_path, "bert", BERT_CONFIG))
    with pytest.raises(ValueError, match="detect looks for heads of a model's own layers"):
        LayerReader(spec, "N/A")


def test_windows_of_all_layers_that_hide_documents_are_refused_before_anything_is_read(
    collection, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("blockrank_rerank.cli.detect.TaskSource.read", None)
    folder = save_ranker(tmp_path / "model", "mistral-window", SETTINGS)
    assert run(collection, folder, tmp_path) != 0
    assert "no layer can be read: the sliding window of each hides documents" in capsys.readouterr().err


def changed(collection, folder, name, change):
    """The collection with one of its files' lines changed, by number and content."""
    shutil.copytree(collection, folder)
    lines = [json.loads(line) for line in (collection / name).read_text().splitlines()]
    texts = [line | {"text": change(number, line["text"])} for number, line in enumerate(lines)]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in texts))
    return folder


def test_a_query_that_cannot_be_read_is_named_before_anything_is_read(collection, llama, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("blockrank_rerank.finetune.detect.readings.Backbone.load", None)
    long = "sugar " * 200
    folder = changed(collection, tmp_path / "c", "queries.jsonl", lambda number, text: long if number == 20 else text)
    assert run(folder, llama, tmp_path) == BAD_DATA
    assert "query 'q20': query must have at most 128 tokens" in capsys.readouterr().err


def test_a_long_query_is_cut_where_that_is_asked_for(collection, llama, tmp_path, capsys):
    long = "sugar " * 200
    folder = changed(collection, tmp_path / "c", "queries.jsonl", lambda number, text: long if number == 20 else text)
    assert run(folder, llama, tmp_path, "--long-queries", "truncate") == 0
    assert "1 of 24 queries have more than the 128 tokens" in capsys.readouterr().err


def test_documents_that_are_cut_are_told_once(collection, llama, tmp_path, capsys):
    folder = changed(collection, tmp_path / "c", "corpus.jsonl", lambda number, text: text * (1 + 50 * (number == 5)))
    assert run(folder, llama, tmp_path) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "longer than a block" in line]
    assert "documents of 4 of 24 lists are longer than a block (max_document_tokens 64); their beginnings alone" in said


def test_queries_whose_candidates_are_all_alike_are_counted(collection, llama, tmp_path, capsys):
    lines = (collection / "run.trec").read_text().splitlines()
    fewer = [line for line in lines if not line.startswith(("q0 ", "q1 ")) or " Q0 d9 " in line]
    (tmp_path / "fewer.trec").write_text("\n".join(fewer) + "\n")
    assert run(collection, llama, tmp_path, "--run", tmp_path / "fewer.trec") == 0
    assert "2 of 24 queries are left out" in capsys.readouterr().err
