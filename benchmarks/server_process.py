"""A server in a process of its own, as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import ROOT

SERVE = ("-m", "blockrank_rerank.cli", "serve")


@contextmanager
def started(*words: str, program: tuple[str, ...] = SERVE) -> Iterator[tuple[int, str]]:
    """Run a server on a free port until the block ends; its process id and address."""
    command = [sys.executable, *program, "--port", "0", "--device", "cpu", *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            url = event.get("url", url)
            if event.get("event") == "ready":
                break
        else:
            sys.exit(f"{' '.join(command)} ended before it was ready")
        # A server whose log nobody reads would wait at some time.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process.pid, url
    finally:
        process.terminate()
        process.wait(60)


def resident_megabytes(pid: int) -> float:
    """Memory of a process that is in RAM (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
