"""Load a server over loopback: requests per second and latencies, beside a loop that ranks one list after the other.

    python benchmarks/serving.py [--part NAME]… [--clients 32] [--output FILE]

Server and clients have processes of their own. The clients are users of locust (extra `test-serve`), each of which
sends its requests one after the other over one connection. Parts, each about two minutes at most on two idle cores:

start     from the command to the first answer, beside importing torch
cold      clients with lists of 20 documents that are read, and the loop; fp32
few       the same with lists of 1, 2 and 5 documents
known     lists of 20 that are read, in the server's cache, and in a store; bf16
mixed     clients of one document and of 20 beside two lists of 1,000, and the same first come, first served; fp32
overload  more than the queue takes, for 20 s: what is answered, and whether anything that was accepted is lost
equal     16 clients with 100 small requests each: the answers are those of the loop
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
from common import ROOT, require_green
from cross_encoder import QUERY
from scaling import passages
from server_process import SERVE, started

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.evaluation.machine import machine

LISTS = 20
"""Documents of a list, where nothing else is said."""
FIRST_COME = (str(ROOT / "benchmarks/serving_first_come.py"),)
WIDE = ("--max-waiting", "10000", "--timeout", "3600", "--max-body", "100MB")
"""Limits that refuse nothing."""
HEADER = "| | requests | requests/s | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|---|"
Lists = list[list[str]]
Client = tuple[str, bool, Lists]
"""Its name in the table, whether it repeats until the others are done, and what it sends."""


class Texts:
    """Different texts, as many as are wanted."""

    def __init__(self) -> None:
        self._passages, self._count = passages(1000), 0

    def lists(self, count: int, documents: int, characters: int | None = None) -> Lists:
        """Lists of different documents."""
        return [[self._next(characters) for _ in range(documents)] for _ in range(count)]

    def _next(self, characters: int | None) -> str:
        self._count += 1
        return f"{self._count} {self._passages[self._count % len(self._passages)]}"[:characters]


def sent(url: str, clients: Iterable[Client], seconds: float | None = None) -> dict[str, Any]:
    """Let clients send at once what they have; the rows of all answers, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        plan, answers = Path(folder) / "plan.json", Path(folder) / "answers.json"
        content = {"url": url, "query": QUERY, "seconds": seconds, "clients": [*clients]}
        plan.write_text(json.dumps(content), encoding="utf-8")
        command = [sys.executable, str(ROOT / "benchmarks/serving_clients.py"), str(plan), str(answers)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return dict(json.loads(answers.read_text(encoding="utf-8")))


def line(name: str, seconds: float, each_ms: Sequence[float]) -> dict[str, Any]:
    """Print one line of the table, and return its numbers."""
    ordered = sorted(each_ms)
    p50, p95, p99 = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.95, 0.99))
    rate = len(ordered) / seconds
    print(f"| {name} | {len(ordered)} | {rate:.2f} | {p50:,.0f} | {p95:,.0f} | {p99:,.0f} |", flush=True)
    return {"name": name, "requests": len(ordered), "per_second": rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def served(name: str, load: dict[str, Any]) -> dict[str, Any]:
    """The line of a load that nothing of was refused."""
    statuses = {row["status"] for row in load["rows"]}
    assert statuses == {200}, statuses
    return line(name, load["seconds"], [row["ms"] for row in load["rows"]])


def loop(name: str, dtype: str, lists: Lists) -> dict[str, Any]:
    """The line of a loop in this process."""
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype=dtype)
    ranker.rank(QUERY, lists[0][:1])
    each = []
    for documents in lists:
        begun = time.perf_counter()
        ranker.rank(QUERY, documents)
        each.append(1000 * (time.perf_counter() - begun))
    return line(name, sum(each) / 1000, each)


def shared_out(name: str, lists: Lists, clients: int) -> list[Client]:
    """Clients with the same number of lists each."""
    return [(name, False, lists[number::clients]) for number in range(clients)]


def beside_the_loop(documents: int, clients: int, requests: int) -> list[dict[str, Any]]:
    """The lines of a loop and a server that read the same lists."""
    lists = Texts().lists(clients * requests, documents)
    name = f"lists of {documents}"
    rows = [loop(f"a loop, {name}", "float32", lists)]
    with started("--dtype", "float32", *WIDE) as (_, url):
        rows.append(served(f"server, {name}", sent(url, shared_out(name, lists, clients))))
    print(f"requests/s, server : loop = {rows[1]['per_second'] / rows[0]['per_second']:.2f}")
    return rows


def start(clients: int) -> list[dict[str, Any]]:
    """Seconds from the command to the first answer, and of importing torch; each three times, in turns."""
    torch_s, answer_s = [], []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        torch_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with started() as (_, url):
            httpx.post(f"{url}/v2/rerank", json={"query": QUERY, "documents": passages(2)}).raise_for_status()
            answer_s.append(time.perf_counter() - begun)
    torch, answer = statistics.median(torch_s), statistics.median(answer_s)
    print(f"start to first answer {answer:.2f} s, importing torch {torch:.2f} s: {answer - torch:.2f} s beyond it")
    return [{"answer_s": answer, "torch_s": torch}]


def cold(clients: int) -> list[dict[str, Any]]:
    """Lists that are read."""
    return beside_the_loop(LISTS, clients, 1)


def few(clients: int) -> list[dict[str, Any]]:
    """Short lists that are read."""
    return [row for documents in (1, 2, 5) for row in beside_the_loop(documents, clients, 4)]


