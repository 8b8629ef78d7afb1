"""The plot of a run: its loss, and nDCG@10 where that was measured, over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.evaluation.report.plots import COLOURS, require_plots
from blockrank_rerank.ranking.terminal import print_line

PLOT_NAME = "training.png"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
INCHES = (5.0, 3.4)
"""Width of one panel and height; the ground is white, so that the plot is readable on pages of either colour."""


def write_plot(path: Path, log: Sequence[Mapping[str, Any]], measured: Sequence[tuple[float, float]]) -> None:
    """Write the plot as PNG, or say in one line what it needs.

    Parameters
    ----------
    path : Path
        Of the file.
    log : sequence of mapping
        The trainer's records, some of which have ``step`` and ``loss``.
    measured : sequence of (step, nDCG@10)
        Empty where nothing was measured.
    """
    try:
        matplotlib = require_plots("the plot of a run")
    except ImportError as error:
        print_line(str(error))
        return
    losses = [(line["step"], line["loss"]) for line in log if "loss" in line]
    panels = {"loss": losses, "nDCG@10": measured}
    drawn = {name: points for name, points in panels.items() if points}
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(INCHES[0] * len(drawn), INCHES[1]), layout="constrained")
        for (name, points), colour, axes in zip(
            drawn.items(), COLOURS, figure.subplots(1, len(drawn), squeeze=False)[0], strict=False
        ):
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, color=colour)
            axes.set(xlabel="step", ylabel=name)
        figure.savefig(path, format="png", dpi=120)
