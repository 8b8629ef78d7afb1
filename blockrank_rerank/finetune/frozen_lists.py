"""Lists of which everything was read but at the scoring layer, each once."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from blockrank_rerank.engine.engine import Engine
from blockrank_rerank.finetune.held_out import HeldOut
from blockrank_rerank.model.frozen_scoring import FrozenRequest, freeze
from blockrank_rerank.model.layout import Layout, build_layout
from blockrank_rerank.model.scores import Lse
from blockrank_rerank.model.tuning import Tuning
from blockrank_rerank.ranking.progress import work_progress
from blockrank_rerank.text.document import document_text


class FrozenLists:
    """One list of each query, ready to be scored with any tuning.

    Left out are lists in which every document is relevant: they rank nothing.

    Parameters
    ----------
    engine : Engine
        Reads them.
    drawn : HeldOut
        Queries with their lists.
    max_bytes : int
        Most memory for what is kept; what does not fit is read again whenever it is scored.
    """

    def __init__(self, engine: Engine, drawn: HeldOut, max_bytes: int) -> None:
        self._engine, self._max_bytes = engine, max_bytes
        names = [document for grades in drawn.qrels.values() for document in grades]
        self._texts = {name: document_text(drawn.corpus[name], index) for index, name in enumerate(names)}
        self.queries = {
            drawn.queries[name]: grades for name, grades in drawn.qrels.items() if any(not g for g in grades.values())
        }
        """Grades of the documents of each query's list, by their ids; queries by their text."""
        self._kept: dict[str, FrozenRequest] = {}
        self._cut: set[str] = set()

    def __len__(self) -> int:
        return len(self.queries)

    def read(self, what: str) -> None:
        """Read every list, as far as that can be kept; ``what`` stands before a bar on a terminal."""
        characters = sum(map(len, self._texts.values()))
        with work_progress(what, len(self), characters, None) as advance:
            for query in self.queries:
                frozen = self._frozen(query)
                if self._max_bytes >= frozen.nbytes:
                    self._max_bytes -= frozen.nbytes
                    self._kept[query] = frozen
                advance(1, 0)
        if self._cut:
            warnings.warn(
                f"documents of {len(self._cut)} lists are longer than the model's blocks; their beginnings alone are "
                "read: cut them into passages, so that the relevant ones are those that answer",
                stacklevel=3,
            )

    def lse(self, query: str, tuning: Tuning) -> Lse:
        """Log-sum-exps of a query's list, through which gradients reach the tuning."""
        frozen = self._kept.get(query)
        return (frozen or self._frozen(query)).lse(tuning)

    def grades(self, query: str) -> Tensor:
        """``[N]`` grades of a query's list, on the model's device."""
        return torch.tensor([float(grade) for grade in self.queries[query].values()], device=self._engine.device)

    def _frozen(self, query: str) -> FrozenRequest:
        return freeze(self._engine.backbone, self._layout(query))

    def _layout(self, query: str) -> Layout:
        engine = self._engine
        request = engine.prompt.encode(query, [self._texts[document] for document in self.queries[query]])
        if any(request.truncated):
            self._cut.add(query)
        # In 16 bits on a CPU, as the engine has it: another length is another program.
        rounded = engine.device.type == "cpu" and engine.dtype.itemsize == 2
        offset, unknown = engine.config.query_offset, engine.prompt.unknown_id
        return build_layout([request], offset, round_length_up=rounded, unknown_id=unknown)
