"""The report as one HTML file that needs no other."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blockrank_rerank.errors import install_line
from blockrank_rerank.evaluation.report.build import Report
from blockrank_rerank.evaluation.report.numbers import Numbers
from blockrank_rerank.evaluation.report.plots import depth_plot, latency_plot, reliability_plot, require_plots
from blockrank_rerank.evaluation.stuffing import WAYS
from blockrank_rerank.ranking.terminal import printable
from blockrank_rerank.system.files import replacing

TEMPLATE = Path(__file__).with_name("page.html")


def require_report() -> None:
    """Refuse to start when the ``report`` extra is not installed.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    require_plots()
    _jinja()


def _jinja() -> Any:
    try:
        return importlib.import_module("jinja2")
    except ImportError as error:
        raise ImportError(f"a report needs jinja2, which cannot be imported; {install_line('report')}") from error


def json_path(page: Path) -> Path:
    """Where the numbers of a page go: beside it."""
    return page.with_suffix(".json")


def write_report(report: Report, path: Path) -> None:
    """Write the page, and its numbers beside it.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    page = html(report)
    with replacing(path) as file:
        file.write(page)
    with replacing(json_path(path)) as file:
        file.write(numbers_json(report.numbers))


def numbers_json(numbers: Numbers) -> str:
    """Return the numbers as JSON."""
    # Surrogates alone, which no file can hold, are escaped with the rest.
    return json.dumps(asdict(numbers), indent=1, allow_nan=False) + "\n"


def html(report: Report) -> str:
    """Return the page; whatever is text in it, is text in the browser."""
    jinja = _jinja()
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    numbers = report.numbers
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        numbers=numbers,
        collection=numbers.collection,
        worst=report.worst,
        ways=[*WAYS],
        depth_plot=_markup(depth_plot(numbers.depths)),
        latency_plot=_markup(latency_plot(numbers.latencies, numbers.rows)),
        reliability_plots=[
            (each.name, _markup(reliability_plot({"measured": each.values.bins}))) for each in numbers.calibrations
        ],
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def _markup(svg: str) -> Any:
    """Markup of ours, whose texts matplotlib has escaped."""
    return importlib.import_module("markupsafe").Markup(svg)


def _shown(value: Any) -> Any:
    """Spell out control characters of texts, which HTML does not allow."""
    return printable(value) if type(value) is str else value
