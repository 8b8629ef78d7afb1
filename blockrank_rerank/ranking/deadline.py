"""A ranking by a deadline: what can be read in a time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from blockrank_rerank.engine.machine_profile import machine_profile
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.errors import is_real
from blockrank_rerank.model.names import shown_model
from blockrank_rerank.ranking.clock import Clock
from blockrank_rerank.ranking.partial_reading import PartialReading
from blockrank_rerank.ranking.request import check_request, fitting_requests
from blockrank_rerank.ranking.results import Ranking

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.engine.shared import SharedEngine
    from blockrank_rerank.engine.state_lookup import StateLookup
    from blockrank_rerank.text.document import GivenDocument
    from blockrank_rerank.text.prompt import PromptEncoder


def check_deadline(deadline_ms: float) -> None:
    """Refuse what is no time to wait.

    Raises
    ------
    ValueError
        For anything but a finite number above 0.
    """
    if not is_real(deadline_ms) or not 0 < deadline_ms < math.inf:
        raise ValueError(
            f"deadline_ms must be a number of milliseconds above 0, or None to read everything, got {deadline_ms!r}"
        )


def check_can_stop(engine: Engine, model: str) -> None:
    """Refuse a model whose scores depend on what else is read, and a second rule for what is.

    Raises
    ------
    ValueError
        Naming the model.
    """
    config = engine.config
    if not config.documents_are_independent or not config.prompt.documents_stand_alone:
        raise ValueError(
            "deadline_ms needs a model whose query meets the documents in an appended scoring layer alone, with a "
            f"prompt that neither repeats the query before them nor numbers them: of {model} a score would depend on "
            "how far the others were read; use prune or a shorter list"
        )
    if engine.prune:
        raise ValueError(
            "deadline_ms cannot go together with prune, which says already what is read to the end; make a ranker "
            "without prune"
        )


def ranked_within(
    deadline_ms: float,
    query: str,
    documents: Iterable[GivenDocument],
    shared: SharedEngine,
    lookup: StateLookup | None,
) -> Ranking:
    """Rank a list as far as a time allows.

    Documents that are prepared, cached or stored come first. Where time does not suffice for the others, early layers
    read them, in the order of the input, and the best by their scores there go on to the end. What was read to the end
    has the scores that it has without a deadline, to rounding; ``score`` is its share among the documents that were.

    The ranking has documents that were read to the end, by score; then those that early layers have read, by their
    scores there; then the others in the order of the input. ``layers_read`` of each says how far it was read.

    Parameters
    ----------
    deadline_ms : float
        Counted from this call, without what loading the model and measuring the machine take, once: see
        :func:`machine_profile`.
    query, documents
        As in :meth:`BlockRankReranker.rank`.
    shared : SharedEngine
        Gives the model.
    lookup : StateLookup, optional
        Knows states of some documents.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :meth:`BlockRankReranker.rank`.
    """
    check_deadline(deadline_ms)
    shared.spec.refuse_decoding("deadline_ms")
    clock = Clock(deadline_ms / 1000)

    def prompt() -> PromptEncoder:
        with clock.stopped():
            engine = shared.get()
            check_can_stop(engine, shown_model(shared.spec.checkpoint.model))
            with without_autocast():
                machine_profile(engine)
        return engine.prompt

    (request,) = fitting_requests([check_request((query, documents))], prompt)
    with without_autocast():
        return PartialReading(request, shared.get(), lookup, clock).ranking() if request.texts else Ranking()
