"""What a client is told when it gets no ranking: a status, a sentence, and what kind of fault it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from blockrank_rerank.errors import Transferable

_FIELD = re.compile(r"(query|documents)(\[\d+\])?(?=\W)")

ERROR_TYPES = {
    401: "Unauthorized",
    408: "Timeout",
    424: "Backend",
    429: "Overloaded",
    503: "Overloaded",
    504: "Timeout",
}
"""Of statuses; every other one is ``Validation``. The words are those of text-embeddings-inference."""


class ApiError(Transferable, HTTPException):
    """A fault with the answer that tells of it.

    Attributes
    ----------
    field : str or None
        What of the request is at fault, as ``documents[3]``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        error_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.field = field
        self.error_type = error_type or ERROR_TYPES.get(status, "Validation")

    @property
    def body(self) -> dict[str, Any]:
        """What is answered: ``error`` and ``error_type`` as text-embeddings-inference, ``message`` as Cohere."""
        body = {"error": self.detail, "error_type": self.error_type, "message": self.detail}
        return body | ({"field": self.field} if self.field else {})


def refused(error: Exception) -> ApiError:
    """The answer to a request whose query or documents cannot be ranked."""
    message = str(error)
    field = _FIELD.match(message)
    return ApiError(422, message, field=field and field[0])


def of_http(error: HTTPException) -> ApiError:
    """The answer where there is no such page or method, and where a body is no JSON."""
    if isinstance(error, ApiError):
        return error
    message = error.detail or HTTPStatus(error.status_code).phrase
    return ApiError(error.status_code, message, headers=dict(error.headers or {}))


def of_validation(faults: list[Any]) -> ApiError:
    """The answer to a body of another form, from the list of Pydantic's faults, of which the first is told.

    Values are left out: they may be somebody's texts.
    """
    fault = faults[0]
    if fault["type"] == "json_invalid" or len(fault["loc"]) == 1:
        return ApiError(422, "body must be a JSON object, sent with Content-Type: application/json")
    # The first part is "body"; those of a union's branches are no fields.
    parts = [part for part in fault["loc"][1:] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    return ApiError(422, f"{field or 'body'}: {_told(fault)}", field=field or None)


def _told(fault: Mapping[str, Any]) -> str:
    """What should have come; and what came, where its type says it."""
    # The first branch of what may be a text or an object.
    expected = "Input should be a text or an object" if fault["loc"][-1] == "str" else fault["msg"]
    return f"{expected}, got {type(fault['input']).__name__}" if fault["type"].endswith("_type") else expected
