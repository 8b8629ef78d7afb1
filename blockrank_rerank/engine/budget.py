"""How much of a list goes through a model at a time."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    device: torch.device
    dtype: torch.dtype
    width: int
    max_memory: int | None = None

    @property
    def tokens(self) -> int:
        """Packed tokens that one forward pass should not exceed."""
        return min(self._tokens_of_all_workers, profile_of(self.device).budget_tokens)

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
        tokens, workers = request.num_tokens, self.workers(request.num_tokens)
        rounds = -(-tokens // min(self._tokens_of_all_workers, workers * self.tokens))
        return split(request, rounds * workers), workers

    def parts(self, pack: StatePack) -> list[StatePack]:
        """Part a pack of states into those that are joined at a time."""
        # Joined, states take several times their room; so they are joined for every query anew.
        fits = self.max_memory is None or pack.num_tokens <= self.tokens
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
        if self.max_memory is None:
            return most
        nbytes = ACTIVATION_VALUES_PER_TOKEN * self.width * self.dtype.itemsize
        return min(most, max(self.max_memory // 2 // nbytes, MIN_TOKENS))
