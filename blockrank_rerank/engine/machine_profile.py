"""How fast a model reads on this machine: measured once, and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from blockrank_rerank.engine.batch import Batch
from blockrank_rerank.system.files import replacing
from blockrank_rerank.system.forks import ForkLock

if TYPE_CHECKING:
    from blockrank_rerank.engine.engine import Engine
    from blockrank_rerank.text.prompt import EncodedRequest

SAMPLE_DOCUMENTS = (2, 20)
"""Of about 100 tokens, in the two lists of which the time is taken."""

REPEATS = 3
"""Times that each is taken; the shortest counts, since nothing makes a machine faster than it is."""

VERSION = 3
"""Of how it is measured: what another one has kept is not read."""


@dataclass(frozen=True)
class MachineProfile:
    """What a plan reckons with, in seconds; the clock corrects it while a list is read.

    Attributes
    ----------
    layer_s : float
        Of a layer, however few tokens go through it.
    token_layer_s : float
        Of a token in a layer, beside that.
    character_s : float
        Of a character that becomes tokens.
    """

    layer_s: float
    token_layer_s: float
    character_s: float

    def read_s(self, tokens: int, layers: int) -> float:
        """Seconds of a pass of so many tokens through so many layers."""
        return layers * (self.layer_s + tokens * self.token_layer_s)


_profiles: dict[str, MachineProfile] = {}
_measuring = ForkLock()


def machine_profile(engine: Engine, *, anew: bool = False) -> MachineProfile:
    """Return the profile of an engine: of this process, of the cache folder, or measured now, for about a second.

    Files lie where Hugging Face's libraries keep what is no model (``HF_ASSETS_CACHE``), under ``blockrank-rerank``.

    Parameters
    ----------
    engine : Engine
        Loaded; its model's fingerprint, its device and which GPU that is, what computes its attention, torch's threads
        and the machine's name tell profiles apart.
    anew : bool
        Whether to measure in any case.
    """
    # What is cuda:0 differs with CUDA_VISIBLE_DEVICES.
    gpu = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else ""
    machine = (f"{engine.device}{gpu}", engine.backbone.attention, torch.get_num_threads(), platform.node())
    parts = (VERSION, engine.fingerprint, *machine)
    key = hashlib.blake2b(" ".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    with _measuring:
        found = None if anew else _profiles.get(key) or _read(key)
        if found is None:
            found = _measured(engine)
            _write(key, found)
        _profiles[key] = found
        return found


def _file(key: str) -> Path:
    from huggingface_hub import cached_assets_path  # plain rankings need none of it

    return cached_assets_path("blockrank-rerank", "machine-profiles") / f"{key}.json"


def _read(key: str) -> MachineProfile | None:
    """What was kept; nothing where there is none, or something else in its place."""
    try:
        found = MachineProfile(**json.loads(_file(key).read_text(encoding="utf-8")))
        usable = all(math.isfinite(value) and value >= 0 for value in asdict(found).values())
        return found if usable and found.token_layer_s > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def _write(key: str, profile: MachineProfile) -> None:
    with suppress(OSError), replacing(_file(key)) as stream:  # where nothing can be written nothing is kept
        json.dump(asdict(profile), stream)


def _measured(engine: Engine) -> MachineProfile:
    texts = ["word " * 100] * SAMPLE_DOCUMENTS[1]
    character_s = _shortest(lambda: engine.prompt.encode("word", texts)) / sum(map(len, texts))
    requests = [engine.prompt.encode("word", texts[:count]) for count in SAMPLE_DOCUMENTS]
    few, many = (_shortest(partial(_read_whole, engine, request)) for request in requests)
    # A clock may be too coarse for a model this small.
    per_token = max(many - few, 1e-9) / (requests[1].num_tokens - requests[0].num_tokens)
    layers = engine.config.scoring_layer
    return MachineProfile(
        layer_s=max(few - per_token * requests[0].num_tokens, 0.0) / layers,
        token_layer_s=per_token / layers,
        character_s=character_s,
    )


def _read_whole(engine: Engine, request: EncodedRequest) -> None:
    for lse in engine.score(Batch([request])):
        lse.documents.tolist()  # until its numbers are wanted, a GPU is merely asked for them


def _shortest(function: Callable[[], object]) -> float:
    """Seconds of a function that was called before, so that what only the first call does is not measured."""
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
