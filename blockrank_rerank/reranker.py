"""The public face of the engine: describe a model once, then rank, prepare and explain with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from blockrank_rerank.config import BlockRankConfig, with_scoring_layer
from blockrank_rerank.engine.calibrated import CalibratedRanking
from blockrank_rerank.engine.saved_model import SavedModel
from blockrank_rerank.engine.shared import SharedEngine, checked_engine
from blockrank_rerank.engine.state_lookup import StateLookup
from blockrank_rerank.engine.store_preparation import Preparation, prepare_store
from blockrank_rerank.engine.tuned import TunedRanking
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.model.decode_config import CALIBRATE_DECODING
from blockrank_rerank.model.devices import describe_choices, resolve_device
from blockrank_rerank.model.names import DEFAULT_MODEL, shown_model
from blockrank_rerank.options import Options, check_stand_alone, typed_as, with_options
from blockrank_rerank.ranking.attentive import AttentiveRanking
from blockrank_rerank.ranking.batches import Batches, RequestBatch
from blockrank_rerank.ranking.deadline import ranked_within
from blockrank_rerank.ranking.executor import AsyncRanking
from blockrank_rerank.ranking.progress import no_progress, work_progress
from blockrank_rerank.ranking.request import (
    CheckedRequest,
    Request,
    check_documents,
    check_requests,
    fitting_queries,
    fitting_requests,
)
from blockrank_rerank.ranking.results import Limits, RankedDocument, Ranking
from blockrank_rerank.ranking.search import Searching
from blockrank_rerank.states.cache import CacheInfo
from blockrank_rerank.states.document_states import DocumentStates, states_dtype
from blockrank_rerank.states.prepared import PreparedDocuments
from blockrank_rerank.system.files import UserPath
from blockrank_rerank.text.blocks import Blocks
from blockrank_rerank.text.document import Document, GivenDocument

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine

__all__ = ["DEFAULT_MODEL", "BlockRankReranker", "Document", "RankedDocument", "Request", "describe_choices"]


class BlockRankReranker(AsyncRanking, AttentiveRanking, Searching, SavedModel, TunedRanking, CalibratedRanking):
    """Ranks documents for a query by in-context attention. Make one with :meth:`from_pretrained`.

    Threads may share an instance; a copy shares the model, cache and store. ``lookup`` knows states, if there is one.
    """

    def __init__(self, shared: SharedEngine | None = None, lookup: StateLookup | None = None, **options: Any) -> None:
        self._shared, self.lookup = checked_engine(shared, options), lookup

    @classmethod
    @typed_as(Options)
    @with_options()
    def from_pretrained(cls, model: UserPath = DEFAULT_MODEL, **options: Any) -> BlockRankReranker:
        """Describe a reranker; the model is read when it is first used.

        Parameters
        ----------
        **options
            Those of :class:`Options`, ``model`` included, which may come first without its name.

        Raises
        ------
        FileNotFoundError
            For a folder that does not exist.
        TypeError
            For a keyword that is no option.
        ValueError
            For arguments that cannot be used. What only shows when the model is read is raised by the
            first call that needs it.
        """
        chosen = Options(model, **options)
        ranker = cls(SharedEngine(chosen.engine_spec()), chosen.state_lookup())
        own = chosen.checked("ranker")
        ranker._take_tunings(own["tuning"])
        ranker._take_calibration(own["calibration"])
        if ranker.lookup is not None:
            check_stand_alone(ranker.config, ranker.model)
        return ranker

    @property
    def model(self) -> str:
        """Folder or Hub id of the model."""
        return shown_model(self._shared.spec.checkpoint.model)

    @property
    def config(self) -> BlockRankConfig:
        """Settings in force; reads the model's config files, not its weights."""
        return self._shared.config

    @property
    def engine(self) -> Engine:
        """The loaded model behind the ranker, for tests and tools; loads it."""
        return self._shared.get()

    @property
    def device(self) -> torch.device:
        """Device of the model; loads it."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model; loads it."""
        return self.engine.dtype

    def with_config(self, **changes: Any) -> BlockRankReranker:
        """A reranker with some settings of the config changed, without cache, store, tunings and calibration.

        The model is read again when it is used.

        Raises
        ------
        ValueError
            For values that a setting cannot have, and a ``scoring_layer`` other than that of a trained scoring layer.
        """
        config = replace(with_scoring_layer(self.config, changes.get("scoring_layer")), **changes)
        return BlockRankReranker(SharedEngine(self._shared.spec.with_config(config)))

    @property
    def left_behind(self) -> list[str]:
        """Names of the options in use that :meth:`with_config` does not take along."""
        kept = {"cache": self.lookup and self.lookup.cache, "store": self.lookup and self.lookup.folder}
        learnt = [*self._shared.files, *["tuning"] * bool(self.tunings)]
        return [name for name, value in kept.items() if value is not None] + learnt

    def query_free(self) -> BlockRankReranker:
        """Return this reranker with a prompt whose documents can be prepared: it does not repeat the query.

        Models that were not trained for it lose some quality; the default model is query-free already.
        With ``method="decode"``, whose prompt numbers documents, it raises ValueError.
        """
        self._shared.spec.refuse_decoding("query_free")
        return self.with_config(prompt=self.config.prompt.without_query())

    @property
    def cache_info(self) -> CacheInfo | None:
        """What the cache holds and how often it helped; nothing without one."""
        return None if self.lookup is None or self.lookup.cache is None else self.lookup.cache.info()

    def prepare(
        self,
        documents: Iterable[GivenDocument],
        *,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        show_progress: bool | None = None,
    ) -> PreparedDocuments:
        """Read documents once, for any number of queries; also those that a cache or store holds.

        The result goes wherever documents go; ranking it gives the scores of the documents themselves, to rounding.
        It keeps the documents as they are now: what happens to the caller's dictionaries later changes nothing.

        Parameters
        ----------
        documents : iterable of str, mapping or object
            As in :meth:`rank`.
        dtype : str or torch.dtype, optional
            Of the kept states: the model's if not given, or ``float16``, ``bfloat16``, ``float32``, ``int8``.
        device : str or torch.device, optional
            Where they lie: the model's if not given. ``"cpu"`` saves a GPU's memory, for a copy with every query.
        show_progress : bool, optional
            By default a bar appears on a terminal when the work is long.

        Raises
        ------
        TypeError
            For a document of another type, naming the index.
        ValueError
            Where the prompt makes documents depend on the query: see :meth:`query_free`; for a device that torch
            cannot use here.
        """
        self._shared.spec.refuse_decoding("prepare")
        given, plain, texts = check_documents(documents)
        engine = self.engine
        states_device = engine.device if device is None else resolve_device(device)
        given = [*map(copy, given)]
        dtype_of_states = engine.dtype if dtype is None else states_dtype(dtype)
        blocks, tokenised = Blocks.of("", plain, texts, engine.prompt)
        states: list[DocumentStates] = []
        progress = work_progress("preparing", len(blocks.texts), sum(map(len, texts)), show_progress)
        with without_autocast(), progress as advance:
            for document in engine.document_states(blocks.texts, dtype_of_states, tokenised):
                states.append(document.to(states_device))
                advance(1, len(document.ids))
            return PreparedDocuments(given, blocks, states, engine.fingerprint)

    def prepare_store(
        self,
        folder: UserPath,
        documents: Iterable[GivenDocument],
        *,
        dtype: str | torch.dtype | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Preparation:
        """Read documents into a folder that serves every later query: pass it as ``store``.

        May be called again, to go on after an interruption or with more documents: those that are there are
        checked and not read again, and a known id with another text replaces its document. States go to disk in groups
        of at most 16 MB, and an eighth of ``max_memory``, and never are in memory as a whole.

        Parameters
        ----------
        folder : str or path-like
            A store, or a folder that is new or empty.
        documents : iterable of str, mapping or object
            As in :meth:`rank`; may be a generator. Ids, titles and texts are kept for :class:`StoredDocuments`.
        dtype : str or torch.dtype, optional
            As in :meth:`prepare`; a store has one for all of its documents.
        on_progress : callable, optional
            Called with (documents, tokens) done since the last call.

        Raises
        ------
        ValueError
            For the store of another model, config or dtype, a folder of something else, and an id that is too long.
        OSError
            Where the disk is full; what was written before stays.
        """
        self._shared.spec.refuse_decoding("prepare_store")
        dtype_of_states = None if dtype is None else states_dtype(dtype)
        return prepare_store(self.engine, folder, documents, dtype_of_states, on_progress or no_progress)

    def rank(
        self,
        query: str,
        documents: Iterable[GivenDocument],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        deadline_ms: float | None = None,
        tuning: str | None = None,
    ) -> Ranking:
        """Rank documents for a query, best first; ties keep the input order.

        Parameters
        ----------
        query : str
            Not empty.
        documents : iterable of str, mapping or object
            Texts, or what has ``text``, ``page_content`` or ``content`` and optional ``title``; never modified.
        top_k : int, optional
            Keep the best ``top_k``; all by default.
        threshold : float, optional
            Keep scores of at least this; applied before ``top_k``. The score is a share of the list.
        min_probability : float, optional
            Keep probabilities of at least this, before ``top_k``; may leave none. For models that give probabilities;
            with a calibration its threshold, if not given. 0 keeps all, with any model.
        deadline_ms : float, optional
            Return after this time, with what was read by then (docs/models.md, Deadlines). Here alone, not in batches.
        tuning : str, optional
            One of :attr:`tunings`, with which the query reads; see :meth:`tuned`.

        Raises
        ------
        TypeError
            For a query or document of another type, naming the index.
        ValueError
            For a query that is empty or too long, limits that mean nothing, and those that the model cannot keep.
        FloatingPointError
            Where the model computes non-finite scores.
        """
        limits: Any = {"top_k": top_k, "threshold": threshold, "min_probability": min_probability}
        if deadline_ms is None:
            return self.rank_batch([(query, documents)], **limits, tuning=tuning, show_progress=False)[0]
        shared = self.tuned(tuning)._shared
        return self._limits(**limits).select(ranked_within(deadline_ms, query, documents, shared, self.lookup))

    def rank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        tuning: str | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Ranking]:
        """Rank many requests, several in one forward pass; results in input order.

        Parameters
        ----------
        requests : iterable of (query, documents)
            As in :meth:`rank`; may be a generator.
        top_k, threshold, min_probability, tuning
            As in :meth:`rank`, for every request.
        show_progress : bool, optional
            By default a bar appears on a terminal when the work is long.
        on_progress : callable, optional
            Called with (requests, tokens) done since the last call, after every forward pass.

        Raises
        ------
        TypeError, ValueError
            As :meth:`rank`, naming the request; for a query before anything is ranked.
        """
        limits = self._limits(top_k, threshold, min_probability)
        ranker = self if tuning is None else self.tuned(tuning)
        checked = fitting_requests(check_requests(list(requests)), lambda: self.engine.prompt)
        results = [Ranking() for _ in checked]
        characters = sum(len(text) for request in checked for text in request.texts)
        progress = work_progress("reranking", len(checked), characters, show_progress, on_progress)
        with without_autocast(), progress as advance:
            for batch in ranker._batches(checked):
                for number, ranking in batch.rankings(ranker.engine):
                    results[number] = limits.select(ranking)
                advance(len(batch.numbers), batch.num_tokens)
        return results

    def fitting_queries(self, queries: Mapping[str, str]) -> dict[str, str]:
        """Return queries as :meth:`rank_batch` reads them: whole, or what ``long_queries="truncate"`` leaves of them.

        Parameters
        ----------
        queries : mapping of str to str
            By the ids that errors and the one warning name.

        Raises
        ------
        RequestError
            A ValueError, for the first query that cannot be ranked.
        """
        return fitting_queries(queries, self.engine.prompt)

    def _limits(self, top_k: int | None, threshold: float | None, min_probability: float | None) -> Limits:
        limits, calibration = Limits(top_k, threshold, min_probability), self._shared.probability_map
        if min_probability is None:
            return limits if calibration is None else replace(limits, min_probability=calibration.threshold)
        if min_probability and not self.gives_probabilities:
            ways = "calibrate it with 'blockrank calibrate', or train one with abstention_weight"
            raise ValueError(
                f"min_probability needs a model that gives probabilities, and {self.model} does not; use threshold, "
                + (CALIBRATE_DECODING if self._shared.spec.decodes else ways)
            )
        return limits

    def _batches(self, checked: Sequence[CheckedRequest]) -> Iterable[RequestBatch]:
        # A list without documents needs no model.
        return Batches(checked, self.engine, self.lookup) if any(request.texts for request in checked) else ()
