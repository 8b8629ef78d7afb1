"""Where a number was measured."""

import subprocess

import torch

from blockrank_rerank.evaluation.machine import _commit, machine


def test_a_machine_has_what_a_number_depends_on():
    found = machine()
    assert found.versions["torch"] == torch.__version__
    assert "no-such-distribution" not in found.versions
    assert found.processor
    assert found.threads == torch.get_num_threads()
    assert str(found).endswith(f"torch {torch.__version__}")


def test_a_commit_is_named_where_there_is_a_checkout_and_marked_where_files_differ(tmp_path):
    assert _commit(tmp_path) is None
    names = ("-c", "user.name=a", "-c", "user.email=a@b")
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], [*names, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = _commit(tmp_path)
    assert len(commit) >= 7
    assert "+" not in commit
    (tmp_path / "file").write_text("two")
    assert _commit(tmp_path) == f"{commit}+"
