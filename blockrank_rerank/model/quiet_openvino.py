"""OpenVINO, imported so that it reports to nobody.

By itself its import sends an event to Google Analytics, from a fork of the process, and writes a number for the user
into the home folder. Where the package that does so is missing, OpenVINO goes on without.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

TELEMETRY = "openvino_telemetry"


def _imported() -> Any:
    modules: dict[str, Any] = sys.modules
    if TELEMETRY in modules:
        return import_module("openvino")
    modules[TELEMETRY] = None  # which makes its import fail
    try:
        return import_module("openvino")
    finally:
        del modules[TELEMETRY]


openvino = _imported()
