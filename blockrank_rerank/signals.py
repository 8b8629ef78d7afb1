"""Who looks at what in the scoring layer."""

from __future__ import annotations

import torch
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.layout import RequestBounds


def signal_rows(request: RequestBounds, config: BlockRankConfig) -> slice:
    """Packed rows of the signal tokens: the whole query block, or its last few tokens."""
    start, end = request.query
    count = config.signal_tokens
    return slice(max(start, end - count), end) if isinstance(count, int) else slice(start, end)


def scored_offsets(request: RequestBounds, config: BlockRankConfig) -> Tensor:
    """Offsets of the blocks that are scored.

    ``[N + 1]``, the documents; or ``[N + 2]`` where the model was trained to abstain: then the instruction
    block comes first, as the document that stands for "none of these".
    """
    if not config.abstention:
        return request.document_offsets
    return torch.cat([torch.tensor(request.instruction[:1]), request.document_offsets])
