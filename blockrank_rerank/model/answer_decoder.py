"""A whole language model that says how likely each document's id is as its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from blockrank_kernels.gpu import upload
from torch import Tensor

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.backbone import ATTENTION_NAME, Backbone
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.decode_config import check_language_model, reading_all_layers
from blockrank_rerank.model.layout import Layout, RequestBounds
from blockrank_rerank.model.linear import can_fuse, fuse_linear_layers
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.states.pack import StatePack

LOGITS_AT_A_TIME = 1 << 24
"""Logits of a whole vocabulary that are in memory at a time, 64 MB in fp32: Gemma's for 64 tokens."""


class AnswerDecoder(Backbone):
    """A language model with all of its layers and its LM head, whose answers of one token or more are documents' ids.

    In the place of a document's log-sum-exp it has the log-probability of the document's whole answer, right after the
    query block. Nothing is generated: every answer is read beside the others, over the same query.

    Parameters
    ----------
    language_model : nn.Module
        Whose attention implementation is ``blockrank``.
    config : BlockRankConfig
        Settings that fit the model.
    attention : str
        As :class:`Backbone` takes it.
    """

    def __init__(self, language_model: Any, config: BlockRankConfig, attention: str = "auto") -> None:
        base = language_model.base_model
        super().__init__(base, reading_all_layers(config, base.config), None, attention)
        self.lm_head = language_model.get_output_embeddings()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        model_config: Any,
        config: BlockRankConfig,
        device: torch.device,
        dtype: torch.dtype,
        attention: str = "auto",
        quantization: str | None = None,
    ) -> AnswerDecoder:
        """Read all layers and the LM head onto a device.

        Raises
        ------
        ValueError
            For a model without an LM head, and damaged, incomplete or non-finite weights.
        """
        check_language_model(checkpoint.model, model_config)
        layers = model_config.num_hidden_layers
        network = checkpoint.truncated_model(model_config, layers, dtype, ATTENTION_NAME, language_model=True)
        decoder = cls(network, config, attention).to(device)
        decoder.refuse_nonfinite_weights(checkpoint.model)
        if can_fuse(device, dtype):
            fuse_linear_layers(decoder.model)
        return decoder

    def document_lse(self, layout: Layout, document_states: Sequence[Iterable[StatePack]] | None = None) -> list[Lse]:
        """Compute ``[1, 1, N]`` log-probabilities of the answers of every request in a pack, on the model's device.

        Parameters
        ----------
        layout : Layout
            The pack; each request has an answer for each of its documents.
        document_states : sequence of iterable of StatePack, optional
            As in :meth:`Backbone.document_lse`.
        """
        states = self._run(self._reading(layout, document_states))
        if states is None:
            raise RuntimeError("a language model goes through all of its layers")
        return [Lse(self._answers(states, request)[None, None]) for request in layout.requests]

    def head_states(self, states: Tensor) -> dict[str, Tensor]:
        """Nothing: keys and values of its layers are all that is read of documents."""
        return {}

    def _answers(self, states: Tensor, request: RequestBounds) -> Tensor:
        """``[N]`` fp32: the sum of the log-probabilities of each answer's tokens, every one after those before it."""
        end = request.query[1]
        firsts, read = (upload(torch.tensor(ids, device="cpu"), states.device) for ids in _targets(request.answer_ids))
        total = self._log_probabilities(states[end - 1 : end])[0, firsts]
        lengths = [last - first for first, last in request.answers]
        if not sum(lengths):
            return total
        rows = states[request.answers[0][0] : request.answers[-1][1]]
        size = max(LOGITS_AT_A_TIME // self.lm_head.out_features, 1)
        chunks = zip(rows.split(size), read.split(size), strict=True)
        said = torch.cat([self._log_probabilities(some).gather(1, ids[:, None])[:, 0] for some, ids in chunks])
        return total + torch.stack([tokens.sum() for tokens in said.split(lengths)])

    def _log_probabilities(self, states: Tensor) -> Tensor:
        """``[rows, vocabulary]`` fp32 of what may come next."""
        logits: Tensor = self.lm_head(states).float()
        # Gemma 2 (arXiv 2408.00118, section 2).
        if cap := getattr(self.model.config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1)


def _targets(answers: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The first token of every answer, and all others in the order in which answers are packed."""
    return [answer[0] for answer in answers], [token for answer in answers for token in answer[1:]]
