from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.pruning import Survivors, survivors
from blockrank_rerank.engine.shared import EngineHandle
from blockrank_rerank.engine.state_lookup import KnownStates
from blockrank_rerank.engine.store_preparation import Preparation, prepare_store
from blockrank_rerank.errors import of_request
from blockrank_rerank.model.checkpoint import (
    _DEFAULT_FOLDER,
    DEFAULT_MODEL,
    with_scoring_layer,
)
from blockrank_rerank.model.devices import describe_choices, resolve_device
from blockrank_rerank.model.scores import raw_score, scores
from blockrank_rerank.options import Options, check_stand_alone, typed_as, with_options
from blockrank_rerank.ranking.explanation import ExplainedDocument, Explanation, word_spans
from blockrank_rerank.ranking.progress import work_progress
from blockrank_rerank.ranking.request import CheckedRequest, Request, check_documents, check_is_pair, check_request
from blockrank_rerank.ranking.results import Limits, RankedDocument
from blockrank_rerank.states.cache import CacheInfo
from blockrank_rerank.states.document_states import (
    DocumentStates,
    PassingStates,
    StatePack,
    states_dtype,
)
from blockrank_rerank.states.prepared import PreparedDocuments
from blockrank_rerank.text.blocks import Blocks, first_copies, tied
from blockrank_rerank.text.document import Document, document_text, passage, placed
from blockrank_rerank.text.prompt import EncodedRequest

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine

__all__ = ["DEFAULT_MODEL", "BlockRankReranker", "Document", "RankedDocument", "Request", "describe_choices"]


AT_ONCE = 64
"""Documents of a long list whose states are looked up at a time."""

CHARACTERS = 4
"""Of a token of English, about."""