def known(clients: int, dtype: str = "bfloat16") -> list[dict[str, Any]]:
    """Lists that are read, and those that need not be."""
    clients = min(clients, 8)
    lists = Texts().lists(clients, LISTS)
    options = ("--dtype", dtype, *WIDE)
    again = [(name, repeats, mine * 10) for name, repeats, mine in shared_out("known", lists, clients)]
    with started(*options) as (_, url):
        rows = [served(f"read, {dtype}", sent(url, shared_out("read", lists, clients)))]
    with started(*options, "--cache", "2GB") as (_, url):
        sent(url, shared_out("first", lists, clients))
        rows.append(served(f"cached, {dtype}", sent(url, again)))
    with tempfile.TemporaryDirectory() as folder:
        ranker = BlockRankReranker.from_pretrained(device="cpu", dtype=dtype)
        ranker.prepare_store(folder, [text for documents in lists for text in documents])
        with started(*options, "--store", folder) as (_, url):
            rows.append(served(f"stored, {dtype}", sent(url, again)))
    ratios = [row["per_second"] / rows[0]["per_second"] for row in rows[1:]]
    print(f"requests/s, cached : read = {ratios[0]:.1f}, stored : read = {ratios[1]:.1f}")
    return rows


def mixed(clients: int, documents: int = 1000) -> list[dict[str, Any]]:
    """One document and usual lists beside long ones, with the server's queue and with first come, first served."""
    texts, rows = Texts(), []
    load_of = {
        "one document": [(True, texts.lists(100, 1)) for _ in range(min(clients, 6))],
        f"lists of {LISTS}": [(True, texts.lists(10, LISTS)) for _ in range(2)],
        f"lists of {documents}": [(False, [its]) for its in texts.lists(2, documents)],
    }
    # The long ones first, so that the others come behind them.
    sends = [(kind, *client) for kind, of_kind in reversed(load_of.items()) for client in of_kind]
    for name, program in (("server", SERVE), ("first come, first served", FIRST_COME)):
        with started("--dtype", "float32", *WIDE, program=program) as (_, url):
            load = sent(url, sends)
        for kind in load_of:
            chosen = {**load, "rows": [row for row in load["rows"] if row["name"] == kind]}
            rows.append(served(f"{kind}, {name}", chosen))
    ratio = rows[0]["p99_ms"] / rows[len(load_of)]["p99_ms"]
    print(f"p99 of one document, server : first come, first served = {ratio:.3f}")
    return rows


def overload(clients: int, seconds: float = 20) -> list[dict[str, Any]]:
    """More than a queue of 8 takes."""
    lists = Texts().lists(clients, 5)
    with started("--dtype", "float32", "--max-waiting", "8") as (_, url):
        load = sent(url, [("overload", True, [its]) for its in lists], seconds)
        counted = httpx.get(f"{url}/metrics").text
    statuses = Counter(row["status"] for row in load["rows"])
    answered = [row for row in load["rows"] if row["status"] == 200]
    assert statuses.keys() <= {200, 429}, statuses
    assert all(len(row["scores"]) == row["documents"] for row in answered)
    assert f'blockrank_requests_total{{path="/v2/rerank",status="200"}} {len(answered)}.0' in counted
    found = line("accepted under overload", load["seconds"], [row["ms"] for row in answered])
    print(f"{statuses[429]} answers 429, {statuses[200]} ranked, no other status: nothing that was accepted is lost")
    return [found | {"refused": statuses[429]}]


def equal(clients: int, requests: int = 100) -> list[dict[str, Any]]:
    """Answers to 16 clients at once against those of the loop."""
    texts = Texts()
    lists = [texts.lists(1, 1 + number % 3, 100)[0] for number in range(16 * requests)]
    ranker = BlockRankReranker.from_pretrained(device="cpu", dtype="float32")
    expected = [[d.probability for d in sorted(ranker.rank(QUERY, it), key=lambda d: d.index)] for it in lists]
    with started("--dtype", "float32", *WIDE) as (_, url):
        load = sent(url, shared_out("equal", lists, 16))
    row = served(f"16 clients, {requests} requests each", load)
    difference = 0.0
    for client in range(16):
        mine = [row["scores"] for row in load["rows"] if row["client"] == client]
        for scores, wanted in zip(mine, expected[client::16], strict=True):
            difference = max([difference, *(abs(a - b) for a, b in zip(scores, wanted, strict=True))])
    print(f"largest difference of {len(lists)} answers from the loop's: {difference:.1e}")
    assert difference <= 1e-5
    return [row | {"largest_difference": difference}]


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    part.__name__: part for part in (start, cold, few, known, mixed, overload, equal)
}


def main(part: Sequence[str], clients: int, output: Path | None) -> None:
    """Print tables, and write the numbers."""
    require_green("tests/serving/test_scheduler.py")
    print(machine())
    content: dict[str, Any] = {"machine": asdict(machine()), "clients": clients, "parts": {}}
    for name in part or PARTS:
        print(f"\n{name}\n\n{HEADER}", flush=True)
        begun = time.perf_counter()
        rows = PARTS[name](clients)
        seconds = time.perf_counter() - begun
        print(f"({seconds:.0f} s)", flush=True)
        content["parts"][name] = {"seconds": seconds, "rows": rows}
        if output is not None:
            output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", default=[], choices=PARTS, help="may be repeated; all by default")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--output", type=Path, help="JSON with the numbers and the machine")
    main(**vars(parser.parse_args()))
