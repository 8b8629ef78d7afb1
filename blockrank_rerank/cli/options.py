from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

MODEL_PANEL = "Model"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FOLDER|ID",
        rich_help_panel=MODEL_PANEL,
        help="Local folder or Hugging Face id. Default: the small model inside this package, no download.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", rich_help_panel=MODEL_PANEL, help="Branch, tag or commit of a Hugging Face id."),
]
ScoringLayer = Annotated[
    int | None,
    typer.Option(
        "--scoring-layer",
        rich_help_panel=MODEL_PANEL,
        help="0-based layer whose attention is the score. Default: what the model's folder says.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", rich_help_panel=MODEL_PANEL, help="cpu, cuda, cuda:1, … Default: the best there is."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        rich_help_panel=MODEL_PANEL,
        help="float32, bfloat16, float16. Default: chosen for the device.",
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        rich_help_panel=MODEL_PANEL,
        help="Attention implementation; 'blockrank doctor' lists those usable here.",
    ),
]
Quantization = Annotated[
    str | None,
    typer.Option(
        "--quantization",
        metavar="float8",
        rich_help_panel=MODEL_PANEL,
        help="Compute linear layers in 8 bits, on a GPU that can; 'blockrank doctor' knows. Default: not.",
    ),
]
MaxDocumentTokens = Annotated[
    int | None,
    typer.Option(
        "--max-document-tokens",
        rich_help_panel=MODEL_PANEL,
        help="Longest document in tokens; see --long-documents. Default: the model's own.",
    ),
]
LongDocuments = Annotated[
    str | None,
    typer.Option(
        "--long-documents",
        metavar="split|truncate|error",
        rich_help_panel=MODEL_PANEL,
        help="What becomes of longer documents. Default: they are split, and the best passage counts.",
    ),
]
LocalFilesOnly = Annotated[
    bool,
    typer.Option("--local-files-only", rich_help_panel=MODEL_PANEL, help="Never use the network."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", rich_help_panel=MODEL_PANEL, help="Run Python code that comes with the model."),
]
QueryFree = Annotated[
    bool,
    typer.Option(
        "--query-free",
        rich_help_panel=MODEL_PANEL,
        help="Do not repeat the query before documents, so that they can be prepared; the default model never does.",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FOLDER",
        rich_help_panel=MODEL_PANEL,
        help="Where 'blockrank prepare' has put documents: those found there are not read again.",
    ),
]
Prune = Annotated[
    list[str] | None,
    typer.Option(
        "--prune",
        metavar="LAYER:COUNT",
        rich_help_panel=MODEL_PANEL,
        help="After LAYER layers, read only the best COUNT documents of a list to the end, such as 2:50. May be given "
        "again for a later layer.",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="BYTES",
        rich_help_panel=MODEL_PANEL,
        help="About the most memory beside the model's weights, such as 2GB, however long the list.",
    ),
]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", help="Keep the best K documents.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Drop documents scored below this. Scores are shares: they sum to 1 over the list, "
        "so that documents of longer lists have lower ones.",
    ),
]
MinProbability = Annotated[
    float | None,
    typer.Option(
        "--min-probability",
        help="Drop documents whose probability of relevance is below this, whatever the list; may leave none.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The common options about the model, in the order of --help; None leaves the choice to the engine."""

    model: Model = None
    revision: Revision = None
    scoring_layer: ScoringLayer = None
    device: Device = None
    dtype: Dtype = None
    attention: Attention = "auto"
    quantization: Quantization = None
    max_document_tokens: MaxDocumentTokens = None
    long_documents: LongDocuments = None
    query_free: QueryFree = False
    store: Store = None
    prune: Prune = None
    max_memory: MaxMemory = None
    local_files_only: LocalFilesOnly = False
    trust_remote_code: TrustRemoteCode = False


def with_model_options(without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the common options, but for some; it takes them together as ``model_options``."""
    hints = get_type_hints(ModelOptions, include_extras=True)
    common = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(ModelOptions)
        if field.name not in without
    ]
    names = {parameter.name for parameter in common}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            about_model = ModelOptions(**{name: value for name, value in given.items() if name in names})
            command(**{name: value for name, value in given.items() if name not in names}, model_options=about_model)

        # Typer reads options off the signature.
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "model_options"]
        run.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *common)}
        return run

    return decorate
