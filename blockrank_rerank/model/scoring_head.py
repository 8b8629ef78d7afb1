"""The scoring attention layer that is appended to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from blockrank_kernels import document_lse
from blockrank_kernels.gpu import upload
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.layout import Layout, RequestBounds, signal_rows
from blockrank_rerank.model.quantized_query import QuantizedQuery
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.model.token_attention import token_attention
from blockrank_rerank.model.tuning import Tuning
from blockrank_rerank.states.document_states import HEAD_KEY
from blockrank_rerank.states.pack import StatePack

SCORING_HEAD_NAME = "scoring_head.safetensors"

START_TEMPERATURE = 0.1
"""Best of the temperatures tried untrained with every query token as a signal (dev/LOG.md)."""

Part = tuple[Tensor, Tensor, Callable[[int], Tensor]]
"""Keys of some documents, their offsets, and a function that says which of the keys' tokens are a given one."""

APART = 1e4
"""Logit by which tokens are kept from matching each other: its exponential is 0 in fp32."""


class ScoringHead(nn.Module):
    """A scoring attention layer appended after an encoder's last layer.

    Query-block states look at document states: both are projected, L2-normalised and compared at a
    temperature; a weight on the logarithm of the document's length corrects the log-sum-exp for it. Each
    signal token has a weight of its own, a softmax over the query of a linear function of its state: "of"
    says less about a document than "insulin". Untrained it is the identity projection, minus the log length,
    all signals alike: a log-mean-exp of cosines.

    Where the model abstains, a learnt number stands for "none of these" instead of the instruction block's score:
    the raw score at which a document is as likely relevant as not. Another, the sharpness, says how fast the odds
    change around it: a raw score that ranks well is not on the scale of log odds. Keys that depend on the query were
    tried and fit the training queries only (dev/LOG.md). No gradient of the two reaches anything else, so calibration
    costs no ranking.

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
        # Torch's own start of a linear layer draws random numbers, which an application that has set a seed would miss.
        with torch.device("cpu"):  # eye_ makes its tensor where torch does by default
            self.query = nn.utils.skip_init(nn.Linear, hidden_size, hidden_size, bias=False)
            self.key = nn.utils.skip_init(nn.Linear, hidden_size, hidden_size, bias=False)
            self.log_temperature = nn.Parameter(torch.full((num_heads,), START_TEMPERATURE).log())
            self.length_weight = nn.Parameter(torch.full((num_heads,), -1.0))
            self.signal_weight = nn.Parameter(torch.zeros(num_heads, hidden_size))
            self.nothing = nn.Parameter(torch.zeros(num_heads))
            self.log_sharpness = nn.Parameter(torch.zeros(()))
            nn.init.eye_(self.query.weight)
            nn.init.eye_(self.key.weight)

    def forward(
        self,
        states: Tensor,
        layout: Layout,
        config: BlockRankConfig,
        implementation: str,
        document_states: Sequence[Iterable[StatePack]] | None = None,
        tuning: Tuning | None = None,
    ) -> list[Lse]:
        """Compute the log-sum-exps of every request, as :meth:`Backbone.document_lse` returns them.

        ``states`` is ``[T, hidden]``, the encoder's final states; ``document_states`` and ``tuning`` as there.
        """
        return [
            self._lse(states, parts, layout, request, config, implementation, tuning)
            for parts, request in zip(self._parts(states, layout, document_states), layout.requests, strict=True)
        ]

    def keys(self, states: Tensor) -> Tensor:
        """``[rows, H, D]`` fp32 of length 1: all that a query reads of a document."""
        return self._unit(self.key(states))

    def token_attention(
        self,
        states: Tensor,
        layout: Layout,
        config: BlockRankConfig,
        implementation: str,
        document_states: Sequence[Iterable[StatePack]],
        tuning: Tuning | None = None,
    ) -> list[Tensor]:
        """Compute where in its documents each request looks, as :func:`token_attention` gives it."""
        attention = []
        for parts, request in zip(self._parts(states, layout, document_states), layout.requests, strict=True):
            queries, weights = self._signals(states, request, config, tuning)
            unread = _unread_signals(layout, request, config)
            looked = [
                token_attention(
                    *_apart(queries, keys, unread, tokens_equal, layout.unknown_id),
                    offsets,
                    scale=1.0,
                    weights=weights,
                    implementation=implementation,
                )
                for keys, offsets, tokens_equal in parts
            ]
            attention.append(torch.cat(looked))
        return attention

    def _parts(
        self, states: Tensor, layout: Layout, document_states: Sequence[Iterable[StatePack]] | None
    ) -> list[Iterable[Part]]:
        """The keys of each request's documents: of the layout's own, or of those that stand for them."""
        if document_states is None:
            keys = self.keys(states)
            return [[(keys, request.document_offsets, layout.tokens_equal)] for request in layout.requests]
        like = states.new_empty(0, dtype=torch.float32)
        return [
            ((pack.get(HEAD_KEY, like), pack.offsets, pack.tokens_equal) for pack in packs) for packs in document_states
        ]

    def quantized_query(
        self, states: Tensor, layout: Layout, config: BlockRankConfig, tuning: Tuning | None
    ) -> QuantizedQuery:
        """Quantise the signals of the only request of a layout, on the CPU."""
        (request,) = layout.requests
        queries, weights = self._signals(states, request, config, tuning)
        length_weights = self.length_weight.float()
        if tuning is not None:
            length_weights = length_weights + tuning.tensors["length_weight"]
        unread = _unread_signals(layout, request, config)
        apart = (
            torch.zeros(len(queries), dtype=torch.float32, device="cpu") if unread is None else -APART * unread.float()
        )
        return QuantizedQuery.of(queries.cpu(), weights.cpu(), length_weights.cpu(), apart)

    def _lse(
        self,
        states: Tensor,
        documents: Iterable[Part],
        layout: Layout,
        request: RequestBounds,
        config: BlockRankConfig,
        implementation: str,
        tuning: Tuning | None,
    ) -> Lse:
        queries, weights = self._signals(states, request, config, tuning)
        unread = _unread_signals(layout, request, config)
        parts = []
        for keys, offsets, tokens_equal in documents:
            pair = _apart(queries, keys, unread, tokens_equal, layout.unknown_id)
            lse = document_lse(*pair, offsets, scale=1.0, implementation=implementation)
            lengths = upload(offsets.diff().to(lse.dtype), lse.device)
            lse = lse + self.length_weight.float()[:, None] * lengths.log()
            parts.append(weights[..., None] * lse if tuning is None else tuning.weighed(lse, offsets, weights))
        nothing = weights.detach() * self.nothing.float() if config.abstention else None
        found = Lse.join(parts, nothing)
        return found if tuning is None else tuning.shifted(found, weights)

    def _signals(
        self, states: Tensor, request: RequestBounds, config: BlockRankConfig, tuning: Tuning | None
    ) -> tuple[Tensor, Tensor]:
        """Queries ``[S, H, D]`` at their temperature, and weights ``[S, H]`` that average 1 over the signals.

        So the mean over signals of weighted log-sum-exps, the raw score, is their weighted mean.
        """
        signals = states[signal_rows(request, config)]
        projected = self.query(signals)
        logits = (signals.float()[:, None] * self.signal_weight.float()).sum(-1)
        temperature = self.log_temperature.float().exp()[:, None]
        if tuning is None:
            return self._unit(projected) / temperature, logits.softmax(0) * len(signals)
        queries = self._unit(projected + tuning.query_change(signals)) / temperature
        return tuning.scaled(queries), tuning.weights(signals[:, None], logits)

    @property
    def sharpness(self) -> Tensor:
        """Log odds of relevance per unit of raw score; a scalar above 0, fp32."""
        return self.log_sharpness.float().exp()

    @property
    def vectors(self) -> list[nn.Parameter]:
        """The parameters that are not projections: few, and learnt at a rate of their own."""
        return [self.log_temperature, self.length_weight, self.signal_weight, self.nothing, self.log_sharpness]

    def _unit(self, projected: Tensor) -> Tensor:
        """``[rows, H, D]`` of length 1, in fp32."""
        return F.normalize(projected.unflatten(-1, (len(self.log_temperature), -1)).float(), dim=-1)

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
            # Files of before it was learnt have no sharpness: raw scores were log odds.
            tensors = {"log_sharpness": torch.zeros((), device="cpu")} | load_file(path)
            # Whatever torch makes where nobody names a dtype: Transformers changes that while it reads a model.
            head = cls(hidden_size, len(tensors["log_temperature"])).float()
            head.load_state_dict(tensors)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{path} is no scoring head for hidden size {hidden_size}: {reason}") from error
        return head


def _unread_signals(layout: Layout, request: RequestBounds, config: BlockRankConfig) -> Tensor | None:
    """``[S]`` bool: which signals stand for what the tokenizer cannot read; nothing where none does."""
    if layout.unknown_id is None:
        return None
    unread = layout.input_ids[signal_rows(request, config)] == layout.unknown_id
    return unread if bool(unread.any()) else None


def _apart(
    queries: Tensor, keys: Tensor, unread: Tensor | None, tokens_equal: Callable[[int], Tensor], unknown_id: int | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys of which no two that stand for unknown text match: the tokenizer has made them alike.

    One more dimension takes the match away, and where nothing is unknown both stay as they are, to the bit.
    """
    if unread is None or unknown_id is None or not bool((unknown := tokens_equal(unknown_id)).any()):
        return queries, keys
    signals = upload((-APART * unread).to(queries.dtype), queries.device)[:, None, None].expand(-1, queries.shape[1], 1)
    tokens = upload(unknown.to(keys.dtype), keys.device)[:, None, None].expand(-1, keys.shape[1], 1)
    return torch.cat([queries, signals], -1), torch.cat([keys, tokens], -1)


def read_head(checkpoint: Checkpoint, model_config: Any, config: BlockRankConfig) -> ScoringHead | None:
    """Read the appended scoring layer in fp32, of a model that has one.

    Raises
    ------
    FileNotFoundError, ValueError
        Where its file is missing or damaged, or fits another width.
    """
    if not config.scoring_head:
        return None
    path = checkpoint.file(SCORING_HEAD_NAME)
    if path is None:
        raise FileNotFoundError(f"model {checkpoint.model!r} has no {SCORING_HEAD_NAME}, which its config needs")
    return ScoringHead.load(path, model_config.hidden_size)
