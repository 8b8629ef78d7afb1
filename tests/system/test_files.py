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


def test_writers_of_one_number_on_two_machines_do_not_write_into_one_file(tmp_path):
    path = tmp_path / "run.trec"
    with replacing(path) as first, replacing(path) as second:
        first.write("first")
        second.write("second")
    assert path.read_text() == "first"  # was closed last
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that takes no file of anybody")
def test_a_folder_that_takes_no_file_is_found_beforehand_by_root_too(tmp_path):
    with pytest.raises(OSError, match="cannot write the output: ") as refused:
        check_output_path(type(tmp_path)("/proc/out.json"))
    assert refused.value.filename == "/proc/out.json"


def test_a_name_that_is_too_long_while_it_is_written_is_found_beforehand(tmp_path):
    with pytest.raises(OSError, match="cannot write the output: "):
        check_output_path(tmp_path / f"{'a' * 245}.json")
    check_output_path(tmp_path / f"{'a' * 200}.json")
    assert not any(tmp_path.iterdir())
