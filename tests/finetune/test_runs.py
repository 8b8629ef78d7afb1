"""Whole runs: what earlier ones leave, what several passes or processes share, what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.finetune import EvaluationSource, FinetuneSettings, finetune
from blockrank_rerank.finetune.averaging import check_average
from blockrank_rerank.finetune.batches import TrainingLists
from blockrank_rerank.finetune.evaluation_sets import evaluation_names
from blockrank_rerank.finetune.run_folder import RunFolder
from blockrank_rerank.finetune.settings import SETTINGS_NAME
from blockrank_rerank.finetune.trainer import ListTrainer, training_arguments
from blockrank_rerank.finetune.training_model import TrainingModel
from blockrank_rerank.finetune.training_run import TrainingRun
from blockrank_rerank.formats import DataError
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.scores import Lse
from tests.finetune.data_files import write_folder
from tests.finetune.runs import logs, losses_of, settings
from tests.tiny_models import BERT_CONFIG, CONFIG, save_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A decoder whose embeddings are its language-model head."""
    folder = save_model(tmp_path_factory.mktemp("tied"), "llama", tie_word_embeddings=True)
    CONFIG.save(folder)
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_tied_embeddings_are_saved_and_resumed(tied, training_data, tmp_path, lora_rank, monkeypatch):
    changes = {"language_model_weight": 1.0, "temperature": 0.05, "lora_rank": lora_rank, "steps": 6, "save_every": 3}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finetune(settings(tied, training_data, whole, **changes))
    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_write", lambda *ignored: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(settings(tied, training_data, cut, **changes))
    (tmp_path / "cut.training/checkpoint-6/complete").unlink()
    finetune(settings(tied, training_data, cut, **changes), resume=True)
    assert weights(cut).keys() == weights(whole).keys()
    assert all(torch.equal(tensor, weights(cut)[name]) for name, tensor in weights(whole).items())
    assert BlockRankReranker.from_pretrained(whole).rank("who", ["who", "what"])


def test_a_new_run_takes_over_no_measures_of_one_that_never_came_to_weights(encoder, training_data, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    (work / "before.json").write_text('{"mean_ndcg@10": 1.0}')
    (work / "evaluations.jsonl").write_text('{"step": 1, "mean_ndcg@10": 1.0}\n')
    result = finetune(settings(encoder, training_data, tmp_path / "out", steps=1))
    assert result.before == {}
    assert not (work / "evaluations.jsonl").exists()


def test_the_best_weights_of_an_interrupted_run_are_never_deleted(encoder, training_data, tmp_path):
    best = tmp_path / "out.training/best"
    best.mkdir(parents=True)
    (best / "model.safetensors").write_text("hours of work")
    with pytest.raises(FileExistsError, match=r"an interrupted run is in .*; go on with --resume, or remove it"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1))
    assert (best / "model.safetensors").read_text() == "hours of work"


def test_a_run_without_checkpoints_leaves_nothing_that_is_in_the_way(encoder, training_data, tmp_path):
    asked = settings(encoder, training_data, tmp_path / "out", steps=1, save_every=0)
    for attempt in range(2):
        finetune(asked)
        (tmp_path / "out").rename(tmp_path / str(attempt))


def test_a_finished_run_has_nothing_to_resume(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", steps=1))
    with pytest.raises(FileExistsError, match=r"the run has finished, and its result is in .*out"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1), resume=True)


def test_what_a_finished_run_leaves_is_not_called_interrupted(encoder, training_data, tmp_path):
    asked = settings(encoder, training_data, tmp_path / "out", steps=1)
    finetune(asked)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="holds the checkpoints of a run that has finished"):
            finetune(asked, resume=resume)


def test_a_resumed_run_with_other_settings_names_them(encoder, training_data, tmp_path):
    work = tmp_path / "out.training"
    work.mkdir()
    (work / "finetune_settings.yaml").write_text(settings(encoder, training_data, tmp_path / "out").to_yaml())
    with pytest.raises(ValueError, match=r"differ .*: steps, learning_rate; resume with the same"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=31, learning_rate=0.1), resume=True)