class BlockRankReranker:
    """Ranks documents for a query by in-context attention. Make one with :meth:`from_pretrained`.

    Threads may share an instance; a copy shares the loaded model, the cache and the store.
    """

    def __init__(self, handle: EngineHandle, known: KnownStates | None = None) -> None:
        self._handle, self._known = handle, known

    @classmethod
    @typed_as(Options)
    @with_options()
    def from_pretrained(cls, model: str | Path = DEFAULT_MODEL, **options: Any) -> BlockRankReranker:
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
        ranker = cls(EngineHandle(chosen.engine_spec()), chosen.known_states())
        if ranker._known is not None:
            check_stand_alone(ranker.config, ranker.model)
        return ranker

    @property
    def model(self) -> str:
        """Folder or Hub id of the model."""
        folder = self._handle.spec.checkpoint.model
        return DEFAULT_MODEL if folder == str(_DEFAULT_FOLDER) else folder

    @property
    def config(self) -> BlockRankConfig:
        """Settings in force; reads the model's config files, not its weights."""
        return self._handle.config

    @property
    def device(self) -> torch.device:
        """Device of the model; loads it."""
        return self._engine.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model; loads it."""
        return self._engine.dtype

    def with_config(self, **changes: Any) -> BlockRankReranker:
        """A reranker with some settings of the config changed, without cache and store.

        The model is read again when it is used.

        Raises
        ------
        ValueError
            For values that a setting cannot have, and a ``scoring_layer`` other than that of a trained scoring layer.
        """
        config = replace(with_scoring_layer(self.config, changes.get("scoring_layer")), **changes)
        return BlockRankReranker(EngineHandle(self._handle.spec.with_config(config)))

    def query_free(self) -> BlockRankReranker:
        """Return this reranker with a prompt whose documents can be prepared: it does not repeat the query.

        Models that were not trained for it lose some quality; the default model is query-free already.
        """
        return self.with_config(prompt=self.config.prompt.without_query())

    @property
    def cache_info(self) -> CacheInfo | None:
        """What the cache holds and how often it helped; nothing without one."""
        cache = None if self._known is None else self._known.cache
        return None if cache is None else cache.info()

    def prepare(
        self,
        documents: Sequence[Document],
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
        documents : sequence of str or mapping
            As in :meth:`rank`.
        dtype : str or torch.dtype, optional
            Of the kept states: the model's if not given, or ``float16``, ``bfloat16``, ``float32``, ``int8``.
        device : str or torch.device, optional
            Where they lie: the model's if not given. ``"cpu"`` saves a GPU's memory; what a query reads is then
            copied to the GPU for it.
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
        given, texts = check_documents(documents)
        place = self.device if device is None else resolve_device(device)
        given = [*map(copy, given)]
        kept = self._engine.dtype if dtype is None else states_dtype(dtype)
        blocks = self._engine.blocks("", given, texts)
        states: list[DocumentStates] = []
        with work_progress("preparing", len(blocks.texts), sum(map(len, texts)), show_progress) as advance:
            for one in self._engine.document_states(blocks.texts, kept):
                states.append(one.to(place))
                advance(1, len(one.ids))
        return PreparedDocuments(given, blocks, states, self._engine.fingerprint)

    def prepare_store(
        self,
        folder: str | Path,
        documents: Iterable[Document],
        *,
        dtype: str | torch.dtype | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Preparation:
        """Read documents into a folder that serves every later query: pass it as ``store``.

        May be called again, to go on after an interruption or with more documents: those that are there are
        checked and not read again. States go to disk in groups of at most 16 MB, and an eighth of ``max_memory``, and
        never are in memory as a whole.

        Parameters
        ----------
        folder : str or Path
            A store, or a folder that is new or empty.
        documents : iterable of str or mapping
            As in :meth:`rank`; may be a generator.
        dtype : str or torch.dtype, optional
            As in :meth:`prepare`; a store has one for all of its documents.
        on_progress : callable, optional
            Called with (documents, tokens) done since the last call.

        Raises
        ------
        ValueError
            For the store of another model, config or dtype, and a folder of something else.
        OSError
            Where the disk is full; what was written before stays.
        """
        kept = None if dtype is None else states_dtype(dtype)
        report = on_progress or (lambda documents, tokens: None)
        return prepare_store(self._engine, Path(folder), documents, kept, report)

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
    ) -> list[RankedDocument]:
        """Rank documents for a query, best first; ties keep the input order.

        Parameters
        ----------
        query : str
            Not empty.
        documents : sequence of str or mapping
            Texts, or mappings with ``text`` and optional ``title``; never modified.
        top_k : int, optional
            Keep the best ``top_k``; all by default.
        threshold : float, optional
            Keep scores of at least this; applied before ``top_k``. The score is a share of the list.
        min_probability : float, optional
            Keep probabilities of relevance of at least this; may leave none. Applied before
            ``top_k``; for models that give probabilities.

        Raises
        ------
        TypeError
            For a query or document of another type, naming the index.
        ValueError
            For an empty or overlong query, a negative ``top_k``, and ``min_probability`` where the model gives none.
        FloatingPointError
            Where the model computes non-finite scores.
        """
        return self.rank_batch(
            [(query, documents)],
            top_k=top_k,
            threshold=threshold,
            min_probability=min_probability,
            show_progress=False,
        )[0]

    def rank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[RankedDocument]]:
        """Rank many requests, several in one forward pass; results in input order.

        Parameters
        ----------
        requests : iterable of (query, documents)
            As in :meth:`rank`; may be a generator.
        top_k, threshold, min_probability
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
        checked = self._checked(list(requests))
        results: list[list[RankedDocument]] = [[] for _ in checked]
        characters = sum(len(text) for request in checked for text in request.texts)
        with work_progress("reranking", len(checked), characters, show_progress, on_progress) as advance:
            for pack in self._packs(checked):
                for number, encoded, lse in zip(pack.numbers, pack.encoded, self._lse(pack), strict=True):
                    ranked = _ranked(checked[number].given, encoded, lse, self._engine)
                    results[number] = limits.select(ranked)
                advance(len(pack.numbers), pack.num_tokens)
        return results

    def explain(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        min_probability: float | None = None,
    ) -> Explanation:
        """Rank documents and show where in each the query looked; takes about twice as long as ranking.

        A decoder reads the whole list in one pass for it, whatever ``max_memory`` says.

        Parameters
        ----------
        query, documents, top_k, threshold, min_probability
            As in :meth:`rank`.

        Returns
        -------
        Explanation
            Best document first; words and sentences with weights.
        """
        limits = self._limits(top_k, threshold, min_probability)
        given = check_request((query, documents)).given
        everything = self.rank(query, documents if isinstance(documents, PreparedDocuments) else given)
        if not everything:
            return Explanation(query, [])
        # Of a document that was split, the passage that won is shown.
        shown = {r.index: passage(given[r.index], r.passage) if r.passage else given[r.index] for r in everything}
        texts = [document_text(shown[index], index) for index in range(len(given))]
        encoded = self._engine.prompt.encode(query, texts)
        spans = self._engine.prompt.document_spans(encoded, texts)
        attention = self._engine.token_attention(encoded)
        explained = []
        for ranked in limits.select(everything):
            first, last = ranked.passage or (0, len(ranked.text))
            shift = placed(shown[ranked.index])[1] + first
            moved = [(start + shift, end + shift) for start, end in spans[ranked.index]]
            # Title and template stand before and after a passage where the document has other words.
            read = [
                pair for pair in zip(moved, attention[ranked.index].tolist(), strict=True) if first < pair[0][1] <= last
            ]
            words = word_spans(ranked.text, [token for token, _ in read], [weight for _, weight in read])
            explained.append(ExplainedDocument(ranked, words))
        return Explanation(query, explained)

    def _limits(self, top_k: int | None, threshold: float | None, min_probability: float | None) -> Limits:
        limits = Limits(top_k, threshold, min_probability)
        if min_probability is not None and not self.config.abstention:
            raise ValueError(
                f"min_probability needs a model that gives probabilities, and {self.model} does not; "
                "use threshold, or train one with abstention_weight"
            )
        return limits

    def _checked(self, requests: Sequence[Request]) -> list[CheckedRequest]:
        """Requests that can be ranked: the last one is refused before the first one costs anything."""
        checked = []
        for number, request in enumerate(requests):
            check_is_pair(request, number)
            with of_request(number, len(requests)):
                checked.append(check_request(request))
        if len(checked) == 1:  # encoded before it costs anything
            return checked
        for number, one in enumerate(checked):
            if one.texts:
                with of_request(number, len(checked)):
                    self._engine.prompt.encode(one.query, [])
        return checked

    @property
    def _engine(self) -> Engine:
        return self._handle.get()

    def _packs(self, checked: list[CheckedRequest]) -> Iterator[_Pack]:
        """Consecutive requests of one kind whose tokens fit the budget together, encoded when their turn comes."""
        pack = _Pack()
        for number, request in enumerate(checked):
            if not request.texts:
                continue
            with of_request(number, len(checked)):
                encoded = self._encode(request)
            if pack.numbers and not pack.has_room(encoded, self._engine.budget_tokens):
                yield pack
                pack = _Pack()
            pack.add(number, encoded)
        if pack.numbers:
            yield pack

    def _encode(self, request: CheckedRequest) -> _Encoded:
        if request.prepared is not None:
            return self._of_prepared(request, request.prepared)
        if self._known is not None:
            return self._of_known(request, self._known)
        engine = self._engine
        blocks = engine.blocks(request.query, request.given, request.texts)
        encoded = engine.prompt.encode(request.query, blocks.texts)
        left = survivors(engine, blocks, encoded)
        encoded = left.encoded
        return _Encoded(encoded, left, [*map(tuple, encoded.documents)], encoded.truncated)

    def _of_prepared(self, request: CheckedRequest, prepared: PreparedDocuments) -> _Encoded:
        if prepared.fingerprint != self._engine.fingerprint:
            raise ValueError(
                "documents were prepared by another model, revision, dtype or config than this ranker's: their "
                "states mean nothing to it; prepare them again with this ranker"
            )
        return self._of_states(request, prepared.blocks, prepared.states, prepared.pack)

    def _of_states(
        self, request: CheckedRequest, blocks: Blocks, states: Sequence[DocumentStates], pack: StatePack
    ) -> _Encoded:
        alone, left = self._alone(request, blocks)
        return _Encoded(alone, left, [one.ids for one in states], [one.truncated for one in states], kept=pack)

    def _of_known(self, request: CheckedRequest, known: KnownStates) -> _Encoded:
        """Documents whose states are looked up, and made where they are not known."""
        engine = self._engine
        blocks = engine.blocks(request.query, request.given, request.texts, lambda text: known.knows(text, engine))
        known.check_store(blocks.texts, engine)
        characters = sum(map(len, blocks.texts))
        if engine.max_memory is None and not engine.reads_states_in_passing(characters // CHARACTERS):
            states = list(known.get(blocks.texts, engine))
            return self._of_states(request, blocks, states, StatePack(states))
        alone, left = self._alone(request, blocks)
        passing = PassingStates(known.get(blocks.texts, engine, AT_ONCE))
        return _Encoded(alone, left, passing.ids, passing.truncated, passing=passing)

    def _alone(self, request: CheckedRequest, blocks: Blocks) -> tuple[EncodedRequest, Survivors]:
        """Where states stand for the documents, the query goes through the model alone."""
        alone = self._engine.prompt.encode(request.query, [])
        return alone, Survivors([*range(len(request.given))], blocks, alone, [])

    def _lse(self, pack: _Pack) -> list[torch.Tensor]:
        requests = [encoded.request for encoded in pack.encoded]
        if (lse := pack.encoded[0].left.lse) is not None:
            return [lse]
        if (passing := pack.encoded[0].passing) is not None:
            return [self._engine.scores_of_passing(requests[0], passing)]
        kept = [encoded.kept for encoded in pack.encoded if encoded.kept is not None]
        return self._engine.scores_of_kept(requests, kept) if kept else self._engine.document_scores(requests)


class _Encoded(NamedTuple):
    """A request in tokens.

    ``left`` are its documents that were not dropped; ``ids`` and ``truncated`` belong to their blocks; ``kept`` or
    ``passing`` are their states, where the request was encoded without them.
    """

    request: EncodedRequest
    left: Survivors
    ids: list[tuple[int, ...]]
    truncated: list[bool]
    kept: StatePack | None = None
    passing: PassingStates | None = None

    @property
    def goes_alone(self) -> bool:
        """Whether it shares a forward pass with no other."""
        return self.passing is not None or self.left.lse is not None


@dataclass
class _Pack:
    """Requests that share a forward pass, and their numbers."""

    numbers: list[int] = field(default_factory=list)
    encoded: list[_Encoded] = field(default_factory=list)
    num_tokens: int = 0
    kept_tokens: dict[int, int] = field(default_factory=dict)
    """Tokens of every different set of states, by identity: queries over the same documents join them once."""

    def has_room(self, encoded: _Encoded, budget_tokens: int) -> bool:
        """Whether one more request, of the same kind, fits the budget: in tokens to read, and in states to join."""
        if self.encoded[0].goes_alone or encoded.goes_alone:
            return False
        if (self.encoded[0].kept is None) != (encoded.kept is None):
            return False
        if encoded.kept is not None and id(encoded.kept) not in self.kept_tokens:
            joined = sum(self.kept_tokens.values()) + encoded.kept.num_tokens
            if joined > budget_tokens:
                return False
        return self.num_tokens + encoded.request.num_tokens <= budget_tokens

    def add(self, number: int, encoded: _Encoded) -> None:
        if encoded.kept is not None:
            self.kept_tokens[id(encoded.kept)] = encoded.kept.num_tokens
        self.numbers.append(number)
        self.encoded.append(encoded)
        self.num_tokens += encoded.request.num_tokens


def _ranked(given: Sequence[Document], encoded: _Encoded, lse: torch.Tensor, engine: Engine) -> list[RankedDocument]:
    """Every document, best first; the sort is stable, so ties keep the input order."""
    config, blocks = engine.config, encoded.left.blocks
    first = int(config.abstention)
    best = blocks.best(tied(raw_score(lse[..., first:]).tolist(), encoded.ids))
    values = scores(lse[..., [*range(first), *(first + block for block in best)]], config, engine.backbone.sharpness)
    sources = first_copies([encoded.ids[block] for block in best])
    ranked = [
        RankedDocument(
            index=index,
            score=values.share[source],
            raw_score=values.raw[source],
            probability=values.probability[source],
            text=_text(given[index]),
            truncated=encoded.truncated[block],
            passage=blocks.passage(block),
        )
        for index, block, source in zip(encoded.left.documents, best, sources, strict=True)
    ]
    return sorted(ranked, key=lambda document: -document.score) + [
        RankedDocument(index, 0.0, raw, _text(given[index]), truncated, pruned=True)
        for index, raw, truncated in encoded.left.dropped
    ]


def _text(document: Document) -> str:
    return document if isinstance(document, str) else str(document["text"])
