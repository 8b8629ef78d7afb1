"""Folders, pipes, sockets and devices where files are expected: an answer with file and advice, and never a hang."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from blockrank_rerank import BlockRankConfig
from blockrank_rerank.errors import DataError
from blockrank_rerank.finetune.data import read_examples
from blockrank_rerank.formats import (
    lines,
    read_collection,
    read_corpus,
    read_documents,
    read_qrels,
    read_queries,
    read_run,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes and devices are POSIX")

READERS = [lambda path: read_documents([path]), read_corpus, read_qrels, read_queries, read_run]
NAMES = ["documents", "corpus", "qrels", "queries", "run"]
OTHERS = [read_examples, BlockRankConfig.load]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(lines, "PATIENCE", 0.2)


@pytest.mark.parametrize("read", [*READERS, *OTHERS], ids=[*NAMES, "examples", "config"])
def test_a_pipe_that_nothing_writes_into_is_refused(tmp_path, read):
    os.mkfifo(tmp_path / "a pipe")
    with pytest.raises(DataError, match=r"a pipe: .*; write its content to a file first"):
        read(tmp_path / "a pipe")


@pytest.mark.parametrize("read", [*READERS, *OTHERS], ids=[*NAMES, "examples", "config"])
def test_a_socket_and_a_device_are_refused(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s")
        with pytest.raises(DataError, match="got a socket; write its content"):
            read(tmp_path / "s")
    with pytest.raises(DataError, match=r"/dev/zero: .* got a device"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("read", READERS[1:], ids=NAMES[1:])  # documents are read from folders
def test_a_folder_is_named_with_what_to_do(tmp_path, read):
    with pytest.raises(IsADirectoryError, match=r"expected a file of lines, got the folder .*; name a file in it"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels/test.tsv"])
def test_a_pipe_within_a_collection_is_named(tmp_path, name):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("q\td\t1\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: nothing writes into this pipe"):
        read_collection(tmp_path)


def test_a_collection_that_is_a_pipe_is_no_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotADirectoryError, match="expected a BEIR folder"):
        read_collection(tmp_path / "pipe")


@pytest.mark.parametrize("parts", [["q Q0 d 1 2 t\n"], ["q Q0 d 1 2 t", "\nq Q0 e 2 1 t\n"]])
def test_a_pipe_whose_writer_takes_its_time_is_read_whole(tmp_path, parts):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        with pipe.open("w", buffering=1) as stream:
            for part in parts:
                time.sleep(0.5)
                stream.write(part)
                stream.flush()

    writer = threading.Thread(target=write)
    writer.start()
    found = read_run(pipe)
    writer.join()
    assert list(found["q"]) == ["d", "e"][: len(parts)]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system has no /dev/fd")
@pytest.mark.parametrize("read", READERS[2:5:2], ids=["qrels", "run"])
def test_what_a_shell_substitutes_is_read(read):
    ours, theirs = os.pipe()
    os.write(theirs, b"q Q0 d 1\n" if read is read_qrels else b"q Q0 d 1 2 t\n")
    os.close(theirs)
    try:
        assert list(read(Path(f"/dev/fd/{ours}"))["q"]) == ["d"]
    finally:
        os.close(ours)


def test_the_null_device_is_an_empty_file():
    with pytest.raises(DataError, match="no documents in /dev/null"):
        read_documents([Path("/dev/null")])
