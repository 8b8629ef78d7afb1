"""Runs that learn, resume, stop, and refuse."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.cli.failures import RUN_TIME
from blockrank_rerank.cli.finetune import main
from blockrank_rerank.finetune import FinetuneSettings, finetune
from blockrank_rerank.finetune import trainer as trainer_module
from blockrank_rerank.finetune.run_folder import COMPLETE
from blockrank_rerank.model.checkpoint import Checkpoint
from tests.finetune.runs import arguments, logs, losses_of, settings
from tests.tiny_models import WORDS


def accuracy(ranker: BlockRankReranker, data: Path) -> float:
    """Share of the training queries whose relevant document comes first."""
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rankings = ranker.rank_batch([(row["query"], row["pos"] + row["neg"]) for row in rows])
    return sum(ranking[0].index == 0 for ranking in rankings) / len(rows)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("encoder", {}),
        ("encoder", {"abstention_weight": 0.2, "empty_share": 0.2, "distillation_weight": 0.5, "bf16": True}),
        ("decoder", {"temperature": 0.05}),
        ("decoder", {"temperature": 0.05, "gradient_checkpointing": True}),
        ("decoder", {"temperature": 0.05, "lora_rank": 4, "learning_rate": 0.02, "bf16": True}),
        ("decoder", {"temperature": 0.05, "language_model_weight": 1.0, "contrastive_weight": 0.1}),
        ("decoder", {"temperature": 0.05, "language_model_weight": 1.0, "lora_rank": 4, "learning_rate": 0.02}),
    ],
    ids=["encoder", "encoder-all-losses", "attention-only", "checkpointing", "lora-bf16", "language-model", "lora"],
)
def test_training_learns_and_the_output_loads_as_reranker_and_as_transformers_model(
    request, training_data, tmp_path, family, changes
):
    model = request.getfixturevalue(family)
    output = tmp_path / "out"
    before = accuracy(BlockRankReranker.from_pretrained(model), training_data)
    result = finetune(settings(model, training_data, output, steps=60, **changes))
    assert result.folder == output
    ranker = BlockRankReranker.from_pretrained(output, dtype="float32")
    after = accuracy(ranker, training_data)
    assert after > before + 0.2, (before, after)
    assert AutoModel.from_pretrained(output).config.num_hidden_layers == (
        4
        if changes.get("language_model_weight")
        else len(AutoModel.from_pretrained(output).layers)
        if family == "decoder"
        else 3
    )
    probabilities = [document.probability for document in ranker.rank(WORDS[0], WORDS)]
    assert all((p is not None) == ("abstention_weight" in changes) for p in probabilities)
    assert (output / "README.md").read_text().startswith("---")


def test_the_saved_config_names_the_dtype_of_the_saved_weights(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "out", steps=1, save_dtype="float16"))
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_gradient_checkpointing_changes_no_loss(request, training_data, tmp_path, family):
    model = request.getfixturevalue(family)
    histories = []
    for flag in (False, True):
        output = tmp_path / str(flag)
        finetune(settings(model, training_data, output, steps=10, gradient_checkpointing=flag))
        histories.append(losses_of(tmp_path / f"{flag}.training", 10))
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


COMMAND = [sys.executable, "-m", "blockrank_rerank.cli.finetune", "train"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""As the tests' own process: sums over other numbers of threads round otherwise."""


