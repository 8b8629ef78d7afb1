"""What a server says on stderr: one JSON object a line, without texts and keys."""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import SettingsError
from blockrank_rerank.ranking.terminal import print_line


def log(event: str, level: str = "info", **facts: Any) -> None:
    """Write one line, where stderr takes it; facts that are None are left out."""
    time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    known = {name: value for name, value in facts.items() if value is not None}
    line = json.dumps({"time": time, "level": level, "event": event, **known})
    # Who reads the log may be gone; clients are answered all the same.
    with suppress(OSError):
        print_line(line, error=True)


def fault(error: BaseException) -> dict[str, str]:
    """What a line says of an error: its kind and its place; its message, which may hold a text, of settings alone."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    said = {"reason": str(error)} if isinstance(error, SettingsError) else {}
    place = " ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames)
    return {"error": type(error).__name__, "at": place} | said


class _LogHandler(logging.Handler):
    """Writes what other libraries log in lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        error = record.exc_info[1] if record.exc_info else None
        log(record.name, record.levelname.lower(), message=record.getMessage(), **(fault(error) if error else {}))


@contextmanager
def logged_lines() -> Iterator[None]:
    """Write warnings, and what the server library logs, in lines of ours."""
    handler, logger = _LogHandler(logging.WARNING), logging.getLogger("uvicorn")
    logger.addHandler(handler)
    logger.propagate = False
    show = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: log("warning", "warning", message=str(message))
    try:
        yield
    finally:
        warnings.showwarning = show
        logger.propagate = True
        logger.removeHandler(handler)
