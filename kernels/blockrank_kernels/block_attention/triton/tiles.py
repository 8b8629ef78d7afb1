"""Work items of the Triton kernels: which program reads what, decided on the host once per layout."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from blockrank_kernels.gpu import upload
from blockrank_kernels.segments import Segments

SPLIT_LENGTH = 1024
"""Tokens of the other side that one work item goes through before the work is split over more of them. Each of them has
a quarter at least, for their results go through memory."""

MAX_SPLITS = 32
"""Most items for one tile: their partial results lie in memory in fp32, and one program merges them."""

PROGRAMS_PER_PROCESSOR = 2
"""Programs among which long ranges are shared out, for each multiprocessor of the device. With one, many of these would
have nothing to do where tiles and heads do not divide their number."""

Range = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tiles:
    """Work items of one launch, and which of their partial results belong together.

    Attributes
    ----------
    whole : Tensor
        ``[items, 8]`` int64: the tile's tokens ``[start, end)``, a range of the other side that is visible
        in full, a range inside the tile's segment, and -1 twice. Each item finishes its tile.
    split : Tensor
        ``[items, 8]`` the same for tiles that several items share; the last but one is the item's slot.
    merged : Tensor
        ``[tiles, 4]``: tokens ``[start, end)`` of a shared tile, its first slot, and its number of slots.
    """

    whole: Tensor
    split: Tensor
    merged: Tensor


def row_tiles(segments: Segments, causal: bool, size: int, busy: int, device: torch.device) -> Tiles:
    """Cut tiles of ``size`` rows with the keys that they see: the context, then the same segment.

    ``busy`` is how many work items keep the device busy, among which what is split is shared out.
    """
    work = []
    bounds = zip(
        segments.offsets[:-1].tolist(),
        segments.offsets[1:].tolist(),
        segments.context_starts.tolist(),
        segments.context_ends.tolist(),
        strict=True,
    )
    for start, end, context_start, context_end in bounds:
        for first in range(start, end, size):
            last = min(first + size, end)
            work.append(((first, last), [(context_start, context_end)], (start, last if causal else end)))
    return _tiles(work, busy, device)


def key_tiles(segments: Segments, causal: bool, size: int, busy: int, device: torch.device) -> Tiles:
    """Cut tiles of ``size`` keys with the rows that see them: of later segments, then of the same segment.

    ``busy`` as in :func:`row_tiles`.
    """
    offsets = segments.offsets.tolist()
    contexts = list(zip(segments.context_starts.tolist(), segments.context_ends.tolist(), strict=True))
    borders = sorted({*offsets, *(border for context in contexts for border in context)})
    seen_by: dict[int, list[Range]] = {border: [] for border in borders}
    for (context_start, context_end), rows in _runs(contexts, offsets):
        # Between two borders every key is seen by the same rows.
        for border in borders[bisect_left(borders, context_start) : bisect_left(borders, context_end)]:
            seen_by[border].append(rows)
    work, segment = [], 0
    for piece_start, piece_end in pairwise(borders):
        while offsets[segment + 1] <= piece_start:
            segment += 1
        for first in range(piece_start, piece_end, size):
            in_segment = (first if causal else offsets[segment], offsets[segment + 1])
            work.append(((first, min(first + size, piece_end)), _joined(seen_by[piece_start]), in_segment))
    return _tiles(work, busy, device)


def _runs(contexts: list[Range], offsets: list[int]) -> Iterator[tuple[Range, Range]]:
    """Yield each context with the rows of consecutive segments that share it; empty contexts are left out."""
    first = 0
    for segment in range(1, len(contexts) + 1):
        if segment == len(contexts) or contexts[segment] != contexts[first]:
            if contexts[first][0] < contexts[first][1]:
                yield contexts[first], (offsets[first], offsets[segment])
            first = segment


def _joined(ranges: list[Range]) -> list[Range]:
    """Return the ranges in ascending order, neighbours joined."""
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def last_row_tiles(
    runs: Sequence[int], lengths: Sequence[int], causal: bool, size: int, busy: int, device: torch.device
) -> tuple[list[Tensor], Tiles]:
    """Cut tiles of ``size`` of the last rows of a sequence that comes in parts of these lengths.

    The rows fall into runs of which none sees another. ``busy`` is as in :func:`row_tiles`, for each part's launch.
    Returns the work items of each part, all of them split or none, and the same items as one table.
    """
    ends = list(accumulate(lengths))
    first_row = ends[-1] - sum(runs)
    rows = list(_row_ranges(runs, first_row, size))
    contexts = [(end - n, min(end, first_row)) for end, n in zip(ends, lengths, strict=True)]
    # Every tile has the slots of all parts, so that their number is bounded for all together.
    most = min(MAX_SPLITS // max(sum(_long(tokens) > 0 for tokens in contexts), 1), busy // len(rows))
    cuts = [_parts(tokens, most) for tokens in contexts]
    slots = sum(map(len, cuts))
    items: list[list[tuple[int, ...]]] = [[] for _ in cuts]
    merged: list[tuple[int, ...]] = []
    for first, last, start, end in rows:
        slot = len(merged) * slots
        for part, ranges in zip(items, cuts, strict=True):
            for visible in ranges:
                part.append((first, last, *visible, 0, 0, slot, -1))
                slot += 1
        items[-1][-1] = (*items[-1][-1][:4], start, last if causal else end, *items[-1][-1][6:])
        merged.append((first - first_row, last - first_row, slot - slots, slots))
    flat = [item for part in items for item in part]
    tiles = _tables(flat if slots == 1 else [], [] if slots == 1 else flat, [] if slots == 1 else merged, device)
    return list((tiles.whole if slots == 1 else tiles.split).split([len(part) for part in items])), tiles


def _row_ranges(runs: Sequence[int], first_row: int, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(first, last)`` of every tile of rows, and the bounds of the run that it lies in."""
    for start, end in pairwise(accumulate(runs, initial=first_row)):
        for first in range(start, end, size):
            yield first, min(first + size, end), start, end


