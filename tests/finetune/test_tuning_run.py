"""Tunings: learnt where the score is read, from lists that are read once, and measured on other queries."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.app import main as blockrank
from blockrank_rerank.cli.failures import ARGUMENTS
from blockrank_rerank.cli.finetune import _tuned_model, main
from blockrank_rerank.errors import DataError
from blockrank_rerank.finetune import TuneSettings, tune
from blockrank_rerank.finetune import learning as learning_module
from blockrank_rerank.finetune.frozen_lists import FrozenLists
from blockrank_rerank.finetune.held_out import HeldOut
from blockrank_rerank.finetune.learning import Learning
from blockrank_rerank.finetune.training_data import TrainingData
from blockrank_rerank.finetune.tuning_run import _drawn
from blockrank_rerank.model.scores import raw_score
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.model.tuning import Tuning
from tests.finetune.data_files import write_jsonl
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model

ROOT = Path(__file__).parents[2]
VALUES = {"documents_per_list": 4, "steps": 20, "lists_per_step": 4, "learning_rate": 0.05, "device": "cpu"}


def settings(model, data, output, **changes) -> TuneSettings:
    return TuneSettings(model=str(model), data=str(data), output=str(output), **VALUES | changes)


@pytest.fixture(scope="session")
def abstaining(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / "bert", "bert")
    replace(BERT_CONFIG, abstention=True).save(folder)
    ScoringHead(32).save(folder)
    return folder


def learning(model, data, **changes):
    chosen = settings(model, data, "t.safetensors", **changes)
    engine = BlockRankReranker.from_pretrained(model, dtype="float32", device="cpu").engine
    drawn, _ = _drawn(TrainingData.read(chosen.lists(), one_in=2), chosen)
    lists = FrozenLists(engine, drawn, 1 << 20)
    lists.read("lists")
    return Learning(engine, lists, chosen), lists


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_what_was_measured_is_what_a_ranker_with_the_tuning_has(kind, request, training_data, tmp_path):
    model = request.getfixturevalue(kind)
    chosen = settings(model, training_data, tmp_path / "t.safetensors", query_rank=2 if kind == "encoder" else 0)
    result = tune(chosen)
    data = TrainingData.read(chosen.lists(), one_in=2)
    plain = BlockRankReranker.from_pretrained(model, dtype="float32", device="cpu")
    tuned = BlockRankReranker.from_pretrained(model, dtype="float32", device="cpu", tuning=result.file)
    for measured, ranker in ((result.held_out.before, plain), (result.held_out.after, tuned)):
        expected = data.held_out.ndcg(ranker)
        assert {query: measured[query] for query in expected} == pytest.approx(expected, abs=1e-3)
    assert len(result.held_out.before) == len(data.held_out.queries) >= 18
    assert tuned.engine.fingerprint == plain.engine.fingerprint
    facts = Tuning.load(result.file).facts
    assert facts["name"] == "t"
    assert (facts["ndcg@10"]["before"], facts["ndcg@10"]["after"]) == result.held_out.means
    assert facts["queries"] == {"learnt": 20, "measured": len(result.held_out.before)}


def test_learning_lowers_the_loss_of_lists_that_it_does_not_learn_from(encoder, training_data):
    run, _ = learning(encoder, training_data)
    found, step = run.result()
    assert step > 0
    assert run._mean_loss(found) < run._mean_loss(run._start)
    assert not set(run._choosing) & set(run._learnt)


def test_a_tuning_that_only_does_harm_is_not_kept(encoder, training_data, monkeypatch):
    run, _ = learning(encoder, training_data)
    monkeypatch.setattr(run, "_loss", lambda query, tuning, loss=run._loss: -loss(query, tuning))
    mean_loss = run._mean_loss
    monkeypatch.setattr(run, "_mean_loss", lambda tuning: -mean_loss(tuning))
    found, step = run.result()
    assert step == 0
    assert all(not bool(tensor.any()) for tensor in found.tensors.values())


def test_probabilities_stay_on_the_scale_of_the_model(abstaining, training_data):
    run, lists = learning(abstaining, training_data)
    found, step = run.result()
    sharpness = run._engine.backbone.sharpness

    def odds(tuning):
        seen = [lists.lse(query, tuning) for query in lists.queries]
        raw = torch.cat([raw_score(lse.documents) - raw_score(lse.nothing[..., None]) for lse in seen])
        return sharpness * tuning.sharpness * raw

    before, after = odds(run._start), odds(found)
    assert step > 0
    assert not torch.allclose(before, after, atol=1e-3)
    assert after.mean() == pytest.approx(float(before.mean()), abs=1e-3)
    assert after.std() == pytest.approx(float(before.std()), abs=1e-3)


def test_the_same_settings_give_the_same_file(encoder, training_data, tmp_path):
    first, second = (tune(settings(encoder, training_data, tmp_path / name)).file for name in ("a.safetensors",) * 2)
    assert first == second
    again = tune(settings(encoder, training_data, tmp_path / "b.safetensors", cache="1KB")).file
    tensors = Tuning.load(first).tensors
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in Tuning.load(again).tensors.items())


def test_lists_that_rank_nothing_are_left_out(encoder):
    engine = BlockRankReranker.from_pretrained(encoder, dtype="float32", device="cpu").engine
    drawn = HeldOut(
        {"q0": "sugar", "q1": "blood"}, {"q0": {"a": 1, "b": 1}, "q1": {"a": 1, "b": 0}}, {"a": "x", "b": "y"}
    )
    assert [*FrozenLists(engine, drawn, 1000).queries] == ["blood"]


def test_documents_that_are_cut_are_told(encoder):
    engine = BlockRankReranker.from_pretrained(encoder, dtype="float32", device="cpu").engine
    drawn = HeldOut({"q0": "sugar"}, {"q0": {"a": 1, "b": 0}}, {"a": "sugar " * 400, "b": "y"})
    with pytest.warns(UserWarning, match="documents of 1 lists are longer than the model's blocks"):
        FrozenLists(engine, drawn, 1000).read("lists")


def test_a_tuning_is_of_the_settings_that_it_will_be_used_with(decoder, training_data, tmp_path):
    other = replace(CONFIG, prompt=CONFIG.prompt.without_query(), heads=(1,), signal_tokens="all")
    (tmp_path / "other.json").write_text(other.to_json())
    file = tune(settings(decoder, training_data, tmp_path / "t.safetensors", config=str(tmp_path / "other.json"))).file
    assert Tuning.load(file).tensors["head_weight"].shape == (1,)
    with pytest.raises(ValueError, match="was made for another model than"):
        BlockRankReranker.from_pretrained(decoder, dtype="float32", tuning=file).rank("sugar", ["sugar"])
    tuned = BlockRankReranker.from_pretrained(decoder, dtype="float32", config=other, tuning=file, cache="1MB")
    assert tuned.rank("sugar", ["sugar", "blood"])


def test_the_example_runs_in_a_clone_on_what_ships(encoder, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "examples/tune_domain.yaml", f"model={encoder}", "steps=2", "documents_per_list=3"]) == 0
    assert Tuning.load(tmp_path / "tune_domain.safetensors").facts["queries"] == {"learnt": 20, "measured": 20}


# Bad input


def few(path, count):
    rows = [{"query": f"what is {n}", "pos": [f"{n} is it"], "neg": ["nothing"]} for n in range(count)]
    return write_jsonl(path, rows)


ADD = "add queries to the data, of which at most every second one is measured on"


@pytest.mark.parametrize(
    ("count", "changes", "got", "advice"),
    [
        (5, {}, "5 and 0", ADD),
        (19, {}, "19 and 0", ADD),
        (5, {"queries": 4}, "4 and 0", f"raise queries, and {ADD}"),
        (60, {"queries": 9}, "9 and 30", "raise queries"),
        (60, {"held_out": 9}, "51 and 9", "raise held_out"),
        (60, {"queries": 9, "held_out": 9}, "9 and 9", "raise queries, and raise held_out"),
    ],
)
def test_too_few_queries_are_refused_before_a_model_is_loaded(
    encoder, tmp_path, count, changes, got, advice, monkeypatch
):
    monkeypatch.setattr("blockrank_rerank.engine.shared.SharedEngine.get", None)
    data = few(tmp_path / "few.jsonl", count)
    message = f"a tuning needs at least 10 queries to learn from and 10 to measure on, .*, got {got}: {advice}$"
    with pytest.raises(ValueError, match=message):
        tune(settings(encoder, data, tmp_path / "t.safetensors", **changes))


def test_a_query_that_cannot_be_read_is_named_before_a_model_is_loaded(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("blockrank_rerank.engine.shared.SharedEngine.get", None)
    rows = [{"query": f"what is {n}", "pos": [f"{n} is it"], "neg": ["nothing"]} for n in range(60)]
    rows[41]["query"] = "sugar " * 2000
    data = write_jsonl(tmp_path / "long.jsonl", rows)
    with pytest.raises(DataError, match=r"long\.jsonl:42: query must have at most \d+ tokens"):
        tune(settings(encoder, data, tmp_path / "t.safetensors"))


def test_a_window_that_hides_documents_is_refused_before_data_is_read(training_data, tmp_path, monkeypatch):
    model = save_model(tmp_path / "model", "mistral-window")
    CONFIG.save(model)
    monkeypatch.setattr(TrainingData, "read", None)
    with pytest.raises(ValueError, match=r"^scoring_layer 2 .*window"):
        tune(settings(model, training_data, tmp_path / "t.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "tuning"}, "output must be a file that ends in .safetensors, got "),
        ({"queries": 0}, "queries must be positive, got 0"),
        ({"held_out": 0}, "held_out must be positive, got 0"),
        ({"query_rank": -1}, "query_rank must be 0 or more, got -1"),
        ({"query_rank": 10_000}, "query_rank must be at most 4,096, got 10000"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"documents_per_list": 1}, "documents_per_list must be at least 2"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TuneSettings(**{"output": "t.safetensors", "data": "d.jsonl", **changes})


def test_weights_of_the_model_are_not_replaced(decoder, encoder, training_data):
    for file in (decoder / "model.safetensors", encoder / "scoring_head.safetensors"):
        before = file.read_bytes()
        with pytest.raises(ValueError, match="the output would replace"):
            tune(settings(file.parent, training_data, file))
        assert file.read_bytes() == before


def test_settings_of_a_training_that_a_tuning_has_not_are_named(capsys):
    assert main(["tune", "output=t.safetensors", "data=d.jsonl", "lora_rank=4"]) == ARGUMENTS
    assert "unknown settings lora_rank; " in capsys.readouterr().err


def test_a_decoder_has_no_projection_to_change(decoder, training_data, tmp_path):
    with pytest.raises(ValueError, match=r"query_rank must be 0 for .*, which has no appended scoring layer, got 2"):
        tune(settings(decoder, training_data, tmp_path / "t.safetensors", query_rank=2))


def test_a_loss_that_is_not_finite_stops_with_what_to_do(encoder, training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(learning_module, "contrastive", lambda logits, grades: logits.sum() * math.nan)
    with pytest.raises(FloatingPointError, match=r"the loss became .* lower learning_rate"):
        tune(settings(encoder, training_data, tmp_path / "t.safetensors"))
    assert not (tmp_path / "t.safetensors").exists()


def test_the_command_prints_settings_measures_and_what_to_do_next(encoder, training_data, tmp_path, capsys):
    file = tmp_path / "t.safetensors"
    words = [f"{name}={value}" for name, value in VALUES.items()]
    assert main(["tune", f"model={encoder}", f"data={training_data}", f"output={file}", *words]) == 0
    printed = capsys.readouterr().out
    assert "query_rank: 0" in printed
    assert " held-out queries (difference " in printed
    assert f"written to {file}: use it with --model {encoder} --tuning {file}\n" in printed
    learnt = Tuning.load(file).facts["queries"]["learnt"]
    assert f"learnt from {learnt} queries (200 asked)\n" in printed
    file.unlink()
    assert main(["tune", f"data={training_data}", f"output={file}", "--dry-run"]) == 0
    assert not file.exists()
    assert "queries: 200" in capsys.readouterr().out


def test_the_options_that_the_command_prints_take_its_tuning(decoder, training_data, tmp_path, capsys):
    other = replace(CONFIG, prompt=CONFIG.prompt.without_query(), scoring_layer=2)
    config, file = tmp_path / "my settings.json", tmp_path / "t.safetensors"
    config.write_text(other.to_json())
    changes = VALUES | {"queries": 10, "config": config, "scoring_layer": 1, "bf16": True}
    words = [f"{name}={value}" for name, value in changes.items()]
    assert main(["tune", f"model={decoder}", f"data={training_data}", f"output={file}", *words]) == 0
    printed = capsys.readouterr().out
    assert "learnt from 10 queries\n" in printed
    options = shlex.split(printed.rpartition("use it with ")[2])
    assert options == [
        *("--model", str(decoder), "--config", str(config), "--scoring-layer", "1"),
        *("--dtype", "bfloat16", "--tuning", str(file)),
    ]
    (tmp_path / "documents.txt").write_text("sugar\nblood\n")
    assert blockrank(["rerank", "sugar", str(tmp_path / "documents.txt"), "--device", "cpu", *options]) == 0


def test_the_default_model_needs_no_option_but_its_tuning():
    chosen = TuneSettings(output="t.safetensors", data="d.jsonl")
    assert _tuned_model(chosen, Path("t.safetensors")) == "--tuning t.safetensors"