def test_a_link_to_a_folder_stays_a_link(encoder, training_data, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    finetune(settings(encoder, training_data, tmp_path / "link", steps=1))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/model.safetensors").exists()


@pytest.fixture
def partly_scored(training_data, tmp_path):
    """Only the first two other documents of a list have teacher scores."""
    rows = [json.loads(line) for line in training_data.read_text().splitlines()]
    for row in rows:
        row["neg"], row["neg_scores"] = row["neg"][:2], row["neg_scores"][:2]
    path = tmp_path / "partly.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lists_that_are_filled_up_at_random_are_distilled_too(encoder, partly_scored, tmp_path):
    changes = {"documents_per_list": 12, "distillation_weight": 1.0, "contrastive_weight": 0.0, "steps": 10}
    finetune(settings(encoder, partly_scored, tmp_path / "out", **changes))
    assert logs(tmp_path / "out.training", 10)[0]["distillation"] > 0


def test_distillation_without_any_teacher_score_is_refused(encoder, training_data, tmp_path):
    rows = [json.loads(line) for line in training_data.read_text().splitlines()]
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({k: row[k] for k in ("query", "pos", "neg")}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="distillation_weight needs teacher scores, and the data has none"):
        finetune(settings(encoder, plain, tmp_path / "out", distillation_weight=0.5))
    scored = [row | {"neg_scores": [None] * len(row["neg"])} for row in rows]
    plain.write_text("".join(json.dumps(row) + "\n" for row in scored))
    with pytest.raises(ValueError, match="distillation_weight needs teacher scores"):
        finetune(settings(encoder, plain, tmp_path / "out", distillation_weight=0.5))


@pytest.fixture
def training_model(encoder):
    return TrainingModel.load(Checkpoint(model=str(encoder)), BERT_CONFIG, settings(encoder, "d", "o"))


def test_the_spread_is_that_of_documents_alone(training_model):
    flat, alone = Lse(torch.zeros(2, 1, 4)), Lse(torch.zeros(2, 1, 1))
    assert training_model._spread([flat]) == 0
    assert training_model._spread([flat, alone]) == 0
    assert training_model._spread([alone]) == float("inf")
    assert training_model._spread([Lse(flat.documents, nothing=torch.full((2, 1), 7.0))]) == 0


@pytest.mark.parametrize("changes", [{}, {"language_model_weight": 1.0, "contrastive_weight": 0.0}])
def test_passes_that_are_accumulated_give_the_gradients_of_one(decoder, training_data, tmp_path, changes):
    rows = [json.loads(line) for line in training_data.read_text().splitlines()]
    for number, row in enumerate(rows):  # answers of different length
        row["pos"], row["neg"] = row["pos"] + row["neg"][: number % 3], row["neg"][number % 3 :]
        del row["pos_scores"], row["neg_scores"]
    data = tmp_path / "uneven.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    norms = []
    for name, lists, passes in (("one", 4, 1), ("two", 2, 2), ("four", 1, 4)):
        asked = settings(decoder, data, tmp_path / name, steps=1, lists_per_step=lists, accumulation=passes, **changes)
        finetune(asked)
        norms.append(logs(tmp_path / f"{name}.training", 1)[0]["grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


def test_starting_weights_are_mixed_with_what_adapters_make_of_them(decoder, training_data, tmp_path):
    changes = {"lora_rank": 4, "learning_rate": 0.01, "steps": 5, "temperature": 0.05}
    for name, share in (("whole", 0.0), ("half", 0.5)):
        finetune(settings(decoder, training_data, tmp_path / name, base_share=share, **changes))
    start, whole, half = weights(decoder), weights(tmp_path / "whole"), weights(tmp_path / "half")
    name = next(name for name in half if "q_proj" in name)
    first = next(tensor for key, tensor in start.items() if key.endswith(name.removeprefix("model.")))
    assert not torch.equal(whole[name], first)
    torch.testing.assert_close(half[name], (whole[name] + first) / 2)


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_mean_of_checkpoints_is_the_mean_of_the_last_ones_weights(
    decoder, training_data, tmp_path, lora_rank, last
):
    changes = {"learning_rate": 0.01, "steps": 4, "temperature": 0.05, "lora_rank": lora_rank}
    finetune(
        settings(decoder, training_data, tmp_path / "mean", save_every=2, average_last=last, base_share=0.5, **changes)
    )
    start = TrainingModel.load(Checkpoint(model=str(decoder)), CONFIG, settings(decoder, "d", "o")).weights()
    parts = []
    for step in (2, 4)[-last:]:
        model = TrainingModel.load(Checkpoint(model=str(decoder)), CONFIG, settings(decoder, "d", "o", **changes))
        model.load_weights(load_file(tmp_path / f"mean.training/checkpoint-{step}/model.safetensors"))
        parts.append(model.merged().weights())
    for name, tensor in weights(tmp_path / "mean").items():
        mean = sum(part[f"network.{name}"] for part in parts) / last
        torch.testing.assert_close(tensor, (mean + start[f"network.{name}"]) / 2)


def test_lists_are_drawn_in_the_order_of_their_numbers_and_a_resumed_run_goes_on_with_the_next(
    encoder, training_data, tmp_path, monkeypatch
):
    drawn, draw = [], TrainingLists.__getitem__
    monkeypatch.setattr(TrainingLists, "__getitem__", lambda self, index: (drawn.append(index), draw(self, index))[1])
    asked = settings(encoder, training_data, tmp_path / "out", steps=4, save_every=2, lists_per_step=2)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "_write", lambda *ignored: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(asked)
    assert drawn == [*range(8)]
    (tmp_path / "out.training/checkpoint-4/complete").unlink()
    drawn.clear()
    finetune(asked, resume=True)
    assert drawn[-4:] == [*range(4, 8)]
    assert set(drawn) <= {*range(8)}


def test_averaging_more_checkpoints_than_there_will_be_is_refused(encoder, training_data, tmp_path):
    with pytest.raises(
        ValueError, match="average_last=3 needs as many checkpoints, and save_every=20 of 30 steps makes 2"
    ):
        finetune(settings(encoder, training_data, tmp_path / "out", average_last=3, save_every=20))


@pytest.mark.parametrize(
    "path",
    [
        *ROOT.glob("recipes/default_model/*.yaml"),
        ROOT / "recipes/ensemble/train.yaml",
        *ROOT.glob("examples/finetune*.yaml"),
    ],
    ids=lambda path: path.name,
)
def test_the_recipes_of_the_project_make_the_checkpoints_that_they_average(path):
    check_average(FinetuneSettings.read(path, {}))


def test_weights_that_exploded_in_the_last_step_are_not_delivered(encoder, training_data, tmp_path):
    asked = settings(
        encoder, training_data, tmp_path / "out", learning_rate=1e38, max_grad_norm=1e38, steps=1, warmup_share=0.0
    )
    with pytest.raises(FloatingPointError, match="the weights became non-finite in network"):
        finetune(asked)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.training").glob("checkpoint-*/complete"))


def test_collections_of_one_folder_are_named_by_their_split():
    asked = (("/data/a", "dev"), ("/data/a", "test"), ("/data/b", "test"))
    sources = [EvaluationSource(path=path, split=split) for path, split in asked]
    assert evaluation_names(sources) == ["/data/a (dev)", "/data/a (test)", "/data/b"]


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (RuntimeError("unexpected pos 146112 vs 146000"), 0),
        (OSError(errno.ENOSPC, "No space left on device"), 1 << 30),
        (SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})"), 1 << 30),
    ],
    ids=["torch", "system", "safetensors"],
)
def test_a_full_disk_is_named(error, free, encoder, training_data, tmp_path, monkeypatch):
    def fail(*ignored, **also_ignored):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))
    with pytest.raises(OSError, match=r"the disk of .* is full.*go on with --resume"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1))


