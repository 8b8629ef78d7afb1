"""How many tokens a text has, for the model that will read it."""

from __future__ import annotations

import copy
import math
import operator
import reprlib
from collections.abc import Callable, Mapping, Sized
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
        number. It is not changed.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(tokenizer, str | bytes | bytearray):  # which has an encode, too
        raise TypeError(
            f"tokenizer must be a tokenizer itself, got the {type(tokenizer).__name__} {reprlib.repr(tokenizer)}; load "
            "it first, e.g. transformers.AutoTokenizer.from_pretrained('gpt2')"
        )
    if hasattr(tokenizer, "encode_ordinary"):  # tiktoken, whose encode refuses texts that spell a special token
        return _checked(tokenizer.encode_ordinary, tokenizer)
    if hasattr(tokenizer, "encode"):
        whole = _without_limits(tokenizer)
        return _checked(lambda text: whole.encode(text, add_special_tokens=False), tokenizer)
    if callable(tokenizer):
        return _checked(tokenizer, tokenizer)
    raise TypeError(
        "tokenizer must be a Hugging Face or tiktoken tokenizer, or a callable from a text to its number of tokens, "
        f"got {type(tokenizer).__name__}"
    )


def _without_limits(tokenizer: Any) -> Any:
    """The tokenizer, or a copy that neither pads nor truncates, as those of saved embedding models do."""
    # Those of Transformers, which have no `no_padding`, do neither unless a call asks for it.
    if not hasattr(tokenizer, "no_padding") or (tokenizer.padding is None and tokenizer.truncation is None):
        return tokenizer
    whole = copy.deepcopy(tokenizer)
    whole.no_padding()
    whole.no_truncation()
    return whole


def _checked(tokenise: Callable[[str], Any], tokenizer: Any) -> Counter:
    """Refuse what is no number of tokens, and say whose failure a failure is."""

    def counted(text: str) -> int:
        try:
            found = tokenise(as_text(text))
            number = _number_of(found)
        except Exception as error:
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} failed on {text[:60]!r}: {type(error).__name__}: {error}"
            ) from error
        if number is None or number < 0:
            raise ValueError(
                "tokenizer must give the tokens of a text, or their number, which is not negative, got "
                f"{type(found).__name__} {reprlib.repr(found)}"
            )
        return number

    return counted


def _number_of(found: Any) -> int | None:
    """Tokens of what a tokenizer returned; nothing for what is neither tokens nor a number."""
    if isinstance(found, Mapping):  # what Transformers give when a tokenizer is called
        return _number_of(found["input_ids"]) if "input_ids" in found else None
    if isinstance(found, str | bool):
        return None
    shape = getattr(found, "shape", None)
    if shape:  # of an array, which may have an axis for its one text
        return int(math.prod(shape))
    if isinstance(found, list) and all(isinstance(part, list) for part in found):  # of one text, as if of several
        return sum(map(len, found))
    if isinstance(found, Sized) and shape is None:  # an array without axes is a number
        return len(found)
    return operator.index(found) if hasattr(found, "__index__") else None
