"""The one door for frameworks: what their adapters use beside the package's public names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blockrank_rerank.config import placeholders
from blockrank_rerank.engine.spec import resolve_config
from blockrank_rerank.errors import check_whole, install_line
from blockrank_rerank.model.devices import check_device
from blockrank_rerank.model.names import DEFAULT_MODEL
from blockrank_rerank.options import OPTIONS, Option, Options, with_options
from blockrank_rerank.ranking.context.context import Context, build_context, empty_context
from blockrank_rerank.ranking.context.piece import near_duplicate_of
from blockrank_rerank.ranking.context.settings import MAX_TOKENS, TEMPLATE, ContextSettings
from blockrank_rerank.ranking.executor import in_executor
from blockrank_rerank.ranking.explanation import ExplainedDocument
from blockrank_rerank.ranking.request import check_query
from blockrank_rerank.ranking.results import Limits, RankedDocument, answerability, truncation
from blockrank_rerank.ranking.score_type import (
    ScoredDocument,
    ScoreType,
    check_score_type,
    resolve_score_type,
    scored,
)
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.states.stored_documents import StoredDocuments
from blockrank_rerank.system.files import UserPath
from blockrank_rerank.text.document import Document, check_is_list

if TYPE_CHECKING:
    from pydantic import BaseModel, PrivateAttr

    class PydanticOptions(BaseModel, Options):
        """Which model ranks, and how, as fields; classes with the same options share one loaded model."""

        score_type: ScoreType | None = None
        _reranker: BlockRankReranker = PrivateAttr()


__all__ = [
    "DEFAULT_MODEL",
    "HIGHLIGHTS",
    "MAX_TOKENS",
    "OPTIONS",
    "PASSAGE",
    "PIECES",
    "PROBABILITY",
    "TEMPLATE",
    "Context",
    "ContextSettings",
    "ExplainedDocument",
    "Limits",
    "PydanticOptions",
    "RankedDocument",
    "ScoreType",
    "ScoredDocument",
    "ScoredRanking",
    "Scoring",
    "UserPath",
    "answerability",
    "check_is_list",
    "check_options",
    "check_pairs_stand_alone",
    "check_query",
    "check_store",
    "check_whole",
    "fit_top_n",
    "in_executor",
    "install_line",
    "metadata_of",
    "metadata_of_cut",
    "near_duplicate_of",
    "plain_options",
    "truncation",
    "with_options",
]

PROBABILITY = "probability"
"""Key under which adapters write a document's probability of relevance, of models that give one."""

PASSAGE = "passage"
"""Key of the code points of the best passage, of a document that was split."""

PIECES = "pieces"
"""Key of the code points of what is left of a document that was cut to a context."""

HIGHLIGHTS = "highlights"
"""Key of a document's sentences by attention, where they are asked for."""


def __getattr__(name: str) -> Any:
    # Not every framework brings pydantic.
    if name == "PydanticOptions":
        return _pydantic_options()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_pairs_stand_alone(reranker: BlockRankReranker) -> None:
    """Refuse a model of which a document has another raw score alone than in its list; reads no weights.

    Raises
    ------
    ValueError
        Saying why, and what to use.
    """
    config = reranker.config
    numbered = "index" in placeholders(config.prompt.document, "document")
    if numbered or config.query_documents_from_layer < config.scoring_layer:
        why = "its prompt numbers the documents" if numbered else "its query sees them before the scoring layer"
        raise ValueError(
            f"model {reranker.model!r} reads the documents of a list together ({why}), so pairs of their own cannot "
            "be scored with it; rank lists, with BlockRankReranker.rank"
        )


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON and YAML can hold them, those that are not given with their defaults.

    Parameters
    ----------
    options : mapping
        By name; what is no option is left out. A token is never part of the result.

    Raises
    ------
    FileNotFoundError, ValueError
        For a config that cannot be read.
    """
    return {
        name: declared.plain(options.get(name, declared.default))
        for name, declared in OPTIONS.items()
        if not declared.secret
    }


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that cannot be used, without reading weights or asking the network.

    Parameters
    ----------
    options : mapping
        By name; those that are not given have their defaults. Of a local model its config is read too.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the option.
    """
    chosen = Options(**options)
    spec = chosen.engine_spec()
    chosen.checked("ranker")
    check_device(spec.device)
    if Path(spec.checkpoint.model).is_dir():
        resolve_config(spec)


