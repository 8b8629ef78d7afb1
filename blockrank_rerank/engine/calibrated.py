"""A loaded engine whose probabilities come of a calibration: a file of its own, bound to the model it was made of."""

from __future__ import annotations

import hashlib
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from blockrank_rerank.engine.shared import EngineWithFile, SharedEngine
from blockrank_rerank.engine.tuned import bases, check_base, unquantized
from blockrank_rerank.model.probability_map import ProbabilityMap
from blockrank_rerank.states.digest import tensor_bytes

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.engine.spec import EngineSpec


class CalibratedEngine(EngineWithFile):
    """Another engine with a calibration."""

    kind = "calibration"
    probability_map: ProbabilityMap

    def __init__(self, base: SharedEngine, file: Path) -> None:
        super().__init__(base, file)
        self.probability_map = ProbabilityMap.load(file)

    def _made(self) -> Engine:
        return _calibrated(self.base.get(), self.probability_map, self.file, self.spec)


class CalibratedRanking:
    """How a ranker is told which calibration to use, for a class that has a shared engine."""

    _shared: SharedEngine

    @property
    def gives_probabilities(self) -> bool:
        """Whether results have a probability: of models that may abstain, and with a calibration."""
        return self._shared.probability_map is not None or self._shared.config.abstention

    def _take_calibration(self, file: Path | None) -> None:
        if file is not None:
            self._shared = CalibratedEngine(self._shared, file)


def calibration_bases(engine: Engine, spec: EngineSpec) -> dict[str, str]:
    """Fingerprints of the model that a calibration is of, by dtype; ``spec`` is what the engine was loaded from."""
    return bases(engine, unquantized(engine, spec))


def tuning_digest(engine: Engine) -> str | None:
    """Digest of the tuning with which an engine's queries read: 32 hexadecimal digits; nothing without one."""
    if (tuning := engine.backbone.tuning) is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tuning.tensors.items()):
        for part in tensor_bytes(name, tensor):
            digest.update(part)
    return digest.hexdigest()


def _calibrated(engine: Engine, found: ProbabilityMap, file: Path, spec: EngineSpec) -> Engine:
    check_base(engine, found.bases, spec, file, "calibration", "blockrank calibrate")
    if found.tuning != tuning_digest(engine):
        made = "without a tuning" if found.tuning is None else "with a tuning"
        raise ValueError(
            f"{file} is a calibration of scores {made}, and the model is used with another one, or without: give the "
            "same tuning as to 'blockrank calibrate', or calibrate again"
        )
    calibrated = copy(engine)
    calibrated.probability_map = found
    return calibrated
