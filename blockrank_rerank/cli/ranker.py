from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from blockrank_rerank.cli.options import ModelOptions

if TYPE_CHECKING:
    from blockrank_rerank import BlockRankReranker


def load_ranker(options: ModelOptions) -> BlockRankReranker:
    """Load the model that the options name, completely, so that timings afterwards are ranking alone.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As the engine raises them.
    """
    from blockrank_rerank import DEFAULT_MODEL, BlockRankReranker

    load = partial(
        BlockRankReranker.from_pretrained,
        DEFAULT_MODEL if options.model is None else options.model,
        revision=options.revision,
        device=options.device,
        dtype=options.dtype,
        attention=options.attention,
        quantization=options.quantization,
        local_files_only=options.local_files_only,
        trust_remote_code=options.trust_remote_code,
        max_memory=options.max_memory,
        prune=parse_prune(options.prune or []),
    )
    limits: dict[str, Any] = {
        "scoring_layer": options.scoring_layer,
        "max_document_tokens": options.max_document_tokens,
        "long_documents": options.long_documents,
    }
    if options.query_free:
        ranker = load(config=load(**limits).query_free().config, store=options.store)
    else:
        ranker = load(**limits, store=options.store)
    _ = ranker.device  # loading is lazy
    return ranker


def parse_prune(pairs: list[str]) -> dict[int, int] | None:
    """``2:50`` as ``{2: 50}``."""
    try:
        prune = {int(layer): int(count) for layer, count in (pair.split(":") for pair in pairs)}
    except ValueError as error:
        raise ValueError(f"--prune must be LAYER:COUNT, such as 2:50; got {' '.join(pairs)}") from error
    if len(prune) < len(pairs):
        raise ValueError(f"--prune must name each layer once; got {' '.join(pairs)}")
    return prune or None