def check_store(store: UserPath | None) -> StoredDocuments:
    """Open the store that a retriever needs.

    Raises
    ------
    FileNotFoundError
        For a folder that is no store.
    ValueError
        Where none is named.
    """
    if store is None:
        raise ValueError("store must be a folder made by 'blockrank prepare', got None")
    return StoredDocuments(store)


class ScoredRanking(list[ScoredDocument]):
    """The wanted documents of a list, best first, and what is known of the list as a whole.

    Attributes
    ----------
    answerable : float or None
        Of the whole list, also where none of it is wanted: see :class:`.ranking.results.Ranking`.
    explained : mapping of int to ExplainedDocument
        Where the query looked in each document, by its index; empty where that was not asked for.
    """

    def __init__(
        self, documents: Iterable[ScoredDocument], answerable: float | None, explained: Mapping[int, ExplainedDocument]
    ) -> None:
        super().__init__(documents)
        self.answerable, self.explained = answerable, explained


@dataclass(frozen=True)
class Scoring:
    """What a score is, and which documents are wanted by it: decided here for every adapter.

    Parameters
    ----------
    score_type : str, optional
        ``probability``, ``raw`` or ``share``; probability where the model gives one, else raw, if not given.
    top_k : int, optional
        Keep the best ``top_k``; all by default.
    threshold : float, optional
        Keep scores of this type of at least this; applied before ``top_k``.
    min_probability : float, optional
        Keep probabilities of at least this, whatever the score; applied before ``top_k``.

    Raises
    ------
    ValueError
        Naming what cannot be used.
    """

    score_type: ScoreType | None = None
    top_k: int | None = None
    threshold: float | None = None
    min_probability: float | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        check_score_type(self.score_type)
        Limits(self.top_k, self.threshold, self.min_probability)

    def rank(
        self, reranker: BlockRankReranker, query: str, documents: Sequence[Document], explain: bool = False
    ) -> ScoredRanking:
        """The wanted documents, best first, explained if asked; errors are those of :meth:`BlockRankReranker.rank`."""
        if explain:
            explanation = reranker.explain(query, documents, min_probability=self.min_probability)
            ranking, explained = explanation.ranking, {document.ranked.index: document for document in explanation}
        else:
            ranking, explained = reranker.rank(query, documents, min_probability=self.min_probability), {}
        return ScoredRanking(self._above(reranker, ranking)[: self.top_k], ranking.answerable, explained)

    def search(
        self, reranker: BlockRankReranker, store: UserPath | None, query: str, approximate: bool = False
    ) -> list[ScoredDocument]:
        """The wanted documents of a store, best first; errors are those of :meth:`BlockRankReranker.search`."""
        ranking = reranker.search(
            check_store(store), query, self.top_k, min_probability=self.min_probability, approximate=approximate
        )
        return self._above(reranker, ranking)[: self.top_k]

    def context(
        self,
        reranker: BlockRankReranker,
        query: str,
        documents: Sequence[Document],
        settings: ContextSettings,
        within: Mapping[int, tuple[int, int]] | None = None,
    ) -> tuple[Context, list[ScoredDocument]]:
        """As :meth:`rank`, but for documents of which nothing is in the context, and with the context.

        ``within`` are code points of documents' own texts, by index, in what the model reads; all if not given.
        """
        attended = reranker._attended("max_tokens", query, documents)
        if attended is None:
            return empty_context(), []
        likely = reranker._limits(None, None, self.min_probability).select(attended.ranking)
        above = self._above(reranker, likely)
        context = build_context(attended, [document.ranked for document in above], settings, self.top_k, within)
        return context, [document for document in above if document.ranked.index in context.texts]

    def _above(self, reranker: BlockRankReranker, ranking: Sequence[RankedDocument]) -> list[ScoredDocument]:
        """Documents that reach the threshold."""
        if not ranking:
            return []
        score_type = resolve_score_type(self.score_type, reranker.gives_probabilities, reranker.model)
        ordered = scored(ranking, score_type)
        return [d for d in ordered if self.threshold is None or d.score >= self.threshold]


