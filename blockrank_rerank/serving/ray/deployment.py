"""The server as replicas on a Ray cluster: ``serve run blockrank_rerank.serving.ray.deployment:app cache=2GB``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from ray import serve

from blockrank_rerank.config import refuse_unknown_names
from blockrank_rerank.options import OPTIONS
from blockrank_rerank.reranker import BlockRankReranker
from blockrank_rerank.serving.api_key import api_key
from blockrank_rerank.serving.app import create_app
from blockrank_rerank.serving.limits import ServerLimits


class Replicas(BaseModel):
    """How many servers there are, and what each gets; fewer where fewer requests wait."""

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    api_key_env: str | None = None


_LIMITS = {field.name: (int if field.type == "int" else float, field.default) for field in fields(ServerLimits)}
_OPTIONS = {
    # A config may be a file, which is what the command line takes.
    name: (declared.plain_type | (Path if declared.word_type is Path else None) | None, declared.default)
    for name, declared in OPTIONS.items()
}
_Words = create_model("_Words", __config__=ConfigDict(protected_namespaces=()), **{**_LIMITS, **_OPTIONS})  # type: ignore[call-overload]


def app(args: dict[str, Any]) -> serve.Application:
    """Build the application that ``serve run`` and ``serve deploy`` start.

    Parameters
    ----------
    args : dict
        As words or as YAML has them. Options of :meth:`BlockRankReranker.from_pretrained`; fields of
        :class:`ServerLimits`, for each replica; ``min_replicas``, ``max_replicas``; ``cpus`` and ``gpus`` of each, of
        which Ray makes as many threads; ``api_key_env``, an environment variable of the replicas.

    Raises
    ------
    ValueError
        For a name that is none of these, and values that cannot be used.
    FileNotFoundError
        For a model that is not there.
    """
    refuse_unknown_names(args, [*OPTIONS, *_LIMITS, *Replicas.model_fields], "serve")
    replicas, words = _read(Replicas, args), _read(_Words, args)
    if replicas.max_replicas < replicas.min_replicas:
        raise ValueError(f"max_replicas must be at least min_replicas, {replicas.min_replicas}; "
                         f"got {replicas.max_replicas}")  # fmt: skip
    limits = ServerLimits(**{name: getattr(words, name) for name in _LIMITS})
    options = {name: getattr(words, name) for name in OPTIONS if name in args}
    _ = BlockRankReranker.from_pretrained(**options).config  # reads settings of a model and no weights
    key_name = replicas.api_key_env

    def server() -> FastAPI:
        # In the replica: what it makes has locks and threads, which do not travel.
        return create_app(BlockRankReranker.from_pretrained(**options), limits, api_key(key_name))

    return serve.deployment(
        serve.ingress(server)(),
        name="Reranker",
        autoscaling_config={"min_replicas": replicas.min_replicas, "max_replicas": replicas.max_replicas},
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        # More than may wait in a replica, which answers 429 itself.
        max_ongoing_requests=2 * limits.waiting,
        graceful_shutdown_timeout_s=limits.seconds,
    ).bind()


def _read(kind: type[BaseModel], args: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate({name: value for name, value in args.items() if name in kind.model_fields})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        # Values are left out: one of them is a token.
        raise ValueError(f"{fault['loc'][0]}: {fault['msg']}") from None
