"""Queries that are held out of the training data: chosen, measured before and after, and shown."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune import FinetuneSettings, finetune, training_run
from blockrank_rerank.finetune.batches import TrainingLists
from blockrank_rerank.finetune.data import Candidate, TrainingExample
from blockrank_rerank.finetune.held_out import HeldOut, HeldOutMeasures, held_out_keys
from blockrank_rerank.finetune.run_plot import write_plot
from blockrank_rerank.finetune.training_data import TrainingData
from blockrank_rerank.finetune.training_run import TrainingRun
from tests.finetune.data_files import write_folder, write_jsonl
from tests.finetune.runs import arguments, settings
from tests.tiny_models import WORDS

ROOT = Path(__file__).parents[2]
RECIPES = [
    "default_model/default_model.yaml",
    "default_model/default_model_distilled.yaml",
    "default_model/default_model_calibrated.yaml",
    "ensemble/train.yaml",
    "ensemble/calibrate.yaml",
]


@pytest.fixture(scope="module")
def enough(tmp_path_factory) -> Path:
    """100 queries of three words, each in two rows."""
    generator = random.Random(1)
    queries: set[str] = set()
    while len(queries) < 100:
        queries.add(" ".join(generator.sample(WORDS, 3)))
    rows = [
        {"query": query, "pos": [f"{query} {number}"], "neg": [" ".join(generator.choices(WORDS, k=6))] * (1 + number)}
        for query in sorted(queries)
        for number in range(2)
    ]
    return write_jsonl(tmp_path_factory.mktemp("enough") / "train.jsonl", rows)


def examples(*queries: str) -> list[TrainingExample]:
    return [TrainingExample(query, (Candidate(f"about {query}", 1.0),), "made up") for query in queries]


def numbered(name: str, count: int) -> list[TrainingExample]:
    return examples(*(f"{name} {number}" for number in range(count)))


def queries_of(collections) -> set[str]:
    return {example.query for collection in collections for example in collection}


@pytest.mark.parametrize(
    ("sizes", "most", "count"), [([99], 40, 0), ([100], 40, 10), ([1000], 40, 40), ([1000], 5, 5), ([1000], 0, 0)]
)
def test_one_query_in_ten_is_held_out_and_none_where_that_is_too_few(sizes, most, count):
    assert len(held_out_keys([numbered("q", size) for size in sizes], most, 0)) == count


def test_no_small_collection_is_held_out_beside_a_large_one():
    held = held_out_keys([numbered("large", 400), numbered("small", 9)], 40, 0)
    assert len(held) == 40
    assert not any(key.startswith("small") for key in held)


def test_a_query_is_held_out_of_every_collection_and_spelling(tmp_path):
    rows = [{"query": f"what is {n}", "pos": [f"{n} is it"], "neg": ["nothing"]} for n in range(100)]
    first = write_jsonl(tmp_path / "a.jsonl", rows)
    second = write_jsonl(tmp_path / "b.jsonl", [row | {"query": row["query"].replace(" ", "  ")} for row in rows])
    data = TrainingData.read(settings("default", [], "out").with_changes(data=[str(first), str(second)]))
    held = set(data.held_out.queries.values())
    assert len(held) == 10
    assert not held & {" ".join(query.split()) for query in queries_of(data.trained)}
    assert [*map(len, data.trained)] == [90, 90]


def test_another_seed_holds_other_queries_out_and_the_same_one_the_same(enough):
    first, second, other = (
        TrainingData.read(settings("default", enough, "out", seed=seed)).held_out for seed in (1, 1, 2)
    )
    assert first == second
    assert set(first.queries.values()) != set(other.queries.values())


def test_nothing_is_held_out_where_there_is_an_evaluation_or_it_is_set_to_0(enough, tmp_path):
    folder = write_folder(tmp_path / "dev", split="dev")
    for changes in ({"held_out": 0}, {"evaluation": [str(folder)]}):
        data = TrainingData.read(settings("default", enough, "out", **changes))
        assert data.held_out is None
        assert len(data.trained[0]) == len(data.collections[0]) == 200


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_of_the_default_model_train_on_everything(name):
    assert FinetuneSettings.read(ROOT / "recipes" / name, {}).held_out == 0


def test_lists_that_are_held_out_are_as_long_as_those_of_training_and_hold_every_grade():
    collection = [
        TrainingExample("q", (Candidate("best", 3.0), Candidate("good", 0.7), Candidate("bad", 0.0)), "made up"),
        *numbered("other", 20),
    ]
    asked = settings("default", "data", "out", documents_per_list=8)
    held_out = HeldOut.draw([collection], frozenset(["q"]), asked)
    assert sorted(held_out.qrels["q0"].values()) == [0, 0, 0, 0, 0, 0, 1, 3]
    assert {"best", "good", "bad"} < set(held_out.corpus.values())


def test_a_run_measures_before_and_after_on_queries_that_it_never_trains_on(
    encoder, enough, tmp_path, monkeypatch, capsys
):
    asked, draw = set(), TrainingLists.__getitem__

    def noted(self, index):
        drawn = draw(self, index)
        asked.add(drawn.query)
        return drawn

    monkeypatch.setattr(TrainingLists, "__getitem__", noted)
    changes = {"steps": 30, "lists_per_step": 4, "learning_rate": 5e-3}
    assert main(["train", *arguments(encoder, enough, tmp_path / "out", **changes)]) == 0
    measures = HeldOutMeasures(**json.loads((tmp_path / "out.training/held_out.json").read_text()))
    assert len(measures.before) == 10
    assert len(asked) > 50
    assert not asked & measures.before.keys()
    held_out = TrainingData.read(settings(encoder, enough, "out", documents_per_list=4)).held_out
    for folder, values in ((encoder, measures.before), (tmp_path / "out", measures.after)):
        ranker = BlockRankReranker.from_pretrained(folder, dtype="float32")
        assert held_out.ndcg(ranker) == pytest.approx(values)
    assert measures.before != measures.after
    assert measures.line() in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert measures.line() in card
    assert "Not measured" not in card


def test_a_resumed_run_holds_the_same_queries_out_and_measures_the_start_once(encoder, enough, tmp_path, monkeypatch):
    changes = {"steps": 4, "save_every": 2, "lists_per_step": 2}
    whole = finetune(settings(encoder, enough, tmp_path / "whole", **changes))
    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_write", lambda *ignored: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(settings(encoder, enough, tmp_path / "cut", **changes))
    (tmp_path / "cut.training/checkpoint-4/complete").unlink()
    measured, measure = [], HeldOut.ndcg
    monkeypatch.setattr(HeldOut, "ndcg", lambda self, ranker: measured.append(1) or measure(self, ranker))
    cut = finetune(settings(encoder, enough, tmp_path / "cut", **changes), resume=True)
    assert len(measured) == 1
    assert cut.held_out == whole.held_out
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_run_whose_data_is_too_small_says_that_nothing_is_held_out(encoder, training_data, tmp_path, capsys):
    result = finetune(settings(encoder, training_data, tmp_path / "out", steps=1))
    assert result.held_out is None
    assert capsys.readouterr().out.count("nothing is held out to measure before and after: the data has too few") == 1
    assert "Not measured" in (tmp_path / "out/README.md").read_text()


def test_the_line_of_a_run_has_both_means_the_interval_and_the_number_of_queries():
    measures = HeldOutMeasures({"a": 0.0, "b": 0.5}, {"b": 1.0, "a": 0.5})
    assert measures.line() == (
        "nDCG@10 0.2500 -> 0.7500 on 2 held-out queries (difference +0.5000, 95 % interval +0.5000 to +0.5000)"
    )


def test_a_run_leaves_a_plot_beside_its_card(encoder, training_data, tmp_path, monkeypatch):
    image = pytest.importorskip("matplotlib.image")
    monkeypatch.setattr(training_run, "write_plot", write_plot)
    finetune(settings(encoder, training_data, tmp_path / "out", steps=10))
    height, width, _ = image.imread(tmp_path / "out/training.png").shape
    assert width > height > 300
    write_plot(tmp_path / "two.png", [{"step": 1, "loss": 2.0}], [(0, 0.5), (10, 0.7)])
    assert image.imread(tmp_path / "two.png").shape[1] == 2 * width


def test_without_matplotlib_one_line_says_which_extra_brings_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_plot(tmp_path / "plot.png", [{"step": 1, "loss": 2.0}], [])
    assert not (tmp_path / "plot.png").exists()
    shown = capsys.readouterr().out
    assert shown.startswith("the plot of a run needs matplotlib, which cannot be imported; ")
    assert "[report]" in shown
    assert shown.count("\n") == 1
