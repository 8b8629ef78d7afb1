"""Write the table of results into README and model card, from what benchmarks/results.py left in docs/results.

    python benchmarks/results_table.py [--check]

The table stands between two comments of each page. --check changes nothing, and fails where the table is another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "blockrank_rerank/default_model/README.md")
BEGIN = "<!-- results: written by benchmarks/results_table.py -->"
END = "<!-- end of results -->"
TITLES = {
    "trec-dl19": "TREC-DL 2019 passages",
    "scifact": "SciFact",
    "scifact-30": "SciFact, BM25's top 30",
    "cosqa": "CoSQA (web query → code)",
    "cisi": "CISI",
    "npl": "NPL",
    "xquad-en": "XQuAD-en",
    "trecqa": "TrecQA (its candidates; first stage is random order)",
}
"""Collections of the table, in its order."""
IN_MEAN = tuple(name for name in TITLES if name != "scifact-30")
HEADINGS = ("collection", "queries", "first stage", "cosine", "MaxSim", "default model", "95 % interval", "over cosine")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Numbers by file name, of the collections of the table."""
    paths = {name: folder / f"{name}.json" for name in TITLES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def columns(numbers: dict[str, Any]) -> list[float | None]:
    """nDCG@10 of the first stage, the base's cosine and MaxSim, and our model; None for what was not measured."""
    rows = {row["name"]: row["measures"]["nDCG@10"] for row in numbers["rows"]}
    base = [next((rows[name] for name in rows if name.startswith(kind)), None) for kind in ("cosine ", "MaxSim ")]
    return [next(iter(rows.values())), *base, rows[numbers["model"]]]


def table(results: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, as percentages, with the mean over the collections."""
    lines = [list(HEADINGS), ["---"] * len(HEADINGS)]
    for name, numbers in results.items():
        ours = next(row for row in numbers["rows"] if row["name"] == numbers["model"])["interval"]
        interval = f"{100 * ours['low']:.1f}–{100 * ours['high']:.1f}"
        queries = f"{numbers['collection']['queries']:,}"
        lines.append([TITLES[name], queries, *map(_percent, columns(numbers)), interval, gain(numbers)])
    measured = [columns(results[name]) for name in IN_MEAN if name in results]
    if len(measured) > 1:
        lines.append(["mean", "", *(_percent(_mean(column)) for column in zip(*measured, strict=True)), "", ""])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def gain(numbers: dict[str, Any]) -> str:
    """What our model gains over the base's cosine, with the interval of a paired bootstrap."""
    found = next((row["ours"] for row in numbers["rows"] if row["name"].startswith("cosine ")), None)
    if found is None:
        return "–"
    mean, low, high = (f"{100 * found[name]:+.1f}".replace("-", "−") for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _mean(column: tuple[float | None, ...]) -> float | None:
    values = [value for value in column if value is not None]
    return sum(values) / len(values) if len(values) == len(column) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def with_table(page: Path, results: dict[str, dict[str, Any]]) -> str:
    """The page with the table between its two comments."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"expected the lines {BEGIN!r} and {END!r} once each, in this order, around the table of {page}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table(results)}\n{END}{after}"


def main(check: bool, pages: Sequence[Path] = PAGES, folder: Path = ROOT / "docs/results") -> None:
    results = read_results(folder)
    if not results:
        print(f"{folder} has no numbers yet: the table is not checked")
        return
    for page in pages:
        written = with_table(page, results)
        if check and written != page.read_text(encoding="utf-8"):
            sys.exit(f"the table of {page} is not that of docs/results: run python benchmarks/results_table.py")
        if not check:
            page.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the table is another")
    main(**vars(parser.parse_args()))
