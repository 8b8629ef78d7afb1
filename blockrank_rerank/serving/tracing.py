"""Spans of OpenTelemetry, where its API is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None


@contextmanager
def rerank_span(headers: Mapping[str, str]) -> Iterator[Callable[[str, Any], None]]:
    """Open a span ``rerank`` under the one that a request names, and yield what sets its attributes.

    Whoever runs the server configures where spans go, as with ``opentelemetry-instrument``.
    """
    if trace is None:
        yield lambda name, value: None
        return
    tracer = trace.get_tracer("blockrank_rerank")
    context = propagate.extract(dict(headers))
    # What an exception says may be somebody's text.
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span("rerank", context=context, **quiet) as span:
        try:
            yield span.set_attribute
        except Exception:
            span.set_status(trace.StatusCode.ERROR)
            raise
