"""One loaded engine whose queries read with tunings: each a file of its own, all over the same states."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from blockrank_rerank.engine.fingerprint import base_fingerprint
from blockrank_rerank.engine.shared import EngineWithFile, SharedEngine
from blockrank_rerank.engine.spec import EngineSpec, resolve_config
from blockrank_rerank.model.tuning import Tuning

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.model.backbone import Backbone


Ranker = TypeVar("Ranker", bound="TunedRanking")


class TunedEngine(EngineWithFile):
    """Another engine with a tuning."""

    kind = "tuning"

    def _made(self) -> Engine:
        return tuned_engine(self.base.get(), self.file, self.spec)


class TunedRanking:
    """How a ranker is told which tuning to use, for a class that has a shared engine."""

    _shared: SharedEngine
    _tunings: Mapping[str, TunedEngine] = MappingProxyType({})

    @property
    def tunings(self) -> list[str]:
        """Names of the tunings of which :meth:`rank` can be told to use one."""
        return [*self._tunings]

    def tuned(self: Ranker, tuning: str | None) -> Ranker:
        """Return this reranker with one of its tunings for all it does, over the same model, cache and store.

        Parameters
        ----------
        tuning : str, optional
            One of :attr:`tunings`; without one it is this reranker itself.

        Raises
        ------
        ValueError
            For a name that it has no tuning of.
        """
        if tuning is None:
            return self
        if not isinstance(tuning, str) or tuning not in self._tunings:
            have = f"one of {', '.join(self._tunings)}" if self._tunings else "None, as this reranker has none by name"
            raise ValueError(f"tuning must be {have}, got {tuning!r}; from_pretrained(tuning={{NAME: FILE}}) names one")
        tuned = copy(self)
        tuned._shared = self._tunings[tuning]
        return tuned

    def _take_tunings(self, tuning: Path | Mapping[str, Path] | None) -> None:
        """Use one tuning for every ranking, or have several to choose from."""
        if isinstance(tuning, Path):
            self._shared = TunedEngine(self._shared, tuning)
        elif tuning:
            self._tunings = {name: TunedEngine(self._shared, file) for name, file in tuning.items()}


def tuned_engine(engine: Engine, file: Path, spec: EngineSpec) -> Engine:
    """Return an engine that reads with a tuning and shares the weights of another, which was loaded from ``spec``.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is no tuning, and one of another model.
    """
    # Loading needs them, and they bring in Transformers.
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.model.backbone import Backbone
    from blockrank_rerank.model.frozen_scoring import untuned

    whole, tuning = engine.backbone, Tuning.load(file)
    check_base(engine, tuning.facts.get("bases"), spec, file, "tuning", "blockrank-finetune tune")
    if not tuning.fits(untuned(whole, tuning.query_rank)):
        raise ValueError(f"{file} is damaged: it does not fit the model that it was made for; tune again")
    backbone = Backbone(whole.model, whole.config, whole.head, whole.attention, tuning.to(engine.device))
    backbone.encoder = whole.encoder
    return Engine(engine.config, engine.prompt, backbone, engine.prune, engine.budget.max_memory)


def check_base(engine: Engine, bases: Any, spec: EngineSpec, file: Path, noun: str, command: str) -> None:
    """Refuse what was made for another model, or for queries that read otherwise.

    Parameters
    ----------
    engine : Engine
        As it was loaded from ``spec``.
    bases : object
        What should be fingerprints by dtype, as :func:`bases` makes them.
    spec : EngineSpec
        Names the model.
    file, noun, command : Path, str, str
        Where it lies, what it is called, and what makes one, for messages.

    Raises
    ------
    ValueError
        Saying what to do.
    """
    dtype = str(engine.dtype).removeprefix("torch.")
    if not isinstance(bases, dict) or dtype not in bases:
        made = ", ".join(map(str, bases)) if isinstance(bases, dict) else "no dtype"
        raise ValueError(
            f"{file} is a {noun} for models in {made}, and {spec.checkpoint.model} is loaded in {dtype}: pass one of "
            f"these as dtype, or make one in {dtype} with '{command}'"
        )
    if bases[dtype] != base_fingerprint(engine.config, engine.prompt, unquantized(engine, spec), engine.dtype):
        raise ValueError(
            f"{file} was made for another model than {spec.checkpoint.model}, or for other settings of its queries: "
            f"use it with the one it was made for, or make one for this model with '{command}'"
        )


def unquantized(engine: Engine, spec: EngineSpec) -> Backbone:
    """The weights of a model before they were rounded to 8 bits."""
    from blockrank_rerank.model.backbone import Backbone

    if spec.quantization is None:
        return engine.backbone
    model_config, config = resolve_config(spec)
    return Backbone.load(spec.checkpoint, model_config, config, torch.device("cpu"), engine.dtype)


def bases(engine: Engine, backbone: Backbone | None = None) -> dict[str, str]:
    """Fingerprints of an engine's model by each dtype in which it may be loaded, as far as this one can know them.

    ``backbone`` has the weights where the engine's own are rounded to 8 bits.
    """
    dtypes = (torch.float32, torch.bfloat16, torch.float16) if engine.dtype == torch.float32 else (engine.dtype,)
    weights = backbone or engine.backbone
    return {
        str(dtype).removeprefix("torch."): base_fingerprint(engine.config, engine.prompt, weights, dtype)
        for dtype in dtypes
    }
