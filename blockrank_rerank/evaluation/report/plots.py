"""Plots of a report: pieces of SVG for a page of either colour."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from blockrank_rerank.errors import install_line
from blockrank_rerank.evaluation.calibration import Bin
from blockrank_rerank.evaluation.report.numbers import Depth, Latency, Row

INK = "#010203"
"""Stands for the page's own text colour until the plot is finished: SVG knows that one, and matplotlib does not."""
COLOURS = ("#3b82c4", "#d9762b", "#3a9d6e", "#b0609f", "#a08a28", "#7f7f7f", "#c4504f", "#4fa3a8")
"""Seen on white and on black."""
MARKS = ("o", "s", "^", "D")
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "blockrank",  # the same plot has the same bytes
    "text.parse_math": False,  # names may hold dollar signs
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
SIZE = (6.4, 3.8)


def require_plots(noun: str = "a report") -> Any:
    """Import matplotlib, for files alone.

    Parameters
    ----------
    noun : str
        What needs it, for the message.

    Raises
    ------
    ImportError
        With the line that installs it.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError(f"{noun} needs matplotlib, which cannot be imported; {install_line('report')}") from error
    return matplotlib


def depth_plot(depths: Sequence[Depth]) -> str:
    """NDCG@10 of our model, and the recall of its candidates, over their number."""
    with require_plots().rc_context(STYLE):
        figure, axes = _figure()
        counts = [each.depth for each in depths]
        axes.plot(counts, [each.recall for each in depths], "--", color=COLOURS[5], label="recall of the candidates")
        axes.plot(counts, [each.ndcg for each in depths], "o-", color=COLOURS[0], label="nDCG@10 after reranking")
        axes.set(xscale="log", xlabel="candidates", ylim=(0, 1.02))
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.minorticks_off()
        axes.legend()
        return _svg(figure, "nDCG@10 over the number of candidates")


def latency_plot(latencies: Sequence[Latency], rows: Sequence[Row]) -> str:
    """NDCG@10 over the median milliseconds of a list: a colour for each ranker, a mark for each way."""
    quality = {row.name: row.measures["nDCG@10"] for row in rows}
    names = [*dict.fromkeys(each.name for each in latencies)]
    ways = [*dict.fromkeys(each.way for each in latencies)]
    with require_plots().rc_context(STYLE):
        figure, axes = _figure()
        for each in latencies:
            colour, mark = COLOURS[names.index(each.name) % len(COLOURS)], MARKS[ways.index(each.way) % len(MARKS)]
            bar = [[0.0], [max(0.0, each.p95 - each.p50)]]
            axes.errorbar([each.p50], [quality[each.name]], xerr=bar, fmt=mark, color=colour, capsize=3)
        for number, name in enumerate(names):
            axes.plot([], [], "-", linewidth=4, color=COLOURS[number % len(COLOURS)], label=name)
        for number, way in enumerate(ways):
            axes.plot([], [], MARKS[number % len(MARKS)], color=INK, label=way)
        axes.set(xscale="log", xlabel="milliseconds for a list (median, bar to the 95th percentile)", ylabel="nDCG@10")
        axes.margins(0.1, 0.25)
        _plain_ticks(axes)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        return _svg(figure, "nDCG@10 over the time for a list")


def _plain_ticks(axes: Any) -> None:
    """Write the numbers of a logarithmic axis out: powers would be markup."""
    ticker = importlib.import_module("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def reliability_plot(measured: Mapping[str, Sequence[Bin]]) -> str:
    """The share of relevant documents over their probability, by name, with the number of documents in each bin."""
    with require_plots().rc_context(STYLE):
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], ":", color=INK, label="as it should be")
        for colour, (name, bins) in zip(COLOURS, measured.items(), strict=False):
            points = [(each.probability, each.relevant) for each in bins]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
            for each, where in zip(bins, points, strict=True):
                axes.annotate(f"{each.documents:,}", where, xytext=(4, -11), textcoords="offset points", fontsize=7)
        axes.set(xlabel="probability", ylabel="share of relevant documents", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend()
        return _svg(figure, "share of relevant documents over their probability")


def _figure() -> tuple[Any, Any]:
    # Not pyplot, which keeps figures and looks for a display.
    figure = require_plots().figure.Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any, label: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = stream.getvalue().replace(INK, "currentColor")
    # Ids of one page differ; what comes before the root is for a file of its own.
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{label.replace(' ', '-')}-", drawn[drawn.index("<svg") :])
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
