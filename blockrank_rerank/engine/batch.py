"""What an engine scores at one time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockrank_rerank.model.stages import HiddenStates
from blockrank_rerank.states.pack import PassingStates, StatePack
from blockrank_rerank.text.prompt import EncodedRequest


@dataclass(frozen=True, eq=False)
class Batch:
    """Requests whose documents are tokens, or states that stand for them, or hidden states at a layer.

    Attributes
    ----------
    requests : sequence of EncodedRequest
        At least one; without documents where ``states`` stand for them.
    states : sequence of StatePack or PassingStates
        One for each request, or none at all. States that are read in passing come with one request alone.
    hidden : HiddenStates, optional
        How far the first layers have read the only request already.
    """

    requests: Sequence[EncodedRequest]
    states: Sequence[StatePack | PassingStates] = ()
    hidden: HiddenStates | None = None