def _tiles(work: list[tuple[Range, list[Range], Range]], busy: int, device: torch.device) -> Tiles:
    """Make work items of tiles, each with the ranges that it sees in full and the one inside its segment."""
    whole: list[tuple[int, ...]] = []
    split: list[tuple[int, ...]] = []
    merged: list[tuple[int, ...]] = []
    total = max(sum(_long(visible) for _, ranges, _ in work for visible in ranges), 1)
    for tile, ranges, in_segment in work:
        parts = [part for visible in ranges for part in _parts(visible, busy * _long(visible) // total)] or [(0, 0)]
        if len(parts) == 1:
            whole.append((*tile, *parts[0], *in_segment, -1, -1))
            continue
        merged.append((*tile, len(split), len(parts)))
        for part in parts[:-1]:
            split.append((*tile, *part, 0, 0, len(split), -1))
        split.append((*tile, *parts[-1], *in_segment, len(split), -1))
    return _tables(whole, split, merged, device)


def _long(tokens: Range) -> int:
    """Length of a range that is to be split; 0 of a short one."""
    start, end = tokens
    return end - start if end - start > SPLIT_LENGTH else 0


def _parts(tokens: Range, most: int) -> list[Range]:
    """Cut a long range into equal parts, one for each work item, and at most so many."""
    start, end = tokens
    count = min(most, MAX_SPLITS, 4 * _long(tokens) // SPLIT_LENGTH)
    if count <= 1:
        return [tokens]
    length = -(-(end - start) // count)
    return [(first, min(first + length, end)) for first in range(start, end, length)]


def _tables(
    whole: list[tuple[int, ...]], split: list[tuple[int, ...]], merged: list[tuple[int, ...]], device: torch.device
) -> Tiles:
    """Put all tables onto the device in one copy; each row is a multiple of the 16 bytes that kernels align to."""
    numbers = torch.tensor([*chain.from_iterable([*whole, *split, *merged])], dtype=torch.int64, device="cpu")
    first, second, third = upload(numbers, device).split([8 * len(whole), 8 * len(split), 4 * len(merged)])
    return Tiles(first.view(-1, 8), second.view(-1, 8), third.view(-1, 4))
