from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockrank_rerank.checkpoint import Checkpoint
from blockrank_rerank.config import BlockRankConfig

if TYPE_CHECKING:
    from blockrank_rerank.engine import Engine


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Everything needed to load an engine; two equal specs load equal engines."""

    checkpoint: Checkpoint
    config: BlockRankConfig | None
    scoring_layer: int | None
    device: str | None
    dtype: str | None
    attention: str


class EngineHandle:
    """Loads an engine once, when it is first needed, however many threads ask.

    A deep copy shares the engine, whose weights never change; a pickle carries the spec alone.
    """

    def __init__(self, spec: EngineSpec, engine: Engine | None = None) -> None:
        self.spec = spec
        self._engine = engine
        self._lock = threading.Lock()

    def get(self) -> Engine:
        """Return the engine, loading it on the first call."""
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    from blockrank_rerank.engine import Engine

                    self._engine = Engine.load(self.spec)
        return self._engine

    @property
    def config(self) -> BlockRankConfig:
        """Settings in force; of a model that is not loaded, its config files are read and not its weights."""
        if self._engine is not None:
            return self._engine.config
        from blockrank_rerank.engine import resolve_config

        return resolve_config(self.spec)[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineHandle:
        return self

    def __reduce__(self) -> tuple[type[EngineHandle], tuple[EngineSpec]]:
        return EngineHandle, (self.spec,)
