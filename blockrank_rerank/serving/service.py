"""A request of any protocol goes through the scheduler and comes back as that protocol's answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from fastapi import Request, Response

from blockrank_rerank import __version__
from blockrank_rerank.errors import DocumentError, shown_ids
from blockrank_rerank.ranking.score_type import ScoreType
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.answer import json_response
from blockrank_rerank.serving.errors import ApiError, refused
from blockrank_rerank.serving.limits import ServerLimits
from blockrank_rerank.serving.log import fault, log
from blockrank_rerank.serving.metrics import Metrics
from blockrank_rerank.serving.middleware import Record, record_of
from blockrank_rerank.serving.scheduler import Closed, Job, Overloaded, Scheduler
from blockrank_rerank.serving.tracing import rerank_span
from blockrank_rerank.serving.turn import RankRequest, Refused, Served, score_type_of
from blockrank_rerank.states.stored_documents import StoredDocuments


class RequestForm(Protocol):
    """What the requests of every protocol can do."""

    model: str | None

    @property
    def num_documents(self) -> int:
        """Documents to rank."""

    def rank_request(self, stored: StoredDocuments | None) -> RankRequest:
        """What to rank, with texts of the store for ids; raises Refused for what cannot be."""

    def answer(self, served: Served, score_type: ScoreType, model: str, request_id: str) -> Any:
        """The answer, as JSON has it."""


class Service:
    """Answers requests with one model, by the score that ``score_type`` names."""

    def __init__(self, ranker: BlockRankReranker, limits: ServerLimits, metrics: Metrics) -> None:
        self.ranker, self.limits, self._metrics = ranker, limits, metrics
        self.score_type = score_type_of(ranker)
        # Of a local folder or file only the name is told: where it lies is no business of clients.
        self.model = Path(ranker.model).resolve().name if Path(ranker.model).exists() else ranker.model
        self._scheduler: Scheduler | None = None
        folder = ranker.lookup.folder if ranker.lookup is not None else None
        self._stored = StoredDocuments(folder) if folder is not None else None

    def start(self) -> None:
        """Load the model, open the store and take requests."""
        load(self.ranker)
        if self._stored is not None:
            len(self._stored)  # reads its ids, for which the first request would wait
        self._scheduler = Scheduler(self.ranker, self.limits.waiting)
        self._metrics.watch(self._scheduler)
        log("ready", model=self.ranker.model, device=str(self.ranker.device), score=self.score_type)

    def close(self) -> None:
        """Rank what was taken, and take nothing more."""
        if self._scheduler is not None:
            self._scheduler.close()
            # Here, as uvicorn raises the signal again that has ended it.
            log("stop")

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self._scheduler is not None and self._scheduler.is_open

    async def answer(self, http: Request, body: RequestForm) -> Response:
        """Rank what a request asks for.

        Raises
        ------
        ApiError
            For everything that keeps it from being ranked.
        """
        record = record_of(http.scope)
        if body.num_documents > self.limits.documents:
            most = self.limits.documents
            raise ApiError(413, f"{body.num_documents} documents, more than the {most} of a request (--max-documents)")
        tuning = self._tuning(body.model)
        with _told_apart(record):
            # Texts of a store are read from the disk.
            wanted = await asyncio.to_thread(body.rank_request, self._stored)
        wanted.tuning = tuning
        with rerank_span(http.headers) as set_attribute:
            served = await self._ranking(wanted, http, record)
            for name, value in self._count(served).items():
                set_attribute(f"blockrank.{name}", value)
                record.facts[name] = value
        answer = body.answer(served, self.score_type, tuning or self.model, record.request_id)
        # A thread has a stack as short as any, so that what was nested as deep as can be read can be written.
        return await asyncio.to_thread(json_response, answer)

    def info(self) -> dict[str, Any]:
        """What the server is, with the names of text-embeddings-inference where it has them."""
        engine, config, limits = self.ranker.engine, self.ranker.config, self.limits
        calibration = engine.probability_map
        return {
            "model_id": self.model,
            "model_sha": None,
            "model_dtype": str(engine.dtype).removeprefix("torch."),
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": limits.waiting,
            "max_input_length": config.max_document_tokens,
            "max_batch_tokens": engine.budget.tokens,
            "max_client_batch_size": limits.documents,
            "auto_truncate": config.long_documents == "truncate",
            "version": __version__,
            "score": self.score_type,
            **({} if calibration is None else {"threshold": calibration.threshold}),
            "device": str(engine.device),
            "long_documents": config.long_documents,
            "max_body_bytes": limits.body_bytes,
            "timeout_s": limits.seconds,
        }

    def model_cards(self) -> list[dict[str, Any]]:
        """The model and its tunings as OpenAI's list of models has them."""
        names = [self.model, *self.ranker.tunings]
        return [{"id": name, "object": "model", "created": 0, "owned_by": "blockrank-rerank"} for name in names]

    def _tuning(self, model: str | None) -> str | None:
        """The tuning that a request's model names; any name is the model's own where there are no tunings."""
        tunings = self.ranker.tunings
        if model in tunings:
            return model
        if tunings and model not in (None, self.model):
            there = shown_ids([self.model, *tunings])
            raise ApiError(404, f"model must be one of {there}, got {shown_ids([str(model)])}")
        return None

    async def _ranking(self, wanted: RankRequest, http: Request, record: Record) -> Served:
        scheduler = self._scheduler
        if scheduler is None:
            raise ApiError(424, "the model is not loaded yet", error_type="Unhealthy")
        with _told_apart(record):
            job = scheduler.submit(wanted, http.client.host if http.client else None)
            try:
                return await self._awaited(job, http, record.left(self.limits.seconds))
            finally:
                scheduler.cancel(job)
                self._metrics.waited_seconds.observe(job.waited_s)
                record.facts["waited_ms"] = round(1000 * job.waited_s, 1)

    async def _awaited(self, job: Job, http: Request, seconds: float) -> Served:
        """The ranking of a job, unless the client goes away or it takes too long."""
        ranked = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_disconnected(http))
        both: set[asyncio.Future[Any]] = {ranked, gone}
        try:
            done, _ = await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if ranked in done:
                return ranked.result()
            if gone in done:
                raise ApiError(499, "the client went away", error_type="Cancelled")
            raise ApiError(504, f"not ranked within {self.limits.seconds:g} s (--timeout)")
        finally:
            gone.cancel()
            ranked.cancel()

    def _count(self, served: Served) -> dict[str, int]:
        """Count a ranking, and return what is told of it."""
        sources = Counter[str](document.served_from for document in served.ranking)
        for source, number in sources.items():
            self._metrics.documents.labels(source).inc(number)
        self._metrics.tokens.inc(served.num_tokens)
        return {"documents": len(served.ranking), "tokens": served.num_tokens, **sources}


def load(ranker: BlockRankReranker) -> None:
    """Read model and store now, so that what is wrong with them is told before anybody asks."""
    engine = ranker.engine
    for name in ranker.tunings:
        _ = ranker.tuned(name).engine
    if ranker.lookup is not None:
        ranker.lookup.opened(engine)


@contextmanager
def _told_apart(record: Record) -> Iterator[None]:
    """Turn errors into answers: only what the request is at fault for is told; the rest is logged, without texts."""
    try:
        yield
    except (Refused, DocumentError) as error:
        raise refused(error) from error
    except Overloaded as error:
        raise ApiError(429, str(error), headers={"Retry-After": str(error.retry_after_s)}) from error
    except Closed as error:
        raise ApiError(424, str(error), error_type="Unhealthy") from error
    except (ApiError, CancelledError):
        raise
    except Exception as error:
        log("failure", "error", request_id=record.request_id, **fault(error))
        raise ApiError(424, f"the request could not be ranked: {type(error).__name__}; the log says more") from error


async def _disconnected(http: Request) -> None:
    """Return once the client has gone."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
