"""Files that are written whole or not at all."""

import errno
import os

import pytest

from blockrank_rerank.system.files import check_output_path, replacing


def test_an_output_that_cannot_be_written_is_refused_beforehand(tmp_path):
    with pytest.raises(IsADirectoryError):
        check_output_path(tmp_path)
    with pytest.raises(FileNotFoundError, match="create it first"):
        check_output_path(tmp_path / "absent" / "out.trec")
    with pytest.raises(ValueError, match="expected a regular output file"):
        check_output_path(type(tmp_path)(os.devnull))
    with pytest.raises(ValueError, match="not to standard output; got '-'"):
        check_output_path(type(tmp_path)("-"))


def test_a_disk_that_is_full_while_writing_is_named_by_the_file(tmp_path):
    path = tmp_path / "run.trec"
    with pytest.raises(OSError, match="No space left") as stopped, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert stopped.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
