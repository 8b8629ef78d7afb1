"""What the heads of a layer of the model see of documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from blockrank_kernels import document_lse
from blockrank_kernels.gpu import upload
from torch import Tensor

from blockrank_rerank.errors import SettingsError
from blockrank_rerank.model.forward_pass import Pass
from blockrank_rerank.model.layout import Layout, content_free_rows, scored_offsets, signal_rows
from blockrank_rerank.model.scores import LayerReading, Lse, corrected
from blockrank_rerank.model.token_attention import token_attention
from blockrank_rerank.states.document_states import key_name


def score_layer(
    layer: int, query: Tensor, key: Tensor, blockrank: Pass, scale: float | None, softcap: float | None
) -> None:
    """Let a pass have the log-sum-exps of its requests, of queries ``[T, Hq, D]`` and keys ``[T, Hk, D]``."""
    config, tuning = blockrank.config, blockrank.tuning
    group = query.shape[1] // key.shape[1]
    heads = None if config.heads is None else _index(tuple(head // group for head in config.heads), key.device)
    if config.heads is not None:
        query = query[:, _index(config.heads, query.device)]
    how: Any = {"scale": scale, "softcap": softcap, "implementation": blockrank.implementation}
    for index, request in enumerate(blockrank.layout.requests):
        signals, content_free = query[signal_rows(request, config)], query[content_free_rows(request, config)]
        weights = None if tuning is None else tuning.weights(signals)
        if tuning is not None:
            signals, content_free = tuning.scaled(signals), tuning.scaled(content_free)
        both = torch.cat([signals, content_free]) if len(content_free) else signals
        parts = []
        for keys, offsets in _scored_keys(key, layer, index, blockrank):
            read = keys if heads is None else keys[:, heads]
            if blockrank.explain:
                parts.append(token_attention(signals, read, offsets, weights=weights, **how))
                continue
            lse = corrected(document_lse(both, read, offsets, **how), len(content_free))
            parts.append(lse if weights is None or tuning is None else tuning.weighed(lse, offsets, weights))
        if blockrank.explain:
            blockrank.token_attention.append(torch.cat(parts))
            continue
        found = Lse.of_blocks(torch.cat(parts, -1), config.abstention)
        blockrank.lse.append(found if weights is None or tuning is None else tuning.shifted(found, weights))


@cache
def _index(heads: tuple[int, ...], device: torch.device) -> Tensor:
    """Heads as an index on a device. A list would be copied there in every pass, and a GPU waited for."""
    with torch.inference_mode(False):  # training reads it too
        return upload(torch.tensor(heads, device="cpu"), device)


def _scored_keys(key: Tensor, layer: int, index: int, blockrank: Pass) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the keys of a request's scored blocks with their offsets; of stored states a part at a time."""
    request, config = blockrank.layout.requests[index], blockrank.config
    if blockrank.document_states is None:
        yield key, scored_offsets(request, config)
        return
    # Nobody asks where in the instruction a query looks.
    if config.abstention and not blockrank.explain:
        start, end = request.instruction
        yield key[start:end], torch.tensor([0, end - start], device="cpu")
    for pack in blockrank.document_states[index]:
        yield pack.get(key_name(layer), key), pack.offsets


def read_layer(query: Tensor, key: Tensor, blockrank: Pass, scale: float | None, softcap: float | None) -> LayerReading:
    """What all heads of a layer see of the only request's documents, as :func:`score_layer` takes them."""
    (request,), config = blockrank.layout.requests, blockrank.config
    how: Any = {"scale": scale, "softcap": softcap, "implementation": blockrank.implementation}
    rows = signal_rows(request, config)
    signals, content_free = query[rows], query[content_free_rows(request, config)]
    lse = document_lse(torch.cat([signals, content_free]), key, request.document_offsets, **how)
    # A token is a document of length 1, whose log-sum-exp is its logit.
    (start, end), first = request.query, request.instruction[0]
    outside = [
        torch.arange(first, int(request.document_offsets[0]) + 1, device="cpu"),
        torch.arange(start, end + 1, device="cpu"),
    ]
    logits = [document_lse(signals, key, bounds, **how) for bounds in outside if len(bounds) > 1]
    unseen = torch.arange(start, end, device="cpu") > torch.arange(rows.start, rows.stop, device="cpu")[:, None]
    logits[-1] = logits[-1].masked_fill(upload(unseen[:, None], lse.device), -torch.inf)
    return LayerReading(lse[: len(signals)], lse[len(signals) :], torch.cat(logits, -1).logsumexp(-1))


def window_hides(window: int | None, layout: Layout, abstention: bool = False) -> int | None:
    """How far queries and what they score are apart, where a layer's window does not reach so far."""
    if window is None:
        return None
    # A model that may abstain scores the instruction too, which begins at position 0.
    distance = max(layout.signal_distance, int(layout.positions.max()) if abstention else 0)
    return distance if distance >= window else None


def refuse_window(
    layer: str, window: int | None, layout: Layout, abstention: bool, others: Sequence[int] | None = None
) -> None:
    """Refuse a layer, by setting and number, that scores and whose window hides documents from the query.

    Raises
    ------
    SettingsError
        Naming layer, window and distance, and the ``others`` without a window where they are known.
    """
    if (distance := window_hides(window, layout, abstention)) is not None:
        known = f" ({', '.join(map(str, others))})" if others else ""
        choose = f", or choose a layer with global attention{known}" if others != [] else ""
        raise SettingsError(
            f"{layer} has a sliding window of {window} positions, but queries and what they score are "
            f"up to {distance} apart: lower query_offset in the config{choose}"
        )
