"""What a scoring layer reads of a request, computed once and scored with any tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blockrank_rerank.model.backbone import Backbone
from blockrank_rerank.model.families import head_counts, head_dim
from blockrank_rerank.model.forward_pass import Pass
from blockrank_rerank.model.layout import Layout, content_free_rows, signal_rows
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.model.tuning import Tuning


def untuned(backbone: Backbone, query_rank: int = 0) -> Tuning:
    """A tuning of a model that changes nothing yet; ``query_rank`` above 0 is for a scoring head."""
    if backbone.head is not None:
        num_heads, width = backbone.head.signal_weight.shape
        return Tuning.start(num_heads, width, query_rank)
    model_config: Any = backbone.model.config
    heads = backbone.config.heads
    return Tuning.start(head_counts(model_config)[0] if heads is None else len(heads), head_dim(model_config))


class FrozenRequest(NamedTuple):
    """A request of which everything was read but at the scoring layer.

    Attributes
    ----------
    nbytes : int
        Of what is kept, in fp16.
    lse : callable
        Gives its log-sum-exps with a tuning, through which gradients go.
    """

    nbytes: int
    lse: Callable[[Tuning], Lse]


@torch.no_grad()
def freeze(backbone: Backbone, layout: Layout) -> FrozenRequest:
    """Read a pack of one request up to the scoring layer."""
    if backbone.head is not None:
        states = backbone.final_states(layout).half()
        return FrozenRequest(states.nbytes, partial(_head_lse, backbone, states, layout))
    score: Any = backbone.scoring_layer(layout)
    layer, query, key = score.args
    (request,) = layout.requests
    blocks = [query[rows(request, backbone.config)].half() for rows in (signal_rows, content_free_rows)]
    signals, keys, end = torch.cat(blocks), key.half(), len(blocks[0])
    # Of queries the signals are kept alone, as if they came first in the pack.
    first = replace(request, query=(0, end), answer=(end, end), content_free=(end, len(signals)))
    again = partial(score.func, layer, **score.keywords)
    here = replace(layout, requests=[first])
    return FrozenRequest(signals.nbytes + keys.nbytes, partial(_layer_lse, backbone, again, signals, keys, here))


def _head_lse(backbone: Backbone, states: Tensor, layout: Layout, tuning: Tuning) -> Lse:
    head: Any = backbone.head
    states = states.to(head.key.weight.dtype)
    found: list[Lse] = head(states, layout, backbone.config, backbone.attention, tuning=tuning)
    return found[0]


def _layer_lse(
    backbone: Backbone,
    score: Callable[[Tensor, Tensor, Pass], None],
    signals: Tensor,
    keys: Tensor,
    layout: Layout,
    tuning: Tuning,
) -> Lse:
    forward = Pass(layout, backbone.config, backbone.attention, tuning=tuning)
    score(signals.float(), keys.float(), forward)
    return forward.lse[0]
