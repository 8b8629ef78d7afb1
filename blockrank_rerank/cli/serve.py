"""``blockrank serve``: rankings over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from blockrank_rerank.cli import options as opt
from blockrank_rerank.cli.ranker import described_ranker
from blockrank_rerank.errors import install_line
from blockrank_rerank.serving.api_key import api_key
from blockrank_rerank.serving.limits import ServerLimits

LIMITS_PANEL = "Limits"


@opt.with_model_options()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is any that is free.")] = 8765,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env",
            metavar="NAME",
            help="Environment variable with the key that clients must send as Authorization: Bearer.",
        ),
    ] = None,
    max_documents: Annotated[
        int, typer.Option("--max-documents", min=1, rich_help_panel=LIMITS_PANEL, help="Of a request.")
    ] = ServerLimits.documents,
    max_body: Annotated[
        str, typer.Option("--max-body", metavar="BYTES", rich_help_panel=LIMITS_PANEL, help="Of a request.")
    ] = "16MB",
    max_waiting: Annotated[
        int,
        typer.Option(
            "--max-waiting",
            min=1,
            rich_help_panel=LIMITS_PANEL,
            help="Requests in the queue, half of them of one client; one more is answered 429.",
        ),
    ] = ServerLimits.waiting,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            rich_help_panel=LIMITS_PANEL,
            help="Longest time from a request to its answer.",
        ),
    ] = ServerLimits.seconds,
    *,
    model_options: opt.ModelOptions,
) -> None:
    """Answer requests over HTTP, in the forms of Cohere, Jina, Voyage, text-embeddings-inference and NVIDIA.

    Requests of many clients share the model's passes. Stops after what it has taken is answered.

    For example: blockrank serve --cache 2GB
    """
    key = api_key(api_key_env)
    try:
        from blockrank_rerank.serving.server import serve as run
    except ImportError as error:
        raise ImportError(f"blockrank serve needs the extra serve ({error}); {install_line('serve')}") from error
    from blockrank_rerank.states.cache import parse_bytes

    body_bytes = parse_bytes("max_body", max_body)
    limits = ServerLimits(documents=max_documents, body_bytes=body_bytes, waiting=max_waiting, seconds=timeout)
    run(described_ranker(model_options), host, port, limits, key)
