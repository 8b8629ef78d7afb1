from __future__ import annotations

import gc
import os

import pytest
import torch

# Triton reads this when a kernel is defined, so before anything imports one.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors this small are slower on several threads, far slower where other processes use the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage():
    """A full collection need not look at half a million objects of modules: accelerate asks for two in every run."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    """Let the interpreter clear up after all: Triton complains of what is left when it ends."""
    gc.unfreeze()


@pytest.fixture
def set_threads():
    """Sets the number of torch's threads until the end of a test."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.fixture
def own_assets(tmp_path, monkeypatch):
    """A folder for what would be kept in the user's own, and nothing that another test has measured."""
    from blockrank_rerank.engine import machine_profile

    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.cached_assets_path", lambda *names: folder)
    monkeypatch.setattr(machine_profile, "_profiles", {})
    return folder
