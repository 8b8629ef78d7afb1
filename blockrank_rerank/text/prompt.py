"""The prompt around a query and its documents, and the token ids of its blocks."""

from __future__ import annotations

import string
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from blockrank_rerank.config import NO_INSTRUCTION, BlockRankConfig
from blockrank_rerank.errors import DocumentError, SettingsError
from blockrank_rerank.text.chat_template import chat_wrapping
from blockrank_rerank.text.document import text_and_shift
from blockrank_rerank.text.passages import SLACK, cut_into_passages
from blockrank_rerank.text.tokenizer import Block, EncodedBlock, Piece, TextTokenizer, as_text

if TYPE_CHECKING:
    from blockrank_rerank.text.document import Document

T = TypeVar("T")

TokenisedBlocks = Mapping[Block, EncodedBlock]
"""Blocks of documents that were tokenised to see whether they fit."""


@dataclass(frozen=True)
class EncodedRequest:
    """Token ids of one request, block by block; ``truncated[n]`` says whether document ``n`` was cut.

    ``answer`` continues the query block after its signal tokens: what a model is trained to say. ``content_free`` is a
    second query block, by which scores are corrected. ``answers``, one for each document, are what may follow the
    query, each in the place of the others: the model says how likely they are.
    """

    instruction: list[int]
    documents: list[list[int]]
    query: list[int]
    truncated: list[bool]
    answer: list[int] = field(default_factory=list)
    content_free: list[int] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Length of the request in the pack."""
        queries = len(self.query) + len(self.answer) + len(self.content_free)
        read = sum(len(answer) - 1 for answer in self.answers)
        return len(self.instruction) + sum(map(len, self.documents)) + queries + read

    @property
    def documents_alone(self) -> EncodedRequest:
        """The request without its queries, of which states are made."""
        return replace(self, query=[], answer=[], content_free=[], answers=[])


def split(request: EncodedRequest, parts: int) -> list[EncodedRequest]:
    """Part a request into at most so many, with consecutive documents of about as many tokens each."""
    return [
        replace(request, documents=request.documents[start:end], truncated=request.truncated[start:end])
        for start, end in balanced_ranges([*map(len, request.documents)], parts)
    ]


def balanced_ranges(lengths: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Part lengths into at most ``count`` runs ``(start, end)``, at least one, of about the same sum."""
    ends = [*accumulate(lengths)]
    # Everything belongs to the run in which its middle falls.
    middles = [2 * end - length for length, end in zip(lengths, ends, strict=True)]
    runs = [min(count * middle // max(2 * ends[-1], 1), count - 1) for middle in middles]
    borders = [index for index in range(1, len(runs)) if runs[index] != runs[index - 1]]
    return [*pairwise([0, *borders, len(runs)])]


class PromptEncoder:
    """Turns a query and its documents into the token ids of blocks, each tokenised on its own.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerFast
        The model's tokenizer, with its chat template if it has one.
    config : BlockRankConfig
        Prompt, query offset and document cap.
    position_limit : int
        Number of positions of the model; documents are cut to fit.
    long_queries : str
        What becomes of a query that does not fit: ``"error"``, or ``"truncate"``, of which its beginning is read.
    """

    def __init__(
        self, tokenizer: Any, config: BlockRankConfig, position_limit: int, long_queries: str = "error"
    ) -> None:
        self._tokenizer = TextTokenizer(tokenizer)
        self._config = config
        self._position_limit = position_limit
        self._long_queries = long_queries
        template = config.prompt
        before, between = chat_wrapping(tokenizer) if template.chat else ("", "")
        self._instruction = [(before, None), *_parse(template.instruction)]
        self._document = _parse(template.document)
        self._query = [*_parse(template.query), (between + template.answer, None)]
        self._end_of_turn = tokenizer.eos_token or ""
        self._answer_start: list[tuple[str, str | None]] = [(template.answer_start, None)]

    def encode(self, query: str, documents: Sequence[str], tokenised: TokenisedBlocks | None = None) -> EncodedRequest:
        """Encode one request; every document becomes one block, in order.

        Documents longer than the cap lose the end of their text, never the template around it. What :meth:`passages`
        has ``tokenised`` of them is not tokenised again.

        Raises
        ------
        ValueError
            For a query without a single token or with too many, and a cap that leaves documents no room.
        """
        instruction, query_block = self._heads(query)
        if self._fault(instruction, query_block) is not None:
            instruction, query_block = self._heads(self.fitting(query))
        request = self._request(instruction, query_block, self._blocks(documents, tokenised or {}))
        return replace(request, content_free=self.content_free)

    @cached_property
    def content_free(self) -> list[int]:
        """The block of the content-free query; empty where there is none. Refuses one that does not fit."""
        query = self._config.content_free_query
        if query is None:
            return []
        instruction, block = self._heads(query)
        if (fault := self._fault(instruction, block, can_be_cut=False)) is not None:
            raise SettingsError(f"content_free_query: {fault}")
        return block

    def fitting(self, query: str) -> str:
        """Return as much of a query's beginning as the model can read: all of it, or what ``long_queries`` allows.

        Raises
        ------
        ValueError
            For a query without a single token, and one with too many where it must not be cut.
        """
        instruction, block = self._heads(query)
        fault = self._fault(instruction, block)
        if fault is None:
            return query
        is_long = block not in ([], self._template[0])
        if is_long and self._long_queries == "truncate" and (beginning := self._beginning(query)):
            return beginning
        raise ValueError(fault)

    def beginnings(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Return every text, or its first ``tokens`` tokens (at least 1) where it has more."""
        found = list(texts)
        long = [index for index, text in enumerate(texts) if _most_bytes(text) > tokens]
        pieces = ((Piece(as_text(texts[index]), is_data=True),) for index in long)
        for index, block in zip(long, self._tokenizer.encode(pieces), strict=True):
            if len(block.ids) > tokens:
                found[index] = texts[index][: block.offsets[tokens - 1][1]]
        return found

    def count(self, text: str) -> int:
        """Number of tokens of a text, without a template."""
        (block,) = self._tokenizer.encode([(Piece(as_text(text), is_data=True),)])
        return len(block.ids)

    @property
    def longest_query(self) -> int:
        """Most tokens of a query block, template included."""
        return self._position_limit - self._config.query_offset

    def encode_documents(self, documents: Sequence[str], tokenised: TokenisedBlocks | None = None) -> EncodedRequest:
        """Encode documents for which there is no query yet, as :meth:`encode` would.

        Raises
        ------
        ValueError
            Where the prompt makes documents depend on the query or on their place in the list.
        """
        if not self._config.prompt.documents_stand_alone:
            raise ValueError(
                "documents cannot be prepared with this prompt: its instruction repeats the query or its documents "
                "are numbered; use ranker.query_free() (--query-free)"
            )
        (instruction,) = self._tokenizer.encode([_fill(self._instruction, {})])
        return self._request(instruction.ids, [], self._blocks(documents, tokenised or {}))

    def passages(
        self,
        query: str,
        documents: Sequence[Document],
        texts: Sequence[str],
        fits: Callable[[str], bool],
        first: int = 0,
    ) -> tuple[list[list[tuple[int, int]]], TokenisedBlocks]:
        """Find the parts in which each document goes into blocks, in code points: mostly one, the whole text.

        With them come those whole texts that had to be tokenised for it, which :meth:`encode` then need not.

        Parameters
        ----------
        query : str
            Matters where the instruction repeats it.
        documents, texts : sequence
            As given, and with their titles.
        fits : callable
            Says of a text with its title whether it is known to need no cut: finding out takes as long as encoding it.
        first : int
            Index of the first of these documents in what the caller was given.

        Raises
        ------
        DocumentError
            For a document that is too long where ``long_documents`` is ``"error"``.
        """
        whole = [[(0, len(text_and_shift(document)[0]))] for document in documents]
        if self._config.long_documents == "truncate" or not documents:
            return whole, {}
        instruction, empty = self._tokenizer.encode(
            [_fill(self._instruction, {"query": as_text(query)}), self._bodies([""])[0]]
        )
        cap = self._document_cap(len(instruction.ids))
        # A token stands for one byte at least, so that most short texts need not be encoded to be called short.
        bytes_at_most = cap - len(empty.ids) - SLACK
        long = [index for index, text in enumerate(texts) if _most_bytes(text) > bytes_at_most and not fits(text)]
        bodies = self._bodies(texts)
        tokenised: dict[Block, EncodedBlock] = {}
        for index, block in zip(long, self._tokenizer.encode([bodies[index] for index in long]), strict=True):
            if len(block.ids) > cap:
                if self._config.long_documents == "error":
                    raise DocumentError(
                        first + index,
                        f"has {len(block.ids)} tokens, more than the {cap} that a block may have; shorten it, or set "
                        'long_documents="split" or "truncate" in the config',
                    )
                whole[index] = cut_into_passages(documents[index], block, cap)
            if len(whole[index]) == 1:
                tokenised[bodies[index]] = block.without_offsets()
        return whole, tokenised

    def _blocks(self, documents: Sequence[str], tokenised: TokenisedBlocks) -> Iterator[EncodedBlock]:
        bodies = self._bodies(documents)
        rest = self._tokenizer.encode([body for body in bodies if body not in tokenised])
        for body in bodies:
            yield tokenised[body] if body in tokenised else next(rest)

    def _request(self, instruction: list[int], query: list[int], documents: Iterable[EncodedBlock]) -> EncodedRequest:
        if self._config.abstention and not instruction:
            raise SettingsError(NO_INSTRUCTION)
        cap = self._document_cap(len(instruction))
        blocks, truncated = [], []
        for block in documents:
            blocks.append(_cut([*block.ids], block.tail, cap))
            truncated.append(len(block.ids) > cap)
        return EncodedRequest(instruction, blocks, query, truncated)

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for whatever the tokenizer cannot read; nothing for one that reads everything."""
        return self._tokenizer.unknown_id

    def unreadable_share(self, block: Sequence[int], *, is_query: bool = False) -> float:
        """Share of a block's tokens, those of its template left out, that stand for what the tokenizer cannot read."""
        unknown = 0 if self.unknown_id is None else block.count(self.unknown_id)
        if not unknown:
            return 0.0
        template = self._template[0 if is_query else 1]
        return min(unknown / max(len(block) - len(template), 1), 1.0)

    @cached_property
    def _template(self) -> tuple[list[int], list[int]]:
        """Tokens of a query block and of a document block without any text."""
        query, answer, document = self._tokenizer.encode(
            [_fill(self._query, {"query": ""}), _fill(self._answer_start, {}), *self._bodies([""])]
        )
        return query.ids + answer.ids, document.ids

    @property
    def tokenizer_digest(self) -> str:
        """Tells tokenizers apart."""
        return self._tokenizer.digest

    @property
    def beginning(self) -> str:
        """What comes before the instruction and is not ours: the chat template's beginning, or nothing."""
        return self._instruction[0][0]

    def document_spans(self, documents: Mapping[int, str], lengths: Iterable[int]) -> list[list[tuple[int, int]]]:
        """Find the characters that every token of some documents of a request stands for, end exclusive.

        ``documents`` are texts by their place in the request, of which so many tokens were read (``lengths``). Offsets
        are code points of the texts that were encoded; those of template tokens lie outside the text.
        """
        blocks = self._tokenizer.encode(self._body(index, text) for index, text in documents.items())
        return [
            [
                (start - block.data_start, end - block.data_start)
                for start, end in _cut(block.offsets, block.tail, count)
            ]
            for block, count in zip(blocks, lengths, strict=True)
        ]

    def _bodies(self, documents: Sequence[str]) -> list[Block]:
        return [self._body(index, text) for index, text in enumerate(documents)]

    def _body(self, index: int, text: str) -> Block:
        return _fill(self._document, {"text": as_text(text), "index": str(index)})

    def encode_answer(self, indices: Sequence[int]) -> list[int]:
        """Encode what follows the answer's start in a released training example: ``0, 3]`` and the end of the turn."""
        text = Piece(", ".join(map(str, indices)) + "]" + self._end_of_turn, is_data=False)
        (answer,) = self._tokenizer.encode([(text,)])
        return answer.ids

    def _heads(self, query: str) -> tuple[list[int], list[int]]:
        """Tokens of the instruction and of the query block."""
        values = {"query": as_text(query)}
        parts = (self._instruction, self._query, self._answer_start)
        instruction, ending, answer = self._tokenizer.encode([_fill(part, values) for part in parts])
        return instruction.ids, ending.ids + answer.ids

    def _fault(self, instruction: Sequence[int], block: list[int], can_be_cut: bool = True) -> str | None:
        """What is wrong with a query of these tokens, and what to do."""
        offset, limit = self._config.query_offset, self._position_limit
        if block in ([], self._template[0]):
            return "query must contain text that the model's tokenizer knows; it came to no tokens"
        can_be_cut &= self._long_queries != "truncate"
        cut = ', or set long_queries="truncate" (--long-queries truncate)' if can_be_cut else ""
        if len(block) > self.longest_query:
            lower = ", lower query_offset in the config" if offset > 1 else ""
            return (
                f"query must have at most {self.longest_query} tokens, template included, got {len(block)}: the model "
                f"has {limit} positions and query_offset is {offset}; shorten the query{lower}{cut}"
            )
        if len(instruction) >= limit:
            return (
                f"query is too long: the instruction that repeats it has {len(instruction)} tokens, and the model only "
                f"{limit} positions; shorten the query{cut}"
            )
        return None

    def _beginning(self, query: str) -> str:
        """The longest beginning of a query, in whole tokens, that fits; empty where none does."""
        limit, cap = self._position_limit, self._config.max_document_tokens
        # An instruction that repeats the query must leave documents something to be read in.
        room = 1 if self._config.prompt.query_free else min(limit // 2, limit if cap is None else cap)

        def too_long(end: int) -> bool:
            instruction, block = self._heads(query[:end])
            return len(block) > self.longest_query or len(instruction) > limit - room

        (alone,) = self._tokenizer.encode([(Piece(as_text(query), is_data=True),)])
        ends = [0, *(end for _, end in alone.offsets[:limit])]
        return query[: ends[bisect_left(ends, True, lo=1, key=too_long) - 1]]

    def _document_cap(self, instruction: int) -> int:
        room = self._position_limit - instruction
        if room < 1:
            raise ValueError(
                f"query is too long: the instruction that repeats it has {instruction} tokens, and the model only "
                f"{self._position_limit} positions"
            )
        wanted = self._config.max_document_tokens
        return room if wanted is None else min(wanted, room)


def _cut(tokens: list[T], tail: int, cap: int) -> list[T]:
    if len(tokens) <= cap:
        return tokens
    room = cap - tail
    if room < 1:
        raise SettingsError(
            f"a document must have room for more than the {tail} tokens with which its template ends, got {cap}: raise "
            "max_document_tokens, or shorten the query where the instruction repeats it"
        )
    return tokens[:room] + tokens[len(tokens) - tail :]


def _most_bytes(text: str) -> int:
    """UTF-8 bytes of a text, whatever Unicode normalisation a tokenizer begins with."""
    nbytes = len(text.encode("utf-8", "surrogatepass"))
    if nbytes == len(text):
        return nbytes  # ASCII, which none changes
    return max(nbytes, len(unicodedata.normalize("NFKD", text).encode("utf-8", "surrogatepass")))


def _parse(template: str) -> list[tuple[str, str | None]]:
    """``(literal, placeholder or nothing)`` parts of a format string."""
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(template)]


def _fill(parts: list[tuple[str, str | None]], values: Mapping[str, str]) -> Block:
    block = []
    for literal, name in parts:
        block.append(Piece(literal, is_data=False))
        if name is not None:
            block.append(Piece(values[name], is_data=name != "index"))
    return tuple(block)
