"""Draw what benchmarks wrote: a PNG beside each file.

    pip install matplotlib && python benchmarks/plot.py forward.json kernels.json training.json deadline.json

The files are those of `--output` of gpu_forward.py, gpu_kernels.py, gpu_training.py and deadline.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

try:
    import matplotlib
except ImportError:
    sys.exit("plots need matplotlib, which is not installed: pip install matplotlib")

matplotlib.use("agg")  # no display where benchmarks run
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter

Row = dict[str, Any]


def distinct(rows: Iterable[Row], *keys: str) -> list[tuple[Any, ...]]:
    """Values of the keys, each combination once, in the order of the rows."""
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def curves(axes: Any, rows: list[Row], value: str) -> None:
    """A line per contestant over the number of documents, in the same colour whoever has no values."""
    for place, (name,) in enumerate(distinct(rows, "contestant")):
        points = [(row["documents"], row[value]) for row in rows if row["contestant"] == name and row.get(value)]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name, color=f"C{place}")
    axes.set(xlabel="documents", ylabel=value, xscale="log")
    counts = [count for (count,) in distinct(rows, "documents")]
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def forward(rows: list[Row]) -> Any:
    """Time with its floor, and peak memory, for each kind of lengths."""
    kinds = distinct(rows, "lengths")
    figure, grid = plt.subplots(2, len(kinds), squeeze=False, figsize=(6 * len(kinds), 9))
    for column, (kind,) in enumerate(kinds):
        chosen = [row for row in rows if row["lengths"] == kind]
        curves(grid[0][column], chosen, "ms")
        floor = distinct([row for row in chosen if row.get("floor ms")], "documents", "floor ms")
        if floor:
            grid[0][column].plot(*zip(*floor, strict=True), "k:", label="floor")
        grid[0][column].set(title=f"{kind} lengths", yscale="log")
        grid[0][column].legend()
        curves(grid[1][column], chosen, "peak GiB")
    return figure


def kernels(rows: list[Row]) -> Any:
    """Parts of the ceilings, a row of plots for each operation and direction, a column for each shape."""
    operations, shapes = distinct(rows, "operation", "direction"), distinct(rows, "lengths", "dim")
    figure, grid = plt.subplots(
        len(operations), len(shapes), squeeze=False, figsize=(4 * len(shapes), 3.5 * len(operations))
    )
    for line, (operation, direction) in zip(grid, operations, strict=True):
        value = "of tensor cores" if operation == "block_attention" else "of bandwidth"
        for axes, (kind, dim) in zip(line, shapes, strict=True):
            wanted = {"operation": operation, "direction": direction, "lengths": kind, "dim": dim}
            curves(axes, [row for row in rows if wanted.items() <= row.items()], value)
            axes.set_title(f"{operation} {direction}\n{kind}, head dim {dim}", fontsize=9)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.legend()
    return figure


def training(rows: list[Row]) -> Any:
    """Both passes stacked, and peak memory."""
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9, 4))
    done = [row for row in rows if not row["failure"]]
    names = [row["contestant"] for row in done]
    passes = [[row[key] for row in done] for key in ("forward ms", "backward ms")]
    times.bar(names, passes[0], label="forward")
    times.bar(names, passes[1], bottom=passes[0], label="backward")
    times.set(ylabel="ms")
    times.legend()
    memory.bar(names, [row["peak GiB"] or 0 for row in done])
    memory.set(ylabel="peak GiB above the weights")
    return figure


def deadline(rows: list[Row]) -> Any:
    """nDCG@10 over the time of a list, for every way to take less of it, in each collection and in their mean."""
    names = [name for (name,) in distinct(rows, "collection")]
    columns = min(len(names), 3)
    lines = -(-len(names) // columns)
    figure, grid = plt.subplots(lines, columns, squeeze=False, figsize=(5 * columns, 3.5 * lines))
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        key, label = ("share", "share of the time of a whole list") if name == "mean" else ("ms", "ms")
        ways(axes, [row for row in rows if row["collection"] == name], key, label)
        axes.set_title(name)
    return figure


def ways(axes: Any, rows: list[Row], key: str, label: str) -> None:
    """A line for every kind of way, and the whole list's nDCG@10 dotted."""
    (whole,) = (row for row in rows if row["kind"] == "whole")
    axes.axhline(whole["nDCG@10"], color="k", linestyle=":", linewidth=1)
    for place, (kind,) in enumerate(distinct(rows, "kind")):
        points = sorted((row[key], row["nDCG@10"]) for row in rows if row["kind"] == kind)
        axes.plot(*zip(*points, strict=True), marker="o", label=kind, color=f"C{place}")
    axes.set(xlabel=label, ylabel="nDCG@10", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


FIGURES: dict[str, Callable[[list[Row]], Any]] = {
    "forward": forward,
    "kernels": kernels,
    "training": training,
    "deadline": deadline,
}


def main(files: list[Path]) -> None:
    for path in files:
        content = json.loads(path.read_text(encoding="utf-8"))
        figure = FIGURES[content["benchmark"]](content["rows"])
        figure.suptitle(content["machine"], fontsize=7)
        figure.tight_layout()
        figure.savefig(path.with_suffix(".png"), dpi=150)
        plt.close(figure)
        print(path.with_suffix(".png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="JSON written with --output")
    main(**vars(parser.parse_args()))
