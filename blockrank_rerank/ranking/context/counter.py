"""How many tokens a text has, for the model that will read it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockrank_rerank.text.tokenizer import as_text

Counter = Callable[[str], int]
"""A text to its number of tokens."""


def token_counter(tokenizer: Any) -> Counter:
    """Return what counts tokens as a tokenizer does, without special ones.

    Parameters
    ----------
    tokenizer : object
        Of Hugging Face (Transformers or tokenizers) or of tiktoken; or a callable from a text to its tokens or their
        number.

    Raises
    ------
    TypeError
        For anything else.
    """
    if hasattr(tokenizer, "encode_ordinary"):  # tiktoken, whose encode refuses texts that spell a special token
        return _checked(lambda text: len(tokenizer.encode_ordinary(text)), tokenizer)
    if hasattr(tokenizer, "encode"):
        return _checked(lambda text: len(tokenizer.encode(text, add_special_tokens=False)), tokenizer)
    if callable(tokenizer):
        return _checked(tokenizer, tokenizer)
    raise TypeError(
        "tokenizer must be a Hugging Face or tiktoken tokenizer, or a callable from a text to its number of tokens, "
        f"got {type(tokenizer).__name__}"
    )


def _checked(count: Callable[[str], Any], tokenizer: Any) -> Counter:
    """Refuse what is no number of tokens, and say whose failure a failure is."""

    def counted(text: str) -> int:
        try:
            found = count(as_text(text))
        except Exception as error:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} failed on {text[:60]!r}: {type(error).__name__}: {error}"
            ) from error
        number = len(found) if isinstance(found, list) else found
        if isinstance(number, bool) or not hasattr(number, "__index__") or number < 0:
            raise ValueError(f"tokenizer must give a number of tokens that is not negative, got {number!r}")
        return int(number)

    return counted
