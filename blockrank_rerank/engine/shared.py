"""One loaded engine for all who ask for the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakValueDictionary

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.engine.spec import EngineSpec, resolve_config
from blockrank_rerank.engine.workers import without_autocast
from blockrank_rerank.system.forks import ForkLock, unforked

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.model.probability_map import ProbabilityMap


def checked_engine(shared: object, options: dict[str, Any]) -> SharedEngine:
    """Return what a reranker was made of, if it is an engine.

    Raises
    ------
    TypeError
        With the line to write, for a model and its options.
    """
    if isinstance(shared, SharedEngine) and not options:
        return shared
    words = [] if shared is None else [repr(shared)]
    words += [f"{name}=..." if name == "token" else f"{name}={value!r}" for name, value in options.items()]
    raise TypeError(
        f"a reranker is made by from_pretrained; write BlockRankReranker.from_pretrained({', '.join(words)})"
    )


class SharedEngine:
    """Loads an engine once, when it is first needed, however many threads ask.

    Instances with equal specs share an engine as long as one of them lives; so do deep copies. A pickle carries
    the spec alone.
    """

    probability_map: ProbabilityMap | None = None
    """Of a calibration, where there is one."""

    def __init__(self, spec: EngineSpec, engine: Engine | None = None) -> None:
        self.spec = spec
        self._engine = engine
        self._version: Any = None

    def get(self) -> Engine:
        """Return the engine, loading it on the first call."""
        if self._engine is None:
            self._version = self.spec.checkpoint.version()
            self._engine = _shared_engine(self.spec)
        return self._engine

    @property
    def config(self) -> BlockRankConfig:
        """Settings in force; of a model that is not loaded, its config files are read and not its weights."""
        if self._engine is not None:
            return self._engine.config
        with unforked():  # a child could not import what a thread of its parent was importing
            return resolve_config(self.spec)[1]

    def check_writable(self) -> None:
        """Refuse a model whose files are others by now than those that were loaded.

        Raises
        ------
        ValueError
            Saying what to do.
        """
        if self._version is not None and self._version != self.spec.checkpoint.version():
            raise ValueError(
                f"the files of model {self.spec.checkpoint.model!r} have changed since they were read, so that what is "
                "in use cannot be written any more; make a new reranker of the folder for what is there now"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEngine:
        return self

    def __reduce__(self) -> tuple[type[SharedEngine], tuple[EngineSpec]]:
        return SharedEngine, (self.spec,)

    @property
    def files(self) -> list[str]:
        """Kinds of the files that it is used with beside the model's own."""
        return []


_engines: WeakValueDictionary[Any, Engine] = WeakValueDictionary()
_loading = ForkLock()


class EngineWithFile(SharedEngine):
    """Another engine with a file of what was learnt beside the model, which is loaded once for both."""

    kind: ClassVar[str]
    """What the file is, which is the option's name too."""

    def __init__(self, base: SharedEngine, file: Path) -> None:
        super().__init__(base.spec)
        self.base, self.file = base, file

    def _made(self) -> Engine:
        raise NotImplementedError

    def get(self) -> Engine:
        """Return the engine, loading it on the first call.

        Raises
        ------
        ValueError
            For the file of another model.
        """
        if self._engine is None:  # a race of threads makes it twice, alike
            self._engine = self._made()
        return self._engine

    @property
    def config(self) -> BlockRankConfig:
        """Settings in force: the file changes none."""
        return self.base.config

    @property
    def files(self) -> list[str]:
        """Kinds of the files that it is used with beside the model's own."""
        return [*self.base.files, self.kind]

    def check_writable(self) -> None:
        """Refuse to be written as a model.

        Raises
        ------
        ValueError
            Saying what to do.
        """
        raise ValueError(
            f"a {self.kind} stays a file of its own: save the model without {self.kind}={str(self.file)!r}, and use it "
            "with the saved one"
        )

    def __reduce__(self) -> tuple[type[EngineWithFile], tuple[SharedEngine, Path]]:  # type: ignore[override]
        return type(self), (self.base, self.file)


def _shared_engine(spec: EngineSpec) -> Engine:
    """The engine of a spec that is in use already, or a new one."""
    from blockrank_rerank.engine.engine import Engine

    with _loading, without_autocast():
        # A folder that was written again, by another training run say, holds another model.
        key = spec, spec.checkpoint.version()
        engine = _engines.get(key)
        if engine is None:
            _engines[key] = engine = Engine.load(spec)
        return engine
