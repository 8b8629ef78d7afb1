"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from blockrank_rerank.serving.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Upper bounds of a histogram's buckets: from a prepared list to a long one that is read."""


class Metrics:
    """Counters of one server, each with a name that says its unit."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "blockrank_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.in_progress = Gauge(
            "blockrank_requests_in_progress", "Requests that are not answered yet.", registry=self.registry
        )
        self.seconds = Histogram(
            "blockrank_request_seconds", "From request to answer.", ["path"], registry=self.registry, buckets=SECONDS
        )
        self.waited_seconds = Histogram(
            "blockrank_waited_seconds", "From request to its turn.", registry=self.registry, buckets=SECONDS
        )
        self.documents = Counter(
            "blockrank_documents", "Documents that were ranked.", ["served_from"], registry=self.registry
        )
        self.tokens = Counter(
            "blockrank_tokens", "Tokens of queries and documents, read or not.", registry=self.registry
        )

    def watch(self, scheduler: Scheduler) -> None:
        """Report what waits, and what the cache holds, whenever somebody asks."""
        self.registry.register(_Gauges(scheduler))

    def text(self) -> bytes:
        """Return everything in the text format of Prometheus."""
        text: bytes = generate_latest(self.registry)
        return text


class _Gauges:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterable[Metric]:
        """Yield the present values."""
        yield GaugeMetricFamily("blockrank_waiting_requests", "Requests in the queue.", self._scheduler.waiting)
        cache = self._scheduler.ranker.cache_info
        if cache is not None:
            yield GaugeMetricFamily("blockrank_cache_bytes", "Bytes of states in the cache.", cache.nbytes)
            yield GaugeMetricFamily("blockrank_cache_documents", "Blocks in the cache.", cache.documents)
