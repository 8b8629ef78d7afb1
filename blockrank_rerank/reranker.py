from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from blockrank_kernels.block_attention.api import IMPLEMENTATIONS

from blockrank_rerank.checkpoint import Checkpoint
from blockrank_rerank.choices import describe_choices
from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.explanation import ExplainedDocument, Explanation, word_spans
from blockrank_rerank.handle import EngineHandle, EngineSpec
from blockrank_rerank.prompt import EncodedRequest, document_text
from blockrank_rerank.scoring import Scores, scores

if TYPE_CHECKING:
    from blockrank_rerank.engine import Engine

__all__ = ["DEFAULT_MODEL", "BlockRankReranker", "Document", "RankedDocument", "Request", "describe_choices"]

DEFAULT_MODEL = "default"
"""The model that ships inside the package."""

_DEFAULT_FOLDER = Path(__file__).parent / "default_model"

Document = str | Mapping[str, Any]
"""A text, or a mapping with ``text`` and optional ``title``."""

Request = tuple[str, Sequence[Document]]
"""A query and its candidate documents."""

LONG_WORK_TOKENS = 65536
"""Work from which a progress bar appears by itself: more than about a second with the default model."""


@dataclass(frozen=True)
class RankedDocument:
    """One document of a ranking.

    Attributes
    ----------
    index : int
        Position of the document in the input list.
    score : float
        Attention share: relative to the list, sums to 1 over it, and is 1.0 for a single document.
    raw_score : float
        Mean document log-sum-exp, in the log domain and not normalised over the list.
    text : str
        The document's text as given, without its title.
    truncated : bool
        Whether the end of the document was cut off before scoring.
    probability : float or None
        Probability of relevance in 0–1, which does not depend on the other documents; nothing for models
        that were not trained to abstain.
    """

    index: int
    score: float
    raw_score: float
    text: str
    truncated: bool
    probability: float | None = None


class BlockRankReranker:
    """Ranks documents for a query by in-context attention. Make one with :meth:`from_pretrained`.

    Threads may share an instance; a copy shares the loaded model.
    """

    def __init__(self, handle: EngineHandle) -> None:
        self._handle = handle

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        config: BlockRankConfig | None = None,
        scoring_layer: int | None = None,
        max_document_tokens: int | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str = "auto",
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        token: str | None = None,
    ) -> BlockRankReranker:
        """Describe a reranker; the model is read when it is first used.

        Parameters
        ----------
        model : str or Path
            A folder with a Transformers model, a Hub id, or ``"default"`` for the model in the package.
        config : BlockRankConfig, optional
            Instead of the model's own ``blockrank_config.json``.
        scoring_layer : int, optional
            0-based; instead of the config's.
        max_document_tokens : int, optional
            Longest document in tokens, instead of the config's; longer ones are cut and marked.
        device : str or torch.device, optional
            CUDA where there is one, else the CPU, if not given.
        dtype : str or torch.dtype, optional
            bf16 where the device is faster with it, else fp32, if not given. Scores are fp32 always.
        attention : str
            ``auto`` (Triton on a GPU that it fits, torch elsewhere), ``triton``, ``sdpa`` or ``reference``.
        revision, local_files_only, trust_remote_code, token
            As in Transformers.

        Raises
        ------
        FileNotFoundError
            For a folder that does not exist.
        ValueError
            For arguments that cannot be used. What only shows when the model is read is raised by the
            first call that needs it.
        """
        if attention != "auto" and attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention must be one of auto, {', '.join(IMPLEMENTATIONS)}, got {attention!r}")
        if config is not None and not isinstance(config, BlockRankConfig):
            raise ValueError(f"config must be a BlockRankConfig, got {type(config).__name__}")
        checkpoint = Checkpoint(
            model=model_folder(model),
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            token=token,
        )
        spec = EngineSpec(
            checkpoint=checkpoint,
            config=config,
            scoring_layer=scoring_layer,
            max_document_tokens=max_document_tokens,
            device=None if device is None else str(device),
            dtype=None if dtype is None else str(dtype),
            attention=attention,
        )
        return cls(EngineHandle(spec))

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
        """A reranker with some settings of the config changed; the model is read again when it is used."""
        config = replace(self.config, **changes)
        spec = replace(self._handle.spec, config=config, scoring_layer=None, max_document_tokens=None)
        return BlockRankReranker(EngineHandle(spec))

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
            Keep probabilities of relevance of at least this, whatever the list; may leave none. Applied before
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
        """
        _check_top_k(top_k)
        _check_number("threshold", threshold)
        _check_number("min_probability", min_probability)
        if min_probability is not None and not self.config.abstention:
            raise ValueError(
                f"min_probability needs a model that gives probabilities, and {self.model} does not; "
                "use threshold, or train one with abstention_weight"
            )
        checked = [_check_request(request, number) for number, request in enumerate(requests)]
        results: list[list[RankedDocument]] = [[] for _ in checked]
        with _progress(checked, show_progress, on_progress) as advance:
            for pack in self._packs(checked):
                encoded = [request for _, request in pack]
                for (number, request), lse in zip(pack, self._engine.document_scores(encoded), strict=True):
                    ranked = _ranked(checked[number][2], scores(lse, self._engine.config), request)
                    results[number] = _select(ranked, top_k, threshold, min_probability)
                advance(len(encoded), sum(request.num_tokens for request in encoded))
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

        Parameters
        ----------
        query, documents, top_k, threshold, min_probability
            As in :meth:`rank`.

        Returns
        -------
        Explanation
            Best document first; words and sentences with weights.
        """
        query, texts, given = _check_request((query, documents), 0)
        ranking = self.rank(query, given, top_k=top_k, threshold=threshold, min_probability=min_probability)
        if not ranking:
            return Explanation(query, [])
        request = self._engine.prompt.encode(query, texts)
        spans = self._engine.prompt.document_spans(request, texts)
        attention = self._engine.token_attention(request)
        words = [word_spans(given[i], spans[i], attention[i].tolist()) for i in (r.index for r in ranking)]
        return Explanation(query, [ExplainedDocument(*pair) for pair in zip(ranking, words, strict=True)])

    @property
    def _engine(self) -> Engine:
        return self._handle.get()

    def _packs(self, checked: list[_Checked]) -> Iterator[list[tuple[int, EncodedRequest]]]:
        """Consecutive requests whose tokens fit the budget together, encoded when their turn comes."""
        pack: list[tuple[int, EncodedRequest]] = []
        tokens = 0
        for number, (query, texts, _) in enumerate(checked):
            if not texts:
                continue
            request = self._engine.prompt.encode(query, texts)
            if pack and tokens + request.num_tokens > self._engine.budget_tokens:
                yield pack
                pack, tokens = [], 0
            pack.append((number, request))
            tokens += request.num_tokens
        if pack:
            yield pack


