"""What a server takes of its clients."""

from __future__ import annotations

import math
from dataclasses import dataclass

OTHER_REQUESTS = 512
"""That may be under way beside those that wait for the model: bodies that are coming, and other pages."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """How much a request may hold, how many may wait, and how long.

    Attributes
    ----------
    documents : int
        Most documents of a request.
    body_bytes : int
        Most bytes of a request's body.
    waiting : int
        Most requests that wait for the model; one more is answered 429. One client may have half of them.
    seconds : float
        Longest time from a request to its answer; one that takes longer is answered 504, or 408 where its body does.

    Raises
    ------
    ValueError
        For what is not above 0, or is infinite.
    """

    documents: int = 1000
    body_bytes: int = 16_000_000
    waiting: int = 256
    seconds: float = 60.0

    @property
    def requests(self) -> int:
        """Most requests of any kind at one time; one more is answered 503."""
        return self.waiting + OTHER_REQUESTS

    def __post_init__(self) -> None:
        """Check every value."""
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
