from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Text:
    """A piece of a block: trusted template text, or data that can never become a special token."""

    content: str
    is_data: bool


@dataclass(frozen=True)
class EncodedBlock:
    """Token ids of one block and where its data ends.

    ``tail`` is the number of tokens after the last data token: template text that must survive a cut.
    """

    ids: list[int]
    tail: int


class TextTokenizer:
    """Encodes blocks so that only template text can produce special tokens.

    Works on a private copy of a fast tokenizer that knows no special tokens at all and is never changed
    after construction, so that threads can share it.

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
        content = json.loads(backend.to_str())
        added = content.get("added_tokens") or []
        # Runs of whitespace are ordinary text even where a tokenizer lists them as added tokens (Gemma).
        plain = [token for token in added if not token["special"] and not token["content"].strip(" \n\t▁")]
        content.update(added_tokens=plain, post_processor=None, truncation=None, padding=None)
        self._plain = Tokenizer.from_str(json.dumps(content))
        kept = {token["content"] for token in plain}
        self._special = {token["content"]: token["id"] for token in added if token["content"] not in kept}
        unknown = content["model"].get("unk_token")
        self._forbidden = {number for text, number in self._special.items() if text != unknown}
        names = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    def encode(self, blocks: list[list[Text]]) -> list[EncodedBlock]:
        """Encode blocks, each on its own."""
        split = [self._split(block) for block in blocks]
        encodings = iter(
            self._plain.encode_batch([_joined(run) for runs in split for run in runs if not isinstance(run, int)])
        )
        return [self._block(runs, encodings) for runs in split]

    def _split(self, block: list[Text]) -> list[int | list[Text]]:
        """Special-token ids, and between them runs of text that are encoded as one string."""
        runs: list[int | list[Text]] = []
        for piece in block:
            for part in self._pattern.split(piece.content) if self._pattern and not piece.is_data else [piece.content]:
                if not piece.is_data and part in self._special:
                    runs.append(self._special[part])
                elif part and runs and isinstance(runs[-1], list):
                    runs[-1].append(Text(part, piece.is_data))
                elif part:
                    runs.append([Text(part, piece.is_data)])
        return runs

    def _block(self, runs: list[int | list[Text]], encodings: Any) -> EncodedBlock:
        ids: list[int] = []
        data_end = 0
        for run in runs:
            if isinstance(run, int):
                ids.append(run)
                continue
            tokens = self._safe(_joined(run), next(encodings))
            end = _data_end(run)
            if end is not None:
                data_end = len(ids) + sum(start < end for _, start in tokens)
            ids.extend(number for number, _ in tokens)
        return EncodedBlock(ids, len(ids) - data_end)

    def _safe(self, text: str, encoding: Any) -> list[tuple[int, int]]:
        """``(id, start)`` per token; a token that would be special is cut in two and encoded again.

        Unigram and some BPE vocabularies hold their special tokens as ordinary pieces.
        """
        tokens = [(number, start) for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True)]
        for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if number in self._forbidden and end - start > 1:
                halves = ((text[: start + 1], 0), (text[start + 1 :], start + 1))
                return [
                    (number, offset + start)
                    for half, offset in halves
                    for number, start in self._safe(half, self._plain.encode(half))
                ]
        return tokens


def _joined(run: list[Text]) -> str:
    return "".join(piece.content for piece in run)


def _data_end(run: list[Text]) -> int | None:
    """Character where the last data piece of a run ends; nothing where the run has no data."""
    end, position = None, 0
    for piece in run:
        position += len(piece.content)
        if piece.is_data:
            end = position
    return end


def as_text(value: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD; everything else stays."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
