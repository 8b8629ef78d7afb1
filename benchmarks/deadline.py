"""Measure what a deadline costs in nDCG@10, beside other ways to take less time; and how well it is kept.

    python benchmarks/deadline.py curve FOLDER --queries 15 --output deadline.json
    python benchmarks/plot.py deadline.json
    python benchmarks/deadline.py calls FOLDER/NAME --calls 1000

FOLDER holds BEIR folders. Lists come in the order of the first stage, or with ``--shuffled`` in none. ``curve`` ranks
each list in every way, one after the other: whole; by deadlines that are shares of the time which it took whole;
pruned; with documents cut to fewer tokens; and the first documents alone, with the others behind them. ``calls`` asks
for rankings by deadlines that are drawn between a tenth and the whole of a list's time, and says how many came late.
Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from evaluation_sets import collections, read_task

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine
from blockrank_rerank.evaluation.measures import evaluate_run, shuffled
from blockrank_rerank.evaluation.rerank_run import first_documents
from blockrank_rerank.options.values import parse_prune

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""Of the time of a whole list, that deadlines allow."""

PRUNE = ("1:50", "2:50", "1:30", "2:30", "1:10")
CUT = (128, 64, 32)
FIRST = (75, 50, 30, 15)
LATE = 1.1
"""Part of its deadline from which on a ranking is late."""

Way = Callable[[str, Sequence[Any], float], list[int]]
"""Ranks a list, of which it is told how long it takes whole, in ms: the places of its documents, best first."""


def ways(model: str, shares: Sequence[float]) -> dict[str, Way]:
    """Every way to rank a list, by a name of two words: kind and setting; the first reads it whole."""

    def order(ranker: BlockRankReranker, query: str, documents: Sequence[Any], **limits: Any) -> list[int]:
        return [found.index for found in ranker.rank(query, documents, **limits)]

    def by(**options: Any) -> Way:
        ranker = BlockRankReranker.from_pretrained(model, **options)
        return lambda query, documents, ms: order(ranker, query, documents)

    def within(share: float) -> Way:
        return lambda query, documents, ms: order(whole, query, documents, deadline_ms=share * ms)

    def first(count: int) -> Way:
        return lambda query, documents, ms: [
            *order(whole, query, documents[:count]),
            *range(count, len(documents)),
        ]

    whole = BlockRankReranker.from_pretrained(model)
    found = {"whole list": by()}
    found |= {f"deadline {share:g}": within(share) for share in shares}
    found |= {f"prune {setting}": by(prune=parse_prune(setting.split(","))) for setting in PRUNE}
    found |= {f"cut {tokens}": by(max_document_tokens=tokens, long_documents="truncate") for tokens in CUT}
    return found | {f"first {count}": first(count) for count in FIRST}


def timed_ms(way: Way, query: str, documents: Sequence[Any], whole_ms: float = 0.0) -> tuple[list[int], float]:
    """A ranking, and the milliseconds that it took."""
    start = time.perf_counter()
    order = way(query, documents, whole_ms)
    return order, (time.perf_counter() - start) * 1e3


def lists_of(folder: Path, queries: int | None, depth: int, in_no_order: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task of a collection, and its lists by query: the text, and the documents by id."""
    task = read_task(folder, queries, depth)
    run = first_documents(task["first_stage"], depth)
    # Lists in which all have one score are in no order of a first stage; often the relevant documents lead them.
    run |= shuffled({query: found for query, found in run.items() if in_no_order or len({*found.values()}) == 1}, 0)
    texts = task["collection"].queries
    return task, {
        query: (texts[query], {document: task["corpus"][document] for document in run[query]})
        for query in texts
        if run.get(query)
    }


def measure(folder: Path, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one collection: way, mean milliseconds of a list, and nDCG@10."""
    task, lists = lists_of(folder, options.queries, options.depth, options.shuffled)
    contestants = ways(model, options.shares)
    runs: dict[str, dict[str, Any]] = {name: {} for name in contestants}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for way in contestants.values():
        way("warm", ["up"] * 60, 1e6)
    for query, (text, found) in lists.items():
        whole_ms = 0.0
        for name, way in contestants.items():
            order, ms = timed_ms(way, text, [*found.values()], whole_ms)
            whole_ms = whole_ms or ms
            runs[name][query] = {[*found][place]: -float(rank) for rank, place in enumerate(order)}
            times[name].append(ms)
    return [
        {
            "collection": folder.name,
            "kind": name.split()[0],
            "setting": name.split()[1],
            "ms": statistics.mean(times[name]),
            "share": statistics.mean(times[name]) / statistics.mean(times["whole list"]),
            "nDCG@10": evaluate_run(task["collection"].qrels, runs[name], task["min_relevance"])["nDCG@10"],
        }
        for name in contestants
    ]


def curve(options: argparse.Namespace) -> None:
    """Print and write the rows of every collection, and their means."""
    rows: list[dict[str, Any]] = []
    print(machine())
    for folder in collections(options.folder, options.only):
        rows += measure(folder, options.model, options)
        whole = next(row for row in rows if row["collection"] == folder.name)
        print(f"\n{folder.name}: {whole['ms']:.0f} ms and nDCG@10 {whole['nDCG@10']:.4f} for a whole list", flush=True)
        show([row for row in rows if row["collection"] == folder.name])
        if options.output:
            content = {"benchmark": "deadline", "machine": str(machine()), "rows": mean_rows(rows) + rows}
            options.output.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"\nmean of {len({row['collection'] for row in rows})} collections")
    show(mean_rows(rows))


