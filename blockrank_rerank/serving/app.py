"""The pages of the server, as an ASGI application that any server of such can run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from blockrank_rerank import __version__
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.answer import json_response
from blockrank_rerank.serving.errors import ApiError, of_http, of_validation
from blockrank_rerank.serving.limits import ServerLimits
from blockrank_rerank.serving.metrics import Metrics
from blockrank_rerank.serving.middleware import Gate, Observed, record_of
from blockrank_rerank.serving.protocols.nvidia import NvidiaRequest
from blockrank_rerank.serving.protocols.rerank import RerankRequest
from blockrank_rerank.serving.protocols.tei import TeiOrRerankRequest
from blockrank_rerank.serving.service import Service

OPEN_PATHS = ("/health", "/ready")
"""Need no key: they tell nothing but whether the server works."""


def create_app(ranker: BlockRankReranker, limits: ServerLimits | None = None, api_key: str | None = None) -> FastAPI:
    """Make the application; it loads the model when it starts, and ranks what it has taken before it ends.

    Parameters
    ----------
    ranker : BlockRankReranker
        Ranks every request.
    limits : ServerLimits, optional
        What is taken of clients.
    api_key : str, optional
        What clients must send as ``Authorization: Bearer``; nothing by default.
    """
    limits, metrics = limits or ServerLimits(), Metrics()
    service = Service(ranker, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.start)
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    # The pages that FastAPI would make of the OpenAPI page load scripts from elsewhere.
    app = FastAPI(title="blockrank-rerank", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_rankings(app, service)
    _add_information(app, service, metrics)
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)
    paths = [route.path for route in app.routes if isinstance(route, Route)]
    app.add_middleware(Gate, key=api_key, open_paths=OPEN_PATHS, limits=limits)
    app.add_middleware(Observed, metrics=metrics, paths=paths)
    return app


def _add_rankings(app: FastAPI, service: Service) -> None:
    async def rerank(request: Request, body: RerankRequest) -> Response:
        """Rank documents; the form of Cohere, Jina and Voyage."""
        return await service.answer(request, body)

    async def rerank_texts(request: Request, body: TeiOrRerankRequest) -> Response:
        """Rank texts; the form of text-embeddings-inference, or that of `/v2/rerank`."""
        return await service.answer(request, body)

    async def ranking(request: Request, body: NvidiaRequest) -> Response:
        """Rank passages; the form of NVIDIA."""
        return await service.answer(request, body)

    for path, page in (
        ("/v2/rerank", rerank),
        ("/v1/rerank", rerank),
        ("/rerank", rerank_texts),
        ("/v1/ranking", ranking),
    ):
        app.add_api_route(path, page, methods=["POST"], response_model=None)


def _add_information(app: FastAPI, service: Service, metrics: Metrics) -> None:
    async def health() -> Response:
        """Whether the process answers."""
        return json_response({"status": "ok"})

    async def ready() -> Response:
        """Whether requests are taken."""
        return json_response({"ready": service.is_ready}, 200 if service.is_ready else 503)

    async def info() -> Response:
        """Model, limits and versions."""
        return json_response(service.info())

    async def models() -> Response:
        """The model, and its tunings, of which a request's `model` chooses one."""
        return json_response({"object": "list", "data": service.model_cards()})

    async def prometheus() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    pages: dict[str, Callable[[], Any]] = {
        "/health": health, "/ready": ready, "/info": info, "/v1/models": models, "/metrics": prometheus
    }  # fmt: skip
    for path, page in pages.items():
        app.add_api_route(path, page, methods=["GET"], response_model=None)
        app.add_api_route(path, page, methods=["HEAD"], response_model=None, include_in_schema=False)


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        fault = of_validation(list(error.errors()))
    else:
        fault = of_http(error) if isinstance(error, HTTPException) else ApiError(500, "the server failed")
    record_of(request.scope).facts["error_type"] = fault.error_type
    return json_response(fault.body, fault.status_code, fault.headers)
