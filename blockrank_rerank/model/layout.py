"""A packed sequence: who is where, and who sees what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from blockrank_kernels import Segments
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.text.prompt import EncodedRequest

LEAST_STEP = 16
"""Tokens to which the length of a pack is rounded up, at least."""

STEPS = 16
"""Lengths of packs from one power of 2 to the next."""


@dataclass(frozen=True, eq=False)
class RequestBounds:
    """Where one request lies in the pack.

    Attributes
    ----------
    instruction, query, answer, content_free : tuple of int
        Packed ``(start, end)``; the answer, mostly empty, continues the query block. The content-free query, empty
        where scores are not corrected, is a block of its own: it sees what the query sees, and nothing sees it.
    answers : list of (int, int)
        Packed ``(start, end)`` of each answer but for its last token, which is said and not read; mostly none. Each is
        a block of its own: it sees what the query sees, and the query.
    answer_ids : list of list of int
        Whole answers.
    document_offsets : Tensor
        ``[N + 1]`` int64 on the CPU; documents follow the instruction.
    """

    instruction: tuple[int, int]
    document_offsets: Tensor
    query: tuple[int, int]
    answer: tuple[int, int]
    content_free: tuple[int, int]
    answers: list[tuple[int, int]]
    answer_ids: list[list[int]]

    @property
    def query_blocks(self) -> list[tuple[tuple[int, int], list[int]]]:
        """Blocks that see the documents, packed ``(start, end)``, each with the lengths of the runs that it ends with.

        A row of a run sees the block's rows before all runs, and its own run. That is one run, the whole block, or
        the answers after the query.
        """
        blocks = [(self.query[0], self.answer[1]), self.content_free]
        found = [((start, end), [end - start]) for start, end in blocks if end > start]
        if runs := [end - start for start, end in self.answers if end > start]:
            found.append(((self.query[0], self.answers[-1][1]), runs))
        return found


@dataclass(frozen=True, eq=False)
class Layout:
    """A packed sequence: the blocks of one or more requests, none of them padded.

    Attributes
    ----------
    input_ids : Tensor
        ``[T]`` int64 on the CPU.
    positions : Tensor
        ``[T]`` int64 on the CPU; documents start after the instruction, queries at a fixed offset.
    segments : Segments
        What each block sees when the query sees the documents.
    segments_before : Segments
        The same where the query sees the instruction only.
    requests : list of RequestBounds
        In input order.
    signal_distance : int
        Largest position distance between a query token and a document token of its request.
    unknown_id : int, optional
        The token id that stands for whatever the tokenizer cannot read, where it is to match nothing of its kind.
    """

    input_ids: Tensor
    positions: Tensor
    segments: Segments
    segments_before: Segments
    requests: list[RequestBounds]
    signal_distance: int
    unknown_id: int | None = None

    def tokens_equal(self, token: int) -> Tensor:
        """``[T]`` bool on the CPU: which tokens of the pack are this one."""
        return self.input_ids == token

    @property
    def num_tokens(self) -> int:
        """``T``, the sum of all lengths."""
        return len(self.input_ids)


def build_layout(
    requests: Sequence[EncodedRequest],
    query_offset: int,
    longest_stored: int = 0,
    *,
    round_length_up: bool = False,
    unknown_id: int | None = None,
) -> Layout:
    """Pack requests one after the other.

    Parameters
    ----------
    requests : sequence of EncodedRequest
        At least one. Documents may be missing where stored states stand for them, and so may the query where
        states are made.
    query_offset : int
        Position of the first query token.
    longest_stored : int
        Length of the longest document that is not in the pack because its states stand for it.
    round_length_up : bool
        Whether a last block, which nothing sees, rounds ``T`` up: by up to 15 tokens or a 16th.
    unknown_id : int, optional
        As the layout has it.
    """
    ids: list[int] = []
    lengths: list[int] = []
    contexts: list[tuple[int, int]] = []
    contexts_before: list[tuple[int, int]] = []
    positions: list[Tensor] = []
    bounds: list[RequestBounds] = []
    distance = 0
    for request in requests:
        start, instruction = len(ids), len(request.instruction)
        queries = [request.query + request.answer, request.content_free]
        answers = [answer[:-1] for answer in request.answers]
        blocks = [request.instruction, *request.documents, *queries, *answers]
        context = (start, start + instruction)
        seen = instruction + sum(map(len, request.documents))
        for block in blocks:
            ids.extend(block)
        lengths += map(len, blocks)
        first = [(start, start), *[context] * len(request.documents)]
        query_end = start + seen + len(request.query)
        after_query = [(start, query_end)] * len(answers)
        contexts += [*first, *[(start, start + seen)] * 2, *after_query]
        contexts_before += [*first, *[context] * 2, *after_query]
        positions += _positions(request, query_offset)
        offsets = torch.tensor([instruction, *map(len, request.documents)], device="cpu").cumsum(0) + start
        answer_end = query_end + len(request.answer)
        content_free = (answer_end, answer_end + len(request.content_free))
        said = [*pairwise(accumulate(map(len, answers), initial=content_free[1]))]
        query, answer = (start + seen, query_end), (query_end, answer_end)
        bounds.append(RequestBounds(context, offsets, query, answer, content_free, said, request.answers))
        distance = max(distance, *_distances(request, query_offset, longest_stored))
    if round_length_up:
        padding = _rounded_up(len(ids)) - len(ids)
        for bounds_of_blocks in (contexts, contexts_before):
            bounds_of_blocks.append((len(ids), len(ids)))
        ids += [0] * padding
        lengths.append(padding)
        positions.append(torch.zeros(padding, dtype=torch.int64, device="cpu"))
    all_positions = torch.cat(positions)
    # A block without tokens (an empty instruction) is no segment.
    keep = [index for index, length in enumerate(lengths) if length]
    return Layout(
        input_ids=torch.tensor(ids, device="cpu"),
        positions=all_positions,
        segments=_segments(keep, lengths, contexts, all_positions),
        segments_before=_segments(keep, lengths, contexts_before, all_positions),
        requests=bounds,
        signal_distance=distance,
        unknown_id=unknown_id,
    )


def _rounded_up(tokens: int) -> int:
    step = max((1 << tokens.bit_length()) // 2 // STEPS, LEAST_STEP)
    return -(-tokens // step) * step


def _segments(keep: list[int], lengths: list[int], contexts: list[tuple[int, int]], positions: Tensor) -> Segments:
    return Segments.from_lengths([lengths[i] for i in keep], [contexts[i] for i in keep], positions)


def _positions(request: EncodedRequest, query_offset: int) -> list[Tensor]:
    instruction = len(request.instruction)
    return [
        torch.arange(instruction, device="cpu"),
        *[instruction + torch.arange(len(document), device="cpu") for document in request.documents],
        query_offset + torch.arange(len(request.query) + len(request.answer), device="cpu"),
        query_offset + torch.arange(len(request.content_free), device="cpu"),
        *[
            query_offset + len(request.query) + torch.arange(len(answer) - 1, device="cpu")
            for answer in request.answers
        ],
    ]


def _distances(request: EncodedRequest, query_offset: int, longest_stored: int) -> tuple[int, int]:
    first_document = len(request.instruction)
    last_document = first_document + max(map(len, request.documents), default=longest_stored) - 1
    last_query = query_offset + max(len(request.query), len(request.content_free)) - 1
    return abs(last_query - first_document), abs(last_document - query_offset)


def signal_rows(request: RequestBounds, config: BlockRankConfig) -> slice:
    """Packed rows of the signal tokens: the whole query block, or its last few tokens."""
    return _signals(request.query, config)


def content_free_rows(request: RequestBounds, config: BlockRankConfig) -> slice:
    """Packed rows of the content-free query's signal tokens; none where there is no such query."""
    return _signals(request.content_free, config)


def _signals(block: tuple[int, int], config: BlockRankConfig) -> slice:
    start, end = block
    count = config.signal_tokens
    return slice(max(start, end - count), end) if isinstance(count, int) else slice(start, end)


def scored_offsets(request: RequestBounds, config: BlockRankConfig) -> Tensor:
    """Offsets of the blocks that are scored.

    ``[N + 1]``, the documents; or ``[N + 2]`` where the model was trained to abstain: then the instruction
    block comes first, as the document that stands for "none of these".
    """
    if not config.abstention:
        return request.document_offsets
    return torch.cat([torch.tensor(request.instruction[:1], device="cpu"), request.document_offsets])
