"""What each head of each layer is worth, as a picture and as lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from blockrank_rerank.evaluation.report.plots import require_plots
from blockrank_rerank.finetune.detect.readings import Array

SHADES, ASCII_SHADES = "▁▂▃▄▅▆▇█", "_.:-=+*#"
"""From the worst head to the best; the second for terminals that have no blocks."""
INCHES_PER_CELL, LEAST_INCHES, MOST_INCHES = 0.28, 3.0, 12.0


def write_heat_map(path: Path, heat: Mapping[int, Array]) -> None:
    """Write nDCG@10 of every head, plain and corrected side by side, as PNG.

    Parameters
    ----------
    path : Path
        Of the file.
    heat : mapping
        Layer → ``[2, H]``.

    Raises
    ------
    ImportError
        Where matplotlib is missing.
    """
    matplotlib = require_plots("a heat map")
    values, layers = np.stack([*heat.values()]), [*heat]
    cells = (values.shape[2], len(layers))
    width, height = (float(np.clip(INCHES_PER_CELL * count, LEAST_INCHES, MOST_INCHES)) for count in cells)
    figure = matplotlib.figure.Figure(figsize=(2 * width + 1.5, height + 1), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, part in zip(panels, ("plain", "corrected"), range(2), strict=True):
        image = axes.imshow(values[:, part], vmin=values.min(), vmax=values.max(), aspect="auto", cmap="viridis")
        axes.set(title=title, xlabel="head")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("layer")
    panels[0].set_yticks(range(len(layers)), [str(layer) for layer in layers])
    figure.colorbar(image, ax=panels, label="nDCG@10 of one head alone")
    figure.savefig(path, format="png", dpi=120)


def shaded(heat: Mapping[int, Array], shades: str = SHADES) -> dict[int, tuple[str, str]]:
    """Layer → one character for each head, plain and corrected, on one scale for all."""
    values = np.stack([*heat.values()])
    low, high = float(values.min()), float(values.max())
    steps = np.round((values - low) / max(high - low, 1e-9) * (len(shades) - 1)).astype(int)
    return {
        layer: ("".join(shades[step] for step in plain), "".join(shades[step] for step in corrected))
        for layer, (plain, corrected) in zip(heat, steps, strict=True)
    }
