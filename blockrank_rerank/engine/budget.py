"""How much of a list goes through a model at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from blockrank_rerank.engine.workers import worker_count
from blockrank_rerank.model.devices import profile_of
from blockrank_rerank.states.pack import StatePack
from blockrank_rerank.text.prompt import EncodedRequest, split

MIN_TOKENS_PER_WORKER = 1024
"""Packed tokens of a pass that is worth a worker of its own."""

MIN_TOKENS = 256
"""Budget of a pass below which no limit on memory goes."""

FILES_PER_LIMIT = 8
"""A file of states takes at most this part of a limit of memory: it is held twice, beside a forward pass."""

HIDDEN_TOKENS = 65536
"""Tokens of a list whose states are kept while documents are pruned, at most: 50 MB for the default model in bf16.

Survivors of a longer list are read anew.
"""

ACTIVATION_VALUES_PER_TOKEN = 16
"""Values of the width of the states that a token needs in a pass, at most; 9 to 11 were counted (dev/LOG.md)."""

FITS = 64
"""Passes that fit before a budget grows: where it is too large then, one of so many fails and is computed again."""


@dataclass(frozen=True)
class Budget:
    """Tokens, workers and bytes for the passes of one model.

    Attributes
    ----------
    device : torch.device
        Where the model is.
    dtype : torch.dtype
        Of its weights.
    width : int
        Of its states.
    max_memory : int, optional
        Bytes that a ranking may take beside the weights: half for a forward pass, half for states that the query
        reads, a part of one layer at a time.
    free_memory : int, optional
        Bytes that a GPU had free beside the weights, of which half are for a forward pass too. The number of layers
        makes no difference: a pass holds what one of them needs.
    most_tokens : int, optional
        Packed tokens of a pass, where the device's memory did not suffice for twice as many.
    fits : int
        Rankings of at least half as many tokens as a pass may have, that have fitted since the limits are these.
    """

    device: torch.device
    dtype: torch.dtype
    width: int
    max_memory: int | None = None
    free_memory: int | None = None
    most_tokens: int | None = None
    fits: int = 0

    def halved(self, tokens: int) -> Budget:
        """Return the budget to go on with where the device's memory did not suffice for so many tokens."""
        return replace(self, most_tokens=max(min(self.tokens, tokens) // 2, MIN_TOKENS), fits=0)

    def fitted(self, tokens: int) -> Budget:
        """Return the budget to go on with where the device's memory sufficed for so many tokens.

        What was short of it may be gone: another process, or somebody's prepared documents. So after :data:`FITS` times
        the free memory is asked for again, and twice as many tokens are tried.
        """
        can_grow = self.most_tokens is not None or self.free_memory is not None
        if not can_grow or self.tokens >= profile_of(self.device).budget_tokens or 2 * tokens < self.tokens:
            return self
        if self.fits + 1 < FITS:
            return replace(self, fits=self.fits + 1)
        # Less than before may be free for the moment, while another thread computes.
        free = max(free_memory(self.device) or 0, self.free_memory or 0) or None
        whole = replace(self, free_memory=free, most_tokens=None, fits=0)
        most = whole.tokens if self.most_tokens is None else 2 * self.most_tokens
        return whole if most >= whole.tokens else replace(whole, most_tokens=most)

    @property
    def tokens(self) -> int:
        """Packed tokens that one forward pass should not exceed."""
        tokens = min(self._tokens_of_all_workers, profile_of(self.device).budget_tokens)
        return tokens if self.most_tokens is None else min(tokens, self.most_tokens)

    @property
    def file_bytes(self) -> int | None:
        """Most bytes of states to write to one file, where memory is limited."""
        return None if self.max_memory is None else self.max_memory // FILES_PER_LIMIT

    def workers(self, tokens: int) -> int:
        """Workers that are worth while for so many tokens."""
        most = min(tokens, self._tokens_of_all_workers) // MIN_TOKENS_PER_WORKER
        return worker_count(min(profile_of(self.device).max_workers, most))

    def groups(self, request: EncodedRequest) -> tuple[list[EncodedRequest], int]:
        """Part a request into groups of documents that are a pass each, as many for every worker; and the workers."""
        workers = self.workers(request.num_tokens)
        return split(request, self.passes(request.num_tokens, workers)), workers

    def passes(self, tokens: int, workers: int) -> int:
        """Passes that so many tokens take, as many for every worker."""
        return workers * -(-tokens // min(self._tokens_of_all_workers, workers * self.tokens))

    def parts(self, pack: StatePack) -> list[StatePack]:
        """Part a pack of states into those that are joined at a time."""
        # Joined, states take several times their room; so they are joined for every query anew.
        limited = self.max_memory is not None or self.most_tokens is not None
        fits = not limited or pack.num_tokens <= self.tokens
        return [pack] if fits else pack.split(self.tokens)

    def holds_hidden(self, tokens: int) -> bool:
        """Whether there is room for the hidden states of so many tokens while documents are pruned."""
        # Twice: those that go on are copied out of all.
        nbytes = 2 * tokens * self.width * self.dtype.itemsize
        return tokens <= HIDDEN_TOKENS and (self.max_memory is None or nbytes <= self.max_memory // 2)

    @property
    def _tokens_of_all_workers(self) -> int:
        """Packed tokens that the passes of all workers together should not exceed."""
        profile = profile_of(self.device)
        most = profile.budget_tokens * worker_count(profile.max_workers)
        limits = [limit for limit in (self.max_memory, self.free_memory) if limit is not None]
        if not limits:
            return most
        nbytes = ACTIVATION_VALUES_PER_TOKEN * self.width * self.dtype.itemsize
        return min(most, max(min(limits) // 2 // nbytes, MIN_TOKENS))


def free_memory(device: torch.device) -> int | None:
    """Bytes of a GPU that are free, those that torch holds and does not use included; nothing of other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
