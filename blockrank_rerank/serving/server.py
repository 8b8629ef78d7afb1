"""A process that answers on a port until it is told to stop."""

from __future__ import annotations

import math
import socket

import uvicorn
from fastapi import FastAPI

from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits
from blockrank_rerank.serving.log import log, logged_lines
from blockrank_rerank.serving.service import load

BACKLOG = 2048


def serve(
    ranker: BlockRankReranker, host: str, port: int, limits: ServerLimits | None = None, api_key: str | None = None
) -> None:
    """Load the model and answer requests until the process is told to stop (Ctrl-C, SIGTERM), those taken first.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks every request.
    host, port : str and int
        Where to listen; port 0 is any that is free, and the log says which.
    limits, api_key
        As for `create_app`.

    Raises
    ------
    OSError
        Where it cannot listen.
    FileNotFoundError, ImportError, ValueError
        For a model that cannot be used, and a store of another one.
    """
    limits = limits or ServerLimits()
    with _listener(host, port) as listener, logged_lines():
        load(ranker)
        address, number = listener.getsockname()[:2]
        log("start", url=f"http://{f'[{address}]' if ':' in address else address}:{number}", key=api_key is not None)
        uvicorn.Server(config_of(create_app(ranker, limits, api_key), limits)).run(sockets=[listener])


def config_of(app: FastAPI, limits: ServerLimits) -> uvicorn.Config:
    """How uvicorn runs an application within limits."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
