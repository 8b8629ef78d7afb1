from __future__ import annotations

import socket
import threading
from contextlib import contextmanager

import pytest

from blockrank_rerank import BlockRankReranker

QUERY = "what thins blood"
DOCUMENTS = ["the liver stores sugar", "aspirin thins blood", "concrete is cheap"]


@pytest.fixture(scope="session")
def ranker():
    """The default model, in fp32, without cache and store."""
    return BlockRankReranker.from_pretrained(device="cpu", dtype="float32")


@contextmanager
def on_loopback(app):
    """Run an application on a free port of this machine; the address of it."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
