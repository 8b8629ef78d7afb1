from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

MODEL_PANEL = "Model"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What the common options say about the model; None leaves the choice to the engine."""

    model: str | None = None
    revision: str | None = None
    scoring_layer: int | None = None
    device: str | None = None
    dtype: str | None = None
    attention: str = "auto"
    max_document_tokens: int | None = None
    long_documents: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    query_free: bool = False
    store: Path | None = None
    prune: list[str] | None = None
    max_memory: str | None = None


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