def mean_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over the collections, for every way."""
    found = []
    for kind, setting in dict.fromkeys((row["kind"], row["setting"]) for row in rows):
        same = [row for row in rows if (row["kind"], row["setting"]) == (kind, setting)]
        means = {key: statistics.mean(row[key] for row in same) for key in ("ms", "share", "nDCG@10")}
        found.append({"collection": "mean", "kind": kind, "setting": setting, **means})
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """One line for each way: its time, and what it loses."""
    whole = rows[0]["nDCG@10"]
    for row in rows:
        lost = 100 * (row["nDCG@10"] - whole)
        name, cost = f"{row['kind']:>8} {row['setting']:<5}", f"{row['ms']:8.1f} ms {row['share']:6.2f} x"
        print(f"  {name} {cost}  {row['nDCG@10']:.4f} {lost:+6.2f}", flush=True)


def calls(options: argparse.Namespace) -> None:
    """Print how late rankings come, as parts of their deadlines."""
    _, lists = lists_of(options.folder, options.queries, options.depth, options.shuffled)
    ranker, generator = BlockRankReranker.from_pretrained(options.model), random.Random(0)
    asked = [(text, [*found.values()]) for text, found in lists.values()]
    ranker.rank(*asked[0], deadline_ms=1000)  # loads the model and measures the machine
    whole = []
    for one in asked:
        start = time.perf_counter()
        ranker.rank(*one)
        whole.append((time.perf_counter() - start) * 1e3)
    parts = []
    for number in range(options.calls):
        place = number % len(asked)
        deadline_ms = options.deadline_ms or generator.uniform(0.1, 1) * whole[place]
        start = time.perf_counter()
        ranker.rank(*asked[place], deadline_ms=deadline_ms)
        parts.append((time.perf_counter() - start) * 1e3 / deadline_ms)
    parts.sort()
    late = sum(part > LATE for part in parts) / len(parts)
    print(machine())
    print(f"{len(parts)} calls, lists of {statistics.mean(whole):.0f} ms (torch threads {torch.get_num_threads()})")
    most = parts[max(int(len(parts) * 0.99) - 1, 0)]
    print(f"more than {LATE - 1:.0%} late: {late:.2%} of calls")
    print(f"time taken / deadline: median {statistics.median(parts):.2f}, 99 % at most {most:.2f}, all {parts[-1]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    for name, function in (("curve", curve), ("calls", calls)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("folder", type=Path, help="folder of BEIR folders; of calls: one BEIR folder")
        command.add_argument("--queries", type=int, default=15)
        command.add_argument("--depth", type=int, default=100)
        command.add_argument("--shuffled", action="store_true", help="lists in random order, not the first stage's")
        command.add_argument("--model", default="default")
    commands.choices["curve"].add_argument("--only", action="append", default=[], help="a collection; may be repeated")
    commands.choices["curve"].add_argument("--shares", type=float, nargs="+", default=SHARES)
    commands.choices["curve"].add_argument("--output", type=Path)
    commands.choices["calls"].add_argument("--calls", type=int, default=1000)
    commands.choices["calls"].add_argument("--deadline-ms", type=float, help="one for all; drawn if not given")
    arguments = parser.parse_args()
    arguments.function(arguments)
