"""What components of Haystack have in common: which documents are wanted, and a model that is loaded when needed."""

# Without `from __future__ import annotations`, as its neighbours.
import json
import operator
from collections.abc import Mapping
from typing import Any

from haystack import default_from_dict
from haystack.utils import ComponentDevice, Secret

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.adapters import (
    OPTIONS,
    ScoreType,
    Scoring,
    UserPath,
    check_options,
    check_whole,
    in_executor,
    plain_options,
)


class DescribedModel:
    """Settings as attributes, in forms that a saved pipeline can hold, and the model once it is loaded."""

    device: ComponentDevice | None
    token: Secret | None
    top_k: int | None
    score_threshold: float | None
    min_probability: float | None
    score_type: ScoreType | None
    _reranker: BlockRankReranker | None

    def _describe(
        self, model: UserPath, device: ComponentDevice | None, token: Secret | None, options: dict[str, Any]
    ) -> None:
        """Keep the options; refuses what cannot be used."""
        if not (device is None or isinstance(device, ComponentDevice)):
            raise ValueError(f"device must be a ComponentDevice, as ComponentDevice.from_str gives it, got {device!r}")
        if not (token is None or isinstance(token, Secret)):
            raise ValueError(f"token must be a Secret, as Secret.from_env_var gives it, got {type(token).__name__}")
        plain = plain_options({"model": model, **options})
        check_options({**plain, "device": None if device is None else device.to_torch_str()})
        vars(self).update(plain)
        self.device, self.token, self._reranker = device, token, None

    def _choose(
        self,
        top_k: int | None,
        score_threshold: float | None,
        min_probability: float | None,
        score_type: ScoreType | None,
    ) -> None:
        """Keep which documents are wanted, and by which score; refuses what cannot be used."""
        check_top_k(top_k)
        Scoring(score_type, threshold=score_threshold, min_probability=min_probability)  # refuses what is none
        self.top_k, self.score_type = None if top_k is None else operator.index(top_k), score_type
        self.score_threshold = None if score_threshold is None else float(score_threshold)
        self.min_probability = None if min_probability is None else float(min_probability)

    def warm_up(self) -> None:
        """Load the model, unless it is there; `run` does so by itself."""
        self._loaded()

    async def warm_up_async(self) -> None:
        """As `warm_up`, in a thread, so that loading does not block the event loop."""
        await in_executor(self.warm_up)

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which has the secret's value: a pickle's reader resolves the secret anew."""
        return self.__dict__ | {"_reranker": None}

    def close(self) -> None:
        """Let go of the model; the next run loads it again."""
        self._reranker = None

    def _saved(self) -> dict[str, Any]:
        """The settings that all components have, as a saved pipeline has them."""
        options = self._options(
            None if self.device is None else self.device.to_dict(),
            None if self.token is None else self.token.to_dict(),
        )
        saved: dict[str, Any] = json.loads(json.dumps(options))  # Haystack saves no numbers as keys
        chosen = ("top_k", "score_threshold", "min_probability", "score_type")
        return saved | {name: getattr(self, name) for name in chosen}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """A component with saved settings."""
        return default_from_dict(cls, {**data, "init_parameters": cls._read(data.get("init_parameters", {}))})

    @staticmethod
    def _read(saved: Mapping[str, Any]) -> dict[str, Any]:
        """Saved settings, with Haystack's classes for the two of which it has some."""
        settings = dict(saved)
        if settings.get("device") is not None:
            settings["device"] = ComponentDevice.from_dict(settings["device"])
        if settings.get("token") is not None:
            settings["token"] = Secret.from_dict(settings["token"])
        return settings

    def _scoring(self, top_k: int | None, score_threshold: float | None = None) -> Scoring:
        """What a run goes by: its own values, or else the component's."""
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        return Scoring(self.score_type, top_k, threshold, self.min_probability)

    def _loaded(self) -> BlockRankReranker:
        reranker = self._reranker  # another thread may call `close` at any time
        if reranker is None:
            options = self._options(
                None if self.device is None else self.device.to_torch_str(),
                self.token.resolve_value() if self.token else None,
            )
            reranker = BlockRankReranker.from_pretrained(options.pop("model"), **options)
            _ = reranker.device  # loads
            self._reranker = reranker
        return reranker

    def _options(self, device: Any, token: Any) -> dict[str, Any]:
        """Every option of the model, with this form of the two for which Haystack has classes of its own."""
        return {name: getattr(self, name) for name in OPTIONS} | {"device": device, "token": token}


def check_top_k(top_k: int | None) -> None:
    """Refuse what is no whole number of at least 1, nor None for all; raises ValueError."""
    if top_k is None:
        return
    try:
        check_whole("top_k", top_k, 1)
    except ValueError as error:  # which begins as that of Haystack's own rankers
        raise ValueError(f"top_k must be > 0, but got {top_k}: {error}") from None