def test_short_runs_show_their_losses_too(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", steps=3, save_every=3))
    assert len(losses_of(tmp_path / "out.training", 3)) == 1


@pytest.mark.parametrize(("family", "query"), [("encoder", "liver " * 400), ("decoder", "\N{GRINNING FACE}" * 90)])
def test_a_query_that_the_model_cannot_read_is_named_before_a_model_is_read(
    request, training_data, tmp_path, family, query, monkeypatch
):
    rows = training_data.read_text().splitlines()
    rows[2] = json.dumps(json.loads(rows[2]) | {"query": query})
    data = tmp_path / "long.jsonl"
    data.write_text("\n".join(rows) + "\n")
    model = request.getfixturevalue(family)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModel, "load", None)
        asked = settings(model, data, tmp_path / "out")
        with pytest.raises(DataError, match=r'long\.jsonl:3: query must have at most \d+ tokens.*long_queries="trunc'):
            finetune(asked)
    with pytest.warns(UserWarning, match=r"^1 of 40 queries have more than .*long\.jsonl:3$"):
        finetune(settings(model, data, tmp_path / "out", steps=2, long_queries="truncate"))
    assert "long_queries: truncate\n" in (tmp_path / "out/finetune_settings.yaml").read_text()


def test_a_window_that_hides_documents_is_refused_before_data_is_read(training_data, tmp_path, monkeypatch):
    model = save_model(tmp_path / "model", "mistral-window")
    CONFIG.save(model)
    monkeypatch.setattr("blockrank_rerank.finetune.training_data.TrainingData.read", None)
    with pytest.raises(ValueError, match=r"^scoring_layer 2 .*window"):
        finetune(settings(model, training_data, tmp_path / "out"))


@pytest.fixture
def interrupted(encoder, training_data, tmp_path, monkeypatch):
    """Settings of a run that ended after its last checkpoint, with a model and data of its own."""
    model, data = shutil.copytree(encoder, tmp_path / "model"), tmp_path / "data.jsonl"
    shutil.copy(training_data, data)
    asked = settings(model, data, tmp_path / "out", steps=4, save_every=2)

    def cut(*arguments):
        raise RuntimeError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "_write", cut)
        with pytest.raises(RuntimeError, match="cut"):
            finetune(asked)
    return asked