def test_a_run_that_was_killed_resumes_to_the_same_weights(encoder, training_data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", *arguments(encoder, training_data, whole)]) == 0
    process = subprocess.Popen(
        [*COMMAND, *arguments(encoder, training_data, cut)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ONE_THREAD,
    )
    marker = tmp_path / "cut.training" / "checkpoint-20" / COMPLETE
    deadline = time.monotonic() + 600
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not cut.exists(), "the run ended before it could be killed"
    (tmp_path / "cut.training" / "checkpoint-999").mkdir()  # as if the kill had hit the writing of a checkpoint
    assert main(["train", *arguments(encoder, training_data, cut), "--resume"]) == 0
    for name in ("model.safetensors", "scoring_head.safetensors"):
        first, second = load_file(whole / name), load_file(cut / name)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert losses_of(tmp_path / "whole.training", 40) == losses_of(tmp_path / "cut.training", 40)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"],
}


CLOSING = """
import gc, sys
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from blockrank_rerank.cli.finetune import main

close = Accelerator.end_training

def end_training(self):
    print("joined models left:", sum(type(one) is DistributedDataParallel for one in gc.get_objects()))
    close(self)

Accelerator.end_training = end_training
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_to_the_weights_of_one_and_hold_nothing_when_their_connection_is_closed(
    launcher, encoder, training_data, tmp_path
):
    (tmp_path / "closing.py").write_text(CLOSING)
    alone, both = tmp_path / "one", tmp_path / "two"
    changes = {"steps": 3, "save_every": 3, "abstention_weight": 0.5, "empty_share": 0.3}
    assert main(["train", *arguments(encoder, training_data, alone, lists_per_step=4, **changes)]) == 0
    launch = [sys.executable, "-m", *LAUNCHERS[launcher], str(tmp_path / "closing.py"), "train"]
    done = subprocess.run(
        [*launch, *arguments(encoder, training_data, both, lists_per_step=2, **changes)],
        capture_output=True,
        text=True,
        env=ONE_THREAD,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stderr
    assert done.stdout.count("joined models left: 0") == 2
    first, second = load_file(alone / "model.safetensors"), load_file(both / "model.safetensors")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-5)
    # Clipping and AdamW hide the scale of a gradient from the weights.
    first, second = (logs(tmp_path / f"{name}.training", 3)[0] for name in ("one", "two"))
    for name in ("grad_norm", "loss", "contrastive", "abstention"):
        assert second[name] == pytest.approx(first[name], rel=1e-4)


def test_an_output_folder_with_something_in_it_is_never_touched(encoder, training_data, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("data")
    assert main(["train", *arguments(encoder, training_data, tmp_path / "out")]) == RUN_TIME
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "out" / "precious").read_text() == "data"


def test_a_loss_that_becomes_nan_stops_the_run(encoder, training_data, tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"loss became (nan|inf) .*lower learning_rate, and with another"
    ) as stopped:
        finetune(settings(encoder, training_data, tmp_path / "out", learning_rate=1e30, max_grad_norm=1e30))
    assert "bf16" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_the_terminal_is_left_as_it_was_when_a_run_fails(encoder, training_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take a pipe for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(FloatingPointError):
        finetune(settings(encoder, training_data, tmp_path / "out", learning_rate=1e30, max_grad_norm=1e30))
    shown = capsys.readouterr().err
    assert "\x1b[?25l" in shown  # the cursor is hidden,
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and shown again


def test_collapsed_scores_stop_the_run(encoder, training_data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "COLLAPSE_SPREAD", 1e9)
    monkeypatch.setattr(trainer_module, "COLLAPSE_STEPS", 5)
    with pytest.raises(FloatingPointError, match="scores collapsed: at step 5"):
        finetune(settings(encoder, training_data, tmp_path / "out"))
    with pytest.raises(FloatingPointError, match="scores collapsed: at step 5"):
        finetune(settings(encoder, training_data, tmp_path / "passes", accumulation=3))


def test_the_result_mixes_the_starting_weights_in_by_their_share(encoder, training_data, tmp_path):
    finetune(settings(encoder, training_data, tmp_path / "all", base_share=1.0, steps=5))
    start, end = load_file(encoder / "model.safetensors"), load_file(tmp_path / "all" / "model.safetensors")
    assert all(torch.equal(start[name], tensor) for name, tensor in end.items())


def test_an_encoder_with_a_language_model_loss_is_refused(encoder, training_data, tmp_path):
    with pytest.raises(ValueError, match="an encoder has no language-model head"):
        finetune(settings(encoder, training_data, tmp_path / "out", language_model_weight=1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"bf16": "yes"}, "bf16 must be true or false, got 'yes'"),
        ({"data": ()}, "data must name at least one collection"),
        ({"data": [{"path": "x", "wait": 1}]}, "unknown settings wait"),
        ({"documents_per_list": 1}, "documents_per_list must be at least 2"),
        ({"contrastive_weight": 0.0}, "there is nothing to train"),
        ({"empty_share": 0.5}, "empty_share needs"),
        ({"save_dtype": "int8"}, "save_dtype must be one of float32"),
        ({"long_queries": "cut"}, "long_queries must be one of error, truncate, got cut"),
        ({"base_share": 1.5}, "base_share must be in 0..1, got 1.5"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        FinetuneSettings(**{"output": "out", "data": "train.jsonl", **change})


def test_settings_survive_a_round_trip_through_yaml(tmp_path):
    data = [{"path": "a", "weight": 0.5}, {"path": "b", "weight": 1}]
    first = FinetuneSettings(output="out", data=data, learning_rate="1e-5", bf16=True)
    (tmp_path / "s.yaml").write_text(first.to_yaml())
    assert FinetuneSettings.read(tmp_path / "s.yaml", {}) == first
    assert first.learning_rate == 1e-5


def test_the_hub_is_never_asked_for_a_missing_folder(training_data, tmp_path, capsys):
    assert main(["train", "model=./nowhere", f"data={training_data}", f"output={tmp_path / 'o'}"]) == 4
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        Checkpoint(model="./nowhere")


def test_progress_shows_losses_learning_rate_and_throughput(encoder, training_data, tmp_path, capsys):
    finetune(settings(encoder, training_data, tmp_path / "out", steps=10, distillation_weight=0.5))
    shown = capsys.readouterr().err
    assert re.search(
        r"step 10/10  loss \d.*contrastive \d.*distillation \d.*learning rate \d\S+  [\d,]+ tokens/s", shown
    )