def metadata_of(ranked: RankedDocument, start: int = 0, end: int | None = None) -> dict[str, Any]:
    """Return what adapters add to a document's metadata: probability, passage and truncation, where it has them.

    Parameters
    ----------
    ranked : RankedDocument
        As the engine ranked it.
    start, end : int
        Code points of the document's own text in what the model read, which may have metadata around it. The passage
        is counted from there, and left out where it has nothing of that text.
    """
    added: dict[str, Any] = {} if ranked.probability is None else {PROBABILITY: ranked.probability}
    if ranked.passage is not None:
        last = len(ranked.text) if end is None else end
        passage = [max(ranked.passage[0], start) - start, min(ranked.passage[1], last) - start]
        if passage[0] < passage[1]:
            added[PASSAGE] = passage
    return added | truncation(ranked)


def metadata_of_cut(ranked: RankedDocument, context: Context, shift: int = 0) -> dict[str, Any]:
    """Return what adapters add to the metadata of a document that was cut: probability, truncation and its pieces.

    Parameters
    ----------
    ranked : RankedDocument
        As the engine ranked it.
    context : Context
        Which has the pieces.
    shift : int
        What turns code points of the text that the model read into those of the document's own.
    """
    pieces = [[piece.start + shift, piece.end + shift] for piece in context.pieces if piece.index == ranked.index]
    added = {name: value for name, value in metadata_of(ranked).items() if name != PASSAGE}  # of the whole text
    return added | {PIECES: pieces}


def fit_top_n(adapter: Any, usual: int) -> None:
    """Set how many documents an adapter of pydantic's frameworks returns, unless it was given: all with a budget.

    ``max_tokens`` says then how much is returned, and all documents may be in it; else ``usual`` is the framework's.
    """
    if "top_n" not in adapter.model_fields_set:
        vars(adapter)["top_n"] = usual if adapter.max_tokens is None else None  # as an assignment would be checked


@cache
def _pydantic_options() -> type:
    """The base class of pydantic's frameworks, with a frozen field for each option."""
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, create_model

    class Ranking(BaseModel):
        model_config = ConfigDict(
            extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), validate_assignment=True
        )
        score_type: ScoreType | None = Field(
            default=None,
            description="`probability`, `raw` or `share`; by default probability where the model gives one, else raw.",
        )
        _reranker: BlockRankReranker = PrivateAttr()

        def model_post_init(self, context: Any) -> None:
            """Describe the engine; it loads with the first list."""
            super().model_post_init(context)
            options: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
            for name, value in options.items():
                if isinstance(value, SecretStr):
                    options[name] = value.get_secret_value()
            check_options(options)
            self._reranker = BlockRankReranker.from_pretrained(options.pop("model"), **options)

        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any:
            """A copy with some settings changed, whose engine has them too."""
            plain = {
                name: OPTIONS[name].plain(value) if name in OPTIONS else value for name, value in (update or {}).items()
            }
            copied = super().model_copy(update=plain, deep=deep)
            if OPTIONS.keys() & (update or {}).keys():
                copied.model_post_init(None)
            return copied

        def __getstate__(self) -> dict[Any, Any]:
            """Everything but secrets, which do not belong into files."""
            state = super().__getstate__()
            hidden = {name: declared.default for name, declared in OPTIONS.items() if declared.secret}
            return state | {"__dict__": state["__dict__"] | hidden}

    fields = {name: _field(declared) for name, declared in OPTIONS.items()}
    return create_model(
        "PydanticOptions",
        __base__=Ranking,
        __module__=__name__,
        __doc__="Which model ranks, and how; classes with the same options share one loaded model.",
        **fields,
    )


def _field(declared: Option) -> Any:
    """The type of an option for pydantic, and its field; frozen, as the engine would ignore a later change."""
    from pydantic import BeforeValidator, Field, SecretStr

    kind = SecretStr if declared.secret else _strict(declared.plain_type)
    annotation = kind | None if declared.default is None else kind
    description = declared.summary.replace("``", "`")
    return (
        Annotated[annotation, BeforeValidator(declared.plain)],
        Field(
            default=declared.default,
            frozen=True,
            description=description,
            exclude=declared.secret,
            repr=not declared.secret,
        ),
    )


def _strict(plain_type: Any) -> Any:
    """The type without pydantic's leniency where it would guess, such as 1 byte for ``True``."""
    from pydantic import StrictInt

    strict: dict[Any, Any] = {str | int: str | StrictInt, dict[int, int]: dict[StrictInt, StrictInt], Path: str}
    return strict.get(plain_type, plain_type)
