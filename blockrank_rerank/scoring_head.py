from __future__ import annotations

from pathlib import Path

import torch
from blockrank_kernels import document_scores
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from blockrank_rerank.layout import Layout, RequestBounds

SCORING_HEAD_NAME = "scoring_head.safetensors"

START_TEMPERATURE = 0.1
"""Best of the temperatures tried untrained with every query token as a signal (docs/LOG.md)."""


class ScoringHead(nn.Module):
    """A scoring attention layer appended after an encoder's last layer.

    Query-block states look at document states: both are projected, L2-normalised and compared at a
    temperature; a weight on the logarithm of the document's length corrects the log-sum-exp for it.
    Untrained it is the identity projection, minus the log length: a log-mean-exp of cosines.

    Parameters
    ----------
    hidden_size : int
        Width of the states.
    num_heads : int
        Number of scoring heads ``H``; divides ``hidden_size``.
    """

    def __init__(self, hidden_size: int, num_heads: int = 1) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"num_heads must divide hidden_size {hidden_size}, got {num_heads}")
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.log_temperature = nn.Parameter(torch.full((num_heads,), START_TEMPERATURE).log())
        self.length_weight = nn.Parameter(torch.full((num_heads,), -1.0))
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)

    def forward(self, states: Tensor, layout: Layout, signal_tokens: int | str, implementation: str) -> list[Tensor]:
        """Document log-sum-exps ``[S, H, N]`` of every request, from final states ``[T, hidden]``."""
        heads = len(self.log_temperature)
        keys = F.normalize(self.key(states).unflatten(-1, (heads, -1)).float(), dim=-1)
        return [self._scores(states, keys, request, signal_tokens, implementation) for request in layout.requests]

    def _scores(
        self,
        states: Tensor,
        keys: Tensor,
        request: RequestBounds,
        signal_tokens: int | str,
        implementation: str,
    ) -> Tensor:
        heads = len(self.log_temperature)
        signals = states[slice(*signal_span(request, signal_tokens))]
        if signal_tokens == "mean":
            signals = signals.mean(0, keepdim=True)
        queries = F.normalize(self.query(signals).unflatten(-1, (heads, -1)).float(), dim=-1)
        queries = queries / self.log_temperature.float().exp()[:, None]
        offsets = request.document_offsets
        lse = document_scores(queries, keys, offsets, scale=1.0, implementation=implementation)
        lengths = offsets.diff().to(lse.device, lse.dtype)
        return lse + self.length_weight.float()[:, None] * lengths.log()

    def save(self, folder: str | Path) -> None:
        """Write ``scoring_head.safetensors`` in fp32."""
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, Path(folder) / SCORING_HEAD_NAME)

    @classmethod
    def load(cls, path: str | Path, hidden_size: int) -> ScoringHead:
        """Read a head for states of the given width.

        Raises
        ------
        ValueError
            Where the file is damaged or fits another width.
        """
        try:
            tensors = load_file(path)
            head = cls(hidden_size, len(tensors["log_temperature"]))
            head.load_state_dict(tensors)
        except Exception as error:
            raise ValueError(f"{path} is no scoring head for hidden size {hidden_size}: {error}") from error
        return head


def signal_span(request: RequestBounds, signal_tokens: int | str) -> tuple[int, int]:
    """Packed ``(start, end)`` of the signal tokens: the whole query block, or its last few tokens."""
    start, end = request.query
    return (max(start, end - signal_tokens), end) if isinstance(signal_tokens, int) else (start, end)
