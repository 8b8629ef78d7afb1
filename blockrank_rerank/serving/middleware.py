"""What happens to every request, whatever it asks for: it is let in or not, gets an id, is counted and logged."""

from __future__ import annotations

import asyncio
import hmac
import re
import uuid
from collections.abc import Collection, MutableMapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blockrank_rerank.serving.answer import json_response
from blockrank_rerank.serving.errors import ApiError
from blockrank_rerank.serving.limits import ServerLimits
from blockrank_rerank.serving.log import fault, log
from blockrank_rerank.serving.metrics import Metrics

ID_HEADER = "x-request-id"
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Record:
    """What the log tells of a request.

    Attributes
    ----------
    request_id : str
        The client's own, or a new one.
    facts : dict
        Numbers that whoever answers adds.
    started : float
        When it came, by the monotonic clock.
    """

    request_id: str
    facts: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=monotonic)

    def left(self, seconds: float) -> float:
        """How many of the seconds that it may take are left."""
        return max(self.started + seconds - monotonic(), 0.0)


def record_of(scope: MutableMapping[str, Any]) -> Record:
    """The record of a request."""
    record: Record = scope["blockrank_record"]
    return record


class Observed:
    """Gives requests an id, counts and logs them, and answers 500 to what nobody foresaw."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(ID_HEADER, "")
        record = scope["blockrank_record"] = Record(given if _ID.fullmatch(given) else uuid.uuid4().hex)
        status = 499  # nginx's: the client went away before it was answered

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[ID_HEADER] = record.request_id
            await send(message)

        try:
            with self._metrics.in_progress.track_inprogress():
                await self._app(scope, receive, tell)
        except Exception as error:
            log("failure", "error", request_id=record.request_id, **fault(error))
            if status == 499:
                await json_response(*_unforeseen())(scope, receive, tell)
        finally:
            self._note(scope, record, status, monotonic() - record.started)

    def _note(self, scope: Scope, record: Record, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.requests.labels(path, status).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        log(
            "request",
            request_id=record.request_id,
            method=scope["method"],
            path=path,
            status=status,
            ms=round(1000 * seconds, 1),
            **record.facts,
        )


class Gate:
    """Refuses requests without the key or beyond a number, and bodies that are too large or too slow.

    Parameters
    ----------
    app : ASGI application
        What is behind it.
    key : str or None
        What ``Authorization: Bearer`` must hold.
    open_paths : collection of str
        Pages that need no key, and are answered however many requests there are.
    limits : ServerLimits
        Of requests at one time, and of a body: its bytes, and the seconds within which it must be there.
    """

    def __init__(self, app: ASGIApp, key: str | None, open_paths: Collection[str], limits: ServerLimits) -> None:
        self._app, self._open, self._limits = app, frozenset(open_paths), limits
        self._expected = None if key is None else f"Bearer {key}".encode()
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._lets_in(scope["path"], headers):
            refusal = ApiError(401, "a key is needed: Authorization: Bearer KEY")
            await json_response(refusal.body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self._limits.body_bytes:
            await json_response(self._too_large().body, 413)(scope, receive, send)
            return
        if self._inside >= self._limits.requests and scope["path"] not in self._open:
            # Not uvicorn's own limit, which counts idle connections too, so that these could shut everybody out.
            refusal = ApiError(503, f"{self._inside} requests are under way, as many as may; try again in 1 s")
            await json_response(refusal.body, 503, {"Retry-After": "1"})(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, self._limited(receive, record_of(scope)), send)
        finally:
            self._inside -= 1

    def _lets_in(self, path: str, headers: Headers) -> bool:
        given = headers.get("authorization", "").encode("latin-1")  # the bytes as they came
        return self._expected is None or path in self._open or hmac.compare_digest(given, self._expected)

    def _limited(self, receive: Receive, record: Record) -> Receive:
        received, is_whole = 0, False

        async def limited() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what comes now is the client's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), record.left(self._limits.seconds))
            except asyncio.TimeoutError as error:
                raise self._too_slow() from error
            received += len(message.get("body", b""))
            if received > self._limits.body_bytes:
                raise self._too_large()
            is_whole = not message.get("more_body", False)
            return message

        return limited

    def _too_large(self) -> ApiError:
        return ApiError(413, f"body must have at most {self._limits.body_bytes} bytes (--max-body)")

    def _too_slow(self) -> ApiError:
        message = f"body must be there within {self._limits.seconds:g} s (--timeout)"
        # What comes of it later is not read.
        return ApiError(408, message, headers={"Connection": "close"})


def _unforeseen() -> tuple[dict[str, Any], int]:
    fault = ApiError(500, "the server failed; its log says more under the request id", error_type="Internal")
    return fault.body, 500
