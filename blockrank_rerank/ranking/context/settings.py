"""What a context may hold, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blockrank_rerank.errors import check_real, check_whole
from blockrank_rerank.ranking.context.counter import Counter, token_counter
from blockrank_rerank.ranking.context.template import Template

MAX_TOKENS, TEMPLATE = 1500, "{text}"


@dataclass(frozen=True)
class ContextSettings:
    """What a context may hold, and how it is written; see :meth:`BlockRankReranker.context`.

    Raises
    ------
    TypeError, ValueError
        Naming what cannot be used.
    """

    max_tokens: int = MAX_TOKENS
    tokenizer: Any = None
    diversity: float = 0.0
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        """Check every value."""
        check_whole("max_tokens", self.max_tokens, 1)
        check_real("diversity", self.diversity, (0, 1))
        if self.tokenizer is not None:
            token_counter(self.tokenizer)
        _ = self.written

    @classmethod
    def of_adapter(
        cls, max_tokens: int | None, tokenizer: Any, diversity: float, explain: bool
    ) -> ContextSettings | None:
        """Return how an adapter cuts documents where it is told a budget; nothing where it returns them whole.

        Raises
        ------
        TypeError, ValueError
            Naming what cannot be used; for a budget beside ``explain``, whose highlights are of whole documents, and
            for what means nothing without one.
        """
        if max_tokens is None:
            for name, given in (("tokenizer", tokenizer is not None), ("diversity", diversity)):
                if given:
                    raise ValueError(
                        f"{name} is for documents that are cut to max_tokens, got max_tokens=None; give both"
                    )
            return None
        if explain:
            raise ValueError("explain and max_tokens do not go together: what is cut has `pieces`; choose one")
        return cls(max_tokens, tokenizer, diversity)

    @cached_property
    def written(self) -> Template:
        """The template, parsed."""
        return Template(self.template)

    def counter(self, own: Counter) -> Counter:
        """What counts tokens: the tokenizer, or what counts the model's own."""
        return own if self.tokenizer is None else token_counter(self.tokenizer)
