"""The one door for frameworks: what their adapters use beside the package's public names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from blockrank_rerank.model.checkpoint import DEFAULT_MODEL
from blockrank_rerank.options import OPTIONS, Option, Options, with_options
from blockrank_rerank.ranking.explanation import HIGHLIGHTS, ExplainedDocument, truncation
from blockrank_rerank.ranking.request import check_query
from blockrank_rerank.ranking.results import Limits, RankedDocument
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.text.document import check_is_list

if TYPE_CHECKING:
    from pydantic import BaseModel, PrivateAttr

    class PydanticOptions(BaseModel, Options):
        """Which model ranks, and how, as fields; classes with the same options share one loaded model."""

        _reranker: BlockRankReranker = PrivateAttr()


__all__ = [
    "DEFAULT_MODEL",
    "HIGHLIGHTS",
    "OPTIONS",
    "ExplainedDocument",
    "Limits",
    "PydanticOptions",
    "RankedDocument",
    "check_is_list",
    "check_query",
    "plain_options",
    "truncation",
    "with_options",
]


def __getattr__(name: str) -> Any:
    # Not every framework brings pydantic.
    if name == "PydanticOptions":
        return _pydantic_options()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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


@cache
def _pydantic_options() -> type:
    """The base class of pydantic's frameworks, with a frozen field for each option."""
    from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr, create_model

    class Ranking(BaseModel):
        model_config = ConfigDict(
            extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), validate_assignment=True
        )
        _reranker: BlockRankReranker = PrivateAttr()

        def model_post_init(self, context: Any) -> None:
            """Describe the engine; it loads with the first list."""
            super().model_post_init(context)
            options: dict[str, Any] = {name: getattr(self, name) for name in OPTIONS}
            for name, value in options.items():
                if isinstance(value, SecretStr):
                    options[name] = value.get_secret_value()
            self._reranker = BlockRankReranker.from_pretrained(options.pop("model"), **options)

        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any:
            """A copy with some settings changed, whose engine has them too."""
            copied = super().model_copy(update=update, deep=deep)
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