def model_folder(model: str | Path) -> str:
    """The folder or Hub id that a model name stands for."""
    if model == DEFAULT_MODEL:
        return str(_DEFAULT_FOLDER)
    return str(model) if isinstance(model, Path) else model


_Checked = tuple[str, list[str], Sequence[Document]]
"""Query, the documents' texts with titles, and the documents as given."""


def _check_request(request: Request, number: int) -> _Checked:
    if not isinstance(request, tuple | list) or len(request) != 2:
        raise TypeError(f"requests[{number}] must be a (query, documents) pair, got {type(request).__name__}")
    query, documents = request
    if not isinstance(query, str):
        raise TypeError(f"query must be a str, got {type(query).__name__}")
    if not query.strip():
        raise ValueError("query must not be empty")
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        raise TypeError(f"documents must be a list of documents, got {type(documents).__name__}")
    documents = list(documents)
    return query, [document_text(document, index) for index, document in enumerate(documents)], documents


def _check_top_k(top_k: int | None) -> None:
    # Integers of numpy have an index, as Python's do; floats have none.
    if top_k is not None and (isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k < 0):
        raise ValueError(f"top_k must be a number of documents that is not negative, or None for all, got {top_k!r}")


def _check_number(name: str, value: float | None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if value is not None and not number:
        raise ValueError(f"{name} must be a number or None, got {value!r}")


def _ranked(documents: Sequence[Document], values: Scores, request: EncodedRequest) -> list[RankedDocument]:
    """Every document, best first; the sort is stable, so ties keep the input order."""
    ranked = [
        RankedDocument(
            index=index,
            score=values.share[source],
            raw_score=values.raw[source],
            probability=values.probability[source],
            text=document if isinstance(document, str) else document["text"],
            truncated=request.truncated[index],
        )
        for index, (document, source) in enumerate(zip(documents, _first_copies(request.documents), strict=True))
    ]
    return sorted(ranked, key=lambda document: -document.score)


def _first_copies(documents: list[list[int]]) -> list[int]:
    """For every document the index of the first identical one.

    Copies take its scores, so that they tie: what rounding makes of a value depends on its place in a batch.
    """
    first: dict[tuple[int, ...], int] = {}
    return [first.setdefault(tuple(document), index) for index, document in enumerate(documents)]


def _select(
    ranked: list[RankedDocument], top_k: int | None, threshold: float | None, min_probability: float | None
) -> list[RankedDocument]:
    return [
        document
        for document in ranked
        if (threshold is None or document.score >= threshold)
        and (min_probability is None or (document.probability or 0.0) >= min_probability)
    ][:top_k]


@contextmanager
def _progress(
    checked: list[_Checked], show: bool | None, on_progress: Callable[[int, int], None] | None
) -> Iterator[Callable[[int, int], None]]:
    """A function to report (requests, tokens) to, with a bar behind it where one is wanted."""
    report = on_progress or (lambda requests, tokens: None)
    if show is None:
        # Four characters a token is close enough to decide whether a bar is worth drawing.
        characters = sum(len(text) for _, texts, _ in checked for text in texts)
        show = len(checked) > 1 and characters > 4 * LONG_WORK_TOKENS and sys.stderr.isatty() and not on_progress
    if not show:
        yield report
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reranking", total=len(checked))

        def advance(requests: int, tokens: int) -> None:
            bar.advance(task, requests)
            report(requests, tokens)

        yield advance
