from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from blockrank_rerank.families import feed_forward_place, layers_of

CHUNK_BYTES = {"cpu": 6 << 20}
"""Bytes of one feed-forward activation at a time, by device.

It is the widest tensor of the model. On a CPU, one that does not fit the cache is a fresh mapping of memory for every
layer: chunks make a whole ranking 1.2 times as fast (docs/LOG.md).
"""

ACCELERATOR_CHUNK_BYTES = 256 << 20
"""The same on every other device, where it only saves memory: products of thousands of rows are at full speed."""


def chunk_feed_forward(model: Any) -> None:
    """Make every layer's feed-forward part work through a long pack in chunks of rows; no row depends on another.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model of a supported family. Its parameters keep their names.
    """
    # transformers' own chunk_size_feed_forward is for BERT alone and wants a length that it divides.
    width = model.config.intermediate_size
    for layer in layers_of(model):
        owner, name = feed_forward_place(layer)
        # The unbound method: a deep copy of the model must call its own layers, not these.
        setattr(owner, name, partial(_in_chunks, getattr(type(owner), name), owner, width))


def _in_chunks(function: Callable[..., Tensor], owner: Any, width: int, hidden: Tensor) -> Tensor:
    """``function(owner, hidden)`` for ``[1, T, hidden]``, some rows at a time."""
    limit = CHUNK_BYTES.get(hidden.device.type, ACCELERATOR_CHUNK_BYTES)
    rows = max(limit // (width * hidden.element_size()), 1)
    if hidden.shape[1] <= rows:
        return function(owner, hidden)
    return torch.cat([function(owner, part) for part in hidden.split(rows, 1)], 1)
