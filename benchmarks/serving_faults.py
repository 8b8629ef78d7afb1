"""Send a server rankings mixed with malformed bodies: none is answered 500, and its memory stays what it was.

    python benchmarks/serving_faults.py [--requests 10000] [--dtype float32]

Half are rankings. Of the others a third each are JSON of any form, bytes of any kind, and what schemathesis makes of
the server's OpenAPI page (extra `test-serve`). Ends with status 1 where a status is 500, or where resident memory grew
by more than 5 % after the first fifth. Linux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import schemathesis
from cross_encoder import QUERY
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scaling import passages
from server_process import resident_megabytes, started

from blockrank_rerank.evaluation.machine import machine

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.serving.test_fuzz import PATHS, bodies, values

any_content = st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(max_size=200), st.integers(0, 300))
JSON = {"Content-Type": "application/json"}
SERVER = ("--max-documents", "5", "--max-body", "20KB", "--cache", "20MB")
"""Limits that some bodies pass, and a cache that is full before memory is first looked at."""
GROWTH = 1.05
PARTS = 10


class Sender:
    """Sends requests, counts their statuses, and looks at the server's memory now and then."""

    def __init__(self, url: str, pid: int, requests: int) -> None:
        self.statuses: Counter[int] = Counter()
        self.megabytes: list[float] = []
        self._pid, self._every = pid, requests // PARTS
        self._client = httpx.Client(base_url=url, timeout=120)
        # Short, so that thousands are a matter of minutes; one list of six is too long.
        self._texts = itertools.cycle([text[:100] for text in passages(1000)])
        self._sizes = itertools.cycle(range(1, 7))

    def ranking(self) -> None:
        """Send a list of 1 to 6 passages."""
        documents = list(itertools.islice(self._texts, next(self._sizes)))
        self.count(self._client.post("/v2/rerank", json={"query": QUERY, "documents": documents}).status_code)

    def body(self, path: str, content: str | bytes, headers: dict[str, str]) -> None:
        """Send any body."""
        self.count(self._client.post(path, content=content, headers=headers).status_code)

    def count(self, status: int) -> None:
        """Note a status."""
        self.statuses[status] += 1
        if self.statuses.total() % self._every == 0:
            self.megabytes.append(resident_megabytes(self._pid))


def send(url: str, sender: Sender, requests: int) -> None:
    """Send everything, kinds in turns, so that memory is looked at under all of them."""
    sixth = requests // PARTS // 6
    chosen = settings(
        max_examples=sixth,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    operations = [
        operation.ok() for operation in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()
    ]

    @chosen
    @given(st.sampled_from(PATHS), bodies | values)
    def any_json(path: str, body: object) -> None:
        sender.body(path, json.dumps(body), JSON)

    @chosen
    @given(st.sampled_from(PATHS), any_content, st.sampled_from(["application/json", "text/plain", "a/b;"]))
    def any_bytes(path: str, content: bytes, kind: str) -> None:
        sender.body(path, content, {"Content-Type": kind})

    @chosen
    @given(case=st.sampled_from(operations).flatmap(lambda operation: operation.as_strategy()))
    def any_of_the_page(case: schemathesis.Case) -> None:
        sender.count(case.call(timeout=120).status_code)

    for part in range(1, PARTS + 1):
        any_json()
        any_bytes()
        any_of_the_page()
        while sender.statuses.total() < part * requests // PARTS:
            sender.ranking()


def main(requests: int, dtype: str) -> None:
    print(machine())
    with started("--dtype", dtype, *SERVER) as (pid, url):
        sender = Sender(url, pid, requests)
        start = time.perf_counter()
        send(url, sender, requests)
        seconds = time.perf_counter() - start
    growth = sender.megabytes[-1] / sender.megabytes[PARTS // 5 - 1]
    print(f"{sender.statuses.total()} requests in {seconds:.0f} s; statuses {dict(sorted(sender.statuses.items()))}")
    print(
        f"resident MB after each tenth: {', '.join(f'{value:.0f}' for value in sender.megabytes)}; {growth:.3f} times"
    )
    if sender.statuses[500] or growth > GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--dtype", default="float32")
    main(**vars(parser.parse_args()))
