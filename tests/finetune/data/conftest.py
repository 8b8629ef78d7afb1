"""Training data to read."""

import pytest

from tests.finetune.data_files import write_folder, write_jsonl


@pytest.fixture
def put(tmp_path):
    def write(*records, name="train.jsonl"):
        if len(records) == 1 and isinstance(records[0], bytes):
            (tmp_path / name).write_bytes(records[0])
            return tmp_path / name
        return write_jsonl(tmp_path / name, records)

    return write


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "collection")
