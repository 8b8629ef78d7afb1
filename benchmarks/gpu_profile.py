"""Profile one ranking on a GPU: where its time goes, by kernel, and how long the GPU waits.

    PYTHONPATH=.:kernels python benchmarks/gpu_profile.py [--output profile.json] [--tiny]

A list of 100 documents, from text to ranking, new and prepared, through random weights in the shape of Mistral-7B (see
gpu_engine.py); attention as `auto` chooses it. Each row is one kernel or copy: its calls, its time on the device and
the part of the ranking's wall time that this is. `(idle)` is what no row has: the GPU waited for Python or copies. The
profiler itself takes time, so a ranking is slower here than in gpu_engine.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from gpu_common import Table, arguments, attempt, machine, middle, workload
from gpu_engine import mistral, raw_scores, texts, timed
from torch.profiler import ProfilerActivity, profile

from blockrank_rerank import BlockRankReranker

COLUMNS = {"call": "<9", "kernel": "<70", "calls": ">6d", "ms": ">16.3f", "of the time": ">11.1%"}


def profiled(ranker: BlockRankReranker, documents: Any, device: torch.device, shown: int) -> list[dict[str, Any]]:
    """Return the rows of one ranking: kernels by falling time."""
    raw_scores(ranker, documents)  # compiles and warms up
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        wall, _ = timed(partial(raw_scores, ranker, documents))
    times = [(_device_ms(event, device), event) for event in found.key_averages()]
    times = sorted(((ms, event) for ms, event in times if ms > 0), key=lambda pair: -pair[0])
    rows = [{"kernel": event.key, "calls": event.count, "ms": ms} for ms, event in times[:shown]]
    rest = times[shown:]
    rows.append({"kernel": "(all others)", "calls": sum(e.count for _, e in rest), "ms": sum(ms for ms, _ in rest)})
    rows.append({"kernel": "(idle)", "ms": wall - sum(row["ms"] for row in rows)})
    rows.append({"kernel": "(wall)", "ms": wall})
    return [row | {"of the time": row["ms"] / wall} for row in rows]


def _device_ms(event: Any, device: torch.device) -> float:
    """Return the time that an event itself took on the device; operators whose kernels have rows took none."""
    if device.type == "cpu":
        return float(event.self_cpu_time_total) / 1e3
    return float(event.self_device_time_total) / 1e3 if event.device_type.name == "CUDA" else 0.0


def rows(options: argparse.Namespace, ranker: BlockRankReranker, documents: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of both calls; a call that fails has one that says so."""
    device = ranker.device
    calls = {"new": lambda: documents, "prepared": lambda: ranker.prepare(documents, show_progress=False)}
    for call, given in calls.items():
        done = attempt(lambda given=given: profiled(ranker, given(), device, options.kernels))
        for row in [done.row] if done.failure else done.result:
            yield {"call": call, "documents": len(documents)} | row


def main(options: argparse.Namespace) -> None:
    work = workload(options.tiny)
    table = Table("profile", machine(work.device, options.commit), COLUMNS, options.output)
    table.head()
    count = options.documents or middle(work.documents)
    ranker = mistral(work)("auto", work.dtype)
    for row in rows(options, ranker, texts(work, count, 0)):
        table.add(row)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--documents", type=int, help="100 if not given")
    parser.add_argument("--kernels", type=int, default=25, help="how many have a row of their own")
    main(parser.parse_args())
