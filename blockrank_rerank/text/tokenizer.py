"""A tokenizer for which text from outside is data."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")

BATCH = 256
"""Blocks that are encoded at a time."""


@dataclass(frozen=True)
class Piece:
    """A piece of a block: trusted template text, or data that can never become a special token."""

    content: str
    is_data: bool


Block = tuple[Piece, ...]
"""What is tokenised at once; blocks that are equal have the same token ids."""


@dataclass(frozen=True)
class EncodedBlock:
    """Token ids of one block.

    ``tail`` is the number of tokens after the last data token: template text that must survive a cut.
    """

    ids: Sequence[int]
    tail: int


@dataclass(frozen=True)
class LocatedBlock(EncodedBlock):
    """Token ids of one block, and where its data is.

    ``offsets`` are the tokens' characters in the block, end exclusive; its first data starts at ``data_start``.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    data_start: int

    def without_offsets(self) -> EncodedBlock:
        """Return what is worth keeping, in 4 bytes a token."""
        return EncodedBlock(array("I", self.ids), self.tail)


class TextTokenizer:
    """Encodes blocks so that only template text can produce special tokens.

    Works on a private copy of a fast tokenizer in which every special token is spelled in a way that
    nobody can guess. Template text is rewritten to that spelling, data is not. Everything else about the
    tokenizer stays, so that a block without markers in its data gets the ids that the original gives it.
    The copy is never changed after construction: threads can share it. ``digest`` tells tokenizers apart, and
    ``unknown_id`` is the token that stands for whatever the vocabulary cannot spell, if there is one.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The model's tokenizer; it is not modified.

    Raises
    ------
    ValueError
        For tokenizers without a ``tokenizers`` backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no fast (tokenizers) backend; save the model with a tokenizer.json"
            )
        serialised = backend.to_str()
        self.digest = hashlib.blake2b(serialised.encode(), digest_size=16).hexdigest()
        content = json.loads(serialised)
        content.update(post_processor=None, truncation=None, padding=None)
        added = content.get("added_tokens") or []
        original = {token["content"]: token["id"] for token in added}
        # Runs of whitespace are ordinary text even where a tokenizer lists them as added tokens (Gemma).
        markers = [token["content"] for token in added if token["special"] or token["content"].strip(" \n\t▁")]
        prefix = secrets.token_hex(16)
        self._spelling = {marker: f"<{prefix}-{number}>" for number, marker in enumerate(markers)}
        _respell(content, self._spelling)
        self._tokenizer = Tokenizer.from_str(json.dumps(content))
        ids = {self._tokenizer.token_to_id(self._spelling.get(text, text)): number for text, number in original.items()}
        # Special tokens outside the model's vocabulary are numbered anew when a tokenizer is read.
        self._renumbered = {private: number for private, number in ids.items() if private != number}
        names = sorted(map(re.escape, markers), key=len, reverse=True)
        self.unknown_id = _unknown_id(content["model"], self._tokenizer)
        self._pattern = re.compile("|".join(names)) if names else None

    def encode(self, blocks: Iterable[Block]) -> Iterator[LocatedBlock]:
        """Encode blocks, each on its own; some at a time, since a tokenizer says much more of a text than its ids."""
        rest = iter(blocks)
        while batch := list(islice(rest, BATCH)):
            spelled = [tuple(Piece(self._spell(piece), piece.is_data) for piece in block) for block in batch]
            texts = ["".join(piece.content for piece in block) for block in spelled]
            encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            yield from map(self._block, spelled, encodings)

    def _spell(self, piece: Piece) -> str:
        if piece.is_data or self._pattern is None:
            return piece.content
        return self._pattern.sub(lambda found: self._spelling[found.group()], piece.content)

    def _block(self, block: Block, encoding: Any) -> LocatedBlock:
        ids = encoding.ids
        if self._renumbered:
            ids = [self._renumbered.get(number, number) for number in ids]
        end, offsets = _data_end(block), encoding.offsets
        tail = 0
        for start, _ in reversed(offsets if end < sum(len(piece.content) for piece in block) else []):
            if start < end:
                break
            tail += 1
        return LocatedBlock(ids, tail, offsets, _data_start(block))


def _unknown_id(model: dict[str, Any], tokenizer: Any) -> int | None:
    """Token of what the vocabulary cannot spell; nothing for models that spell everything in bytes."""
    if model.get("byte_fallback"):
        return None
    number: int | None = model.get("unk_id")
    if model.get("unk_token"):
        number = tokenizer.token_to_id(model["unk_token"])
    return number


def _respell(content: dict[str, Any], spelling: dict[str, str]) -> None:
    """Rename markers in a serialised tokenizer, in its added tokens and in the vocabulary of its model.

    Some vocabularies hold their markers as ordinary pieces, which text could otherwise match. The piece for
    unknown characters keeps its name: the model refers to it, and it opens or closes nothing.
    """
    model = content["model"]
    unknown = model.get("unk_token")
    for token in content["added_tokens"]:
        token["content"] = spelling.get(token["content"], token["content"])
    renamed = {old: new for old, new in spelling.items() if old != unknown}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {renamed.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:
        keep = model.get("unk_id")
        model["vocab"] = [
            [piece if number == keep else renamed.get(piece, piece), score]
            for number, (piece, score) in enumerate(model["vocab"])
        ]
    if "merges" in model:
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not renamed.keys() & {*pair, "".join(pair)}]


def _data_start(block: Block) -> int:
    """Character where the first data piece of a block starts."""
    return sum(len(piece.content) for piece in takewhile(lambda piece: not piece.is_data, block))


def _data_end(block: Block) -> int:
    """Character where the last data piece of a block ends."""
    end = position = 0
    for piece in block:
        position += len(piece.content)
        if piece.is_data:
            end = position
    return end


def as_text(value: str) -> str:
    """Replace surrogates, which no tokenizer accepts, by U+FFFD one by one, so that everything stays in its place."""
    return _SURROGATE.sub("\ufffd", value)
