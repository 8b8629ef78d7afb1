"""What a reader says of a file that it refuses."""

import os

import pytest

from blockrank_rerank.formats import DataError


def refusal(read, path):
    with pytest.raises(DataError) as error:
        read(path)
    assert error.value.path is None or error.value.path == str(path)
    return str(error.value).removeprefix(f"{path.parent}{os.sep}")