def test_a_resumed_run_with_what_it_began_with_goes_on(interrupted):
    assert finetune(interrupted, resume=True).folder.is_dir()


@pytest.mark.parametrize("changed", ["data", "model", "processes"])
def test_a_resumed_run_refuses_what_has_changed_since_it_began(interrupted, changed, monkeypatch):
    if changed == "data":
        data = Path(interrupted.data[0].path)
        data.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))
    elif changed == "model":
        config = Path(interrupted.model) / "blockrank_config.json"
        config.write_text(config.read_text() + "\n")
    else:
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=rf"has changed: {changed}; put it back, or begin anew"):
        finetune(interrupted, resume=True)


@pytest.fixture
def measured(encoder, training_data, tmp_path):
    """Settings of a run that is measured on a collection, in which document d0 answers query q0."""
    rows = [json.loads(line) for line in training_data.read_text().splitlines()]
    queries = {f"q{number}": row["query"] for number, row in enumerate(rows[:3])}
    documents = {f"d{number}": row["pos"][0] for number, row in enumerate(rows)}
    folder = write_folder(tmp_path / "dev", documents, queries, [("q0", "d0", 1)], split="dev")
    return settings(
        encoder, training_data, tmp_path / "out", steps=4, save_every=2, evaluation=({"path": str(folder)},)
    )


def cut_run(asked, monkeypatch, owner, method):
    """Run until a method is called."""

    def cut(*arguments, **keywords):
        raise RuntimeError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, cut)
        with pytest.raises(RuntimeError, match="cut"):
            finetune(asked)


def test_a_resumed_run_refuses_other_queries_to_measure_on(measured, monkeypatch):
    cut_run(measured, monkeypatch, TrainingRun, "_write")
    judgements = Path(measured.evaluation[0].path, "qrels/dev.tsv")
    before = judgements.read_text()
    judgements.write_text("q0\td1\t1\n")
    with pytest.raises(ValueError, match=r"has changed: evaluation; put it back, or begin anew"):
        finetune(measured, resume=True)
    judgements.write_text(before)
    assert finetune(measured, resume=True).folder.is_dir()


def test_a_run_that_begins_anew_measures_the_start_anew(measured, monkeypatch):
    cut_run(measured, monkeypatch, ListTrainer, "train")
    record = Path(f"{measured.output}.training/before.json")
    expected = json.loads(record.read_text())
    record.write_text(json.dumps(dict.fromkeys(expected, 0.123)))
    with pytest.warns(UserWarning, match="the run begins anew"):
        assert finetune(measured, resume=True).before == expected


def test_checkpoints_are_deleted_by_their_steps_and_not_by_the_times_of_a_copy(measured, monkeypatch):
    asked = measured.with_changes(evaluation=(), average_last=3, save_every=1)
    cut_run(asked.with_changes(steps=3), monkeypatch, TrainingRun, "_write")
    work = Path(f"{measured.output}.training")
    (work / SETTINGS_NAME).write_text(asked.to_yaml())
    for age, step in enumerate((1, 2, 3)):
        os.utime(work / f"checkpoint-{step}", (1000 - 10 * age, 1000 - 10 * age))
    finetune(asked, resume=True)
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_what_is_left_of_a_checkpoint_that_was_being_deleted_counts_as_none(interrupted, monkeypatch):
    folder = RunFolder(interrupted.output)
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **keywords: None)
    folder.delete_old(1)
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-4"]


def test_a_resumed_run_without_a_whole_checkpoint_says_that_it_begins_anew(interrupted):
    for mark in Path(f"{interrupted.output}.training").glob("checkpoint-*/complete"):
        mark.unlink()
    with pytest.warns(UserWarning, match=r"no checkpoint in .*out\.training is complete: the run begins anew"):
        finetune(interrupted, resume=True)


def test_an_output_that_is_a_file_is_refused(encoder, training_data):
    with pytest.raises(NotADirectoryError, match=r"output is to be a folder, got the file .*train\.jsonl"):
        finetune(settings(encoder, training_data, training_data))


def test_others_may_read_the_weights_as_they_may_the_config(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", steps=1))
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert modes["model.safetensors"] == modes["scoring_head.safetensors"] == modes["config.json"]


def test_one_process_takes_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    asked = FinetuneSettings(output="out", data="data", lists_per_step=4)
    taken = training_arguments(asked, tmp_path)
    assert (taken.n_gpu, taken.train_batch_size) == (1, 4)
