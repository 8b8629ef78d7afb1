"""What a power cut, another tool or a second run does to the folder of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer

from blockrank_rerank.cli.failures import RUN_TIME
from blockrank_rerank.cli.run import run_app
from blockrank_rerank.finetune import finetune
from blockrank_rerank.finetune.checkpoint_mark import COMPLETE, NEEDED, damage, mark_complete
from blockrank_rerank.finetune.run_folder import BEST, LOCK, RunFolder
from blockrank_rerank.finetune.run_records import read_records
from blockrank_rerank.finetune.training_run import TrainingRun
from blockrank_rerank.formats import DataError
from tests.finetune.runs import settings


@pytest.fixture(scope="module")
def cut_off(encoder, training_data, tmp_path_factory):
    """The working folder of a run that ended after its second checkpoint."""
    output = tmp_path_factory.mktemp("cut") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_write", lambda *ignored: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(settings(encoder, training_data, output, steps=4, save_every=2))
    return Path(f"{output}.training")


@pytest.fixture
def interrupted(cut_off, encoder, training_data, tmp_path):
    """Settings of a run that was cut off, in a folder of its own."""
    asked = settings(encoder, training_data, tmp_path / "out", steps=4, save_every=2)
    shutil.copytree(cut_off, tmp_path / "out.training")
    (tmp_path / "out.training/finetune_settings.yaml").write_text(asked.to_yaml())
    return asked


def work_of(asked) -> Path:
    return Path(f"{asked.output}.training")


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes instead of"),
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "bytes instead of"),
    "changed": (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "its checksum differs"),
    "missing": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", NEEDED)
def test_a_damaged_part_of_a_checkpoint_is_named(cut_off, tmp_path, name, kind):
    checkpoint = shutil.copytree(cut_off / "checkpoint-4", tmp_path / "checkpoint-4")
    assert damage(checkpoint) is None
    spoil, message = DAMAGES[kind]
    spoil(checkpoint / name)
    assert name in damage(checkpoint)
    assert message in damage(checkpoint)


@pytest.mark.parametrize("mark", ["", "{", "[]", "7", '{"files": []}', "[" * 100_000])
def test_a_mark_that_vouches_for_nothing_is_no_mark(cut_off, tmp_path, mark):
    checkpoint = shutil.copytree(cut_off / "checkpoint-4", tmp_path / "checkpoint-4")
    (checkpoint / "complete").write_text(mark)
    assert damage(checkpoint)


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "complete"])
def test_the_newest_whole_checkpoint_is_resumed_and_the_damaged_one_named(interrupted, name):
    damaged = work_of(interrupted) / "checkpoint-4"
    (damaged / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=rf"checkpoint .*checkpoint-4 is damaged: .*{name}.*whole one is checkpoint-2"):
        assert finetune(interrupted, resume=True).folder.is_dir()
    assert (work_of(interrupted) / "damaged-checkpoint-4").is_dir()
    assert damage(damaged) is None  # it was made again


def test_an_optimiser_is_never_replaced_by_a_fresh_one(interrupted):
    for checkpoint in work_of(interrupted).glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").unlink()
    with pytest.warns(UserWarning, match="is damaged") as warned:
        finetune(interrupted, resume=True)
    said = " ".join(str(warning.message) for warning in warned)
    assert said.count("optimizer.pt is missing") == 2
    assert "the run begins anew" in said


def test_a_mark_is_written_after_the_files_are_on_the_disk(tmp_path, monkeypatch):
    for name in NEEDED:
        (tmp_path / name).write_text(name)
    done = []
    monkeypatch.setattr("os.fsync", lambda descriptor: done.append((tmp_path / "complete").exists()))
    mark_complete(tmp_path)
    assert done == [False] * (len(NEEDED) + 2) + [True]
    assert damage(tmp_path) is None


def test_a_torn_history_names_its_line(tmp_path):
    (tmp_path / "evaluations.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(DataError, match=r"evaluations\.jsonl:2: .* the file is damaged"):
        read_records(tmp_path / "evaluations.jsonl")


def test_torn_inputs_are_named(interrupted):
    (work_of(interrupted) / "inputs.json").write_text("")
    with pytest.raises(DataError, match=r"inputs\.json: .*damaged; put a copy of it back, or begin anew"):
        finetune(interrupted, resume=True)


def test_the_end_of_a_file_is_no_interrupt(capsys):
    app = typer.Typer()

    @app.command()
    def read() -> None:
        raise EOFError("Ran out of input")

    assert run_app(app, "read", ["--"]) == RUN_TIME
    assert "a file ended before its content did, so it is empty or torn: Ran out of input" in capsys.readouterr().err


# Folders of others, and of other runs


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["checkpoint-500/optimizer.pt", "notes.txt", "best-model/weights"])
def test_a_folder_of_another_tool_is_refused_and_stays(encoder, training_data, tmp_path, name, resume):
    theirs = tmp_path / "out.training" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("hours of work")
    with pytest.raises(FileExistsError, match=r"holds something else .*choose another output, or move that folder"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1), resume=resume)
    assert [path for path in (tmp_path / "out.training").rglob("*") if path.is_file()] == [theirs]
    assert theirs.read_text() == "hours of work"


def test_a_file_where_the_working_folder_goes_is_refused(encoder, training_data, tmp_path):
    (tmp_path / "out.training").write_text("a file")
    with pytest.raises(NotADirectoryError, match=r"needs the folder .*out\.training, got a file"):
        finetune(settings(encoder, training_data, tmp_path / "out", steps=1))


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_with_one_output_is_refused(interrupted, resume):
    running = RunFolder(interrupted.output)
    running.prepare(interrupted, resume=True)
    before = sorted(work_of(interrupted).rglob("*"))
    with pytest.raises(FileExistsError, match=r"another run is working in .*: wait until it ends, or choose another"):
        finetune(interrupted, resume=resume)
    assert sorted(work_of(interrupted).rglob("*")) == before
    running.release()
    assert finetune(interrupted, resume=True).folder.is_dir()


def test_a_run_that_failed_leaves_the_folder_unlocked(interrupted, monkeypatch):
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingRun, "_describe", lambda *ignored: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                finetune(interrupted, resume=True)


def test_other_processes_of_a_run_wait_for_no_lock_and_write_nothing(interrupted, monkeypatch):
    first = RunFolder(interrupted.output)
    taken = first.prepare(interrupted, resume=True)
    (work_of(interrupted) / "checkpoint-7").mkdir()
    monkeypatch.setenv("RANK", "1")
    assert RunFolder(interrupted.output).prepare(interrupted, resume=True) == taken
    assert (work_of(interrupted) / "checkpoint-7").is_dir()
    first.release()
    assert json.loads((work_of(interrupted) / "checkpoint-4/complete").read_text())["files"]


def test_links_planted_in_the_folder_of_a_run_are_not_followed(cut_off, encoder, training_data, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    checkpoint = shutil.copytree(cut_off / "checkpoint-4", tmp_path / "checkpoint-4")
    (checkpoint / f"{COMPLETE}.tmp").symlink_to(victim)
    mark_complete(checkpoint)
    assert damage(checkpoint) is None
    work = tmp_path / "out.training"
    work.mkdir()
    (work / LOCK).symlink_to(victim)
    asked = settings(encoder, training_data, tmp_path / "out", steps=1)
    with pytest.raises(ValueError, match="lock to be a lock that this program makes, got a link; remove it"):
        finetune(asked)
    (work / LOCK).unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/kept").write_text("precious")
    (work / f"{BEST}.unfinished").symlink_to(tmp_path / "folder")
    finetune(asked)
    assert victim.read_text() == (tmp_path / "folder/kept").read_text() == "precious"
    assert (tmp_path / "out/model.safetensors").exists()
