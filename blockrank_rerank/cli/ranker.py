"""The model that a command line names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockrank_rerank.cli.options import ModelOptions
from blockrank_rerank.options import OPTIONS

if TYPE_CHECKING:
    from blockrank_rerank import BlockRankReranker


def load_ranker(options: ModelOptions) -> BlockRankReranker:
    """Load the model that the options name, completely, so that timings afterwards are ranking alone.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As the engine raises them, and for several tunings, of which these commands could not choose one.
    """
    if isinstance(options.values()["tuning"], dict):
        raise ValueError("--tuning NAME=FILE is for blockrank serve, whose requests choose by name; give a FILE alone")
    ranker = described_ranker(options)
    _ = ranker.device  # loading is lazy
    return ranker


def described_ranker(options: ModelOptions) -> BlockRankReranker:
    """Return a ranker of the model that the options name, which is not loaded.

    Raises
    ------
    FileNotFoundError, ValueError
        As the engine raises them.
    """
    from blockrank_rerank import BlockRankReranker

    return BlockRankReranker.from_pretrained(**described_options(options))


def described_options(options: ModelOptions) -> dict[str, Any]:
    """Return options as ``BlockRankReranker.from_pretrained`` takes them.

    Raises
    ------
    FileNotFoundError, ValueError
        As the engine raises them.
    """
    from blockrank_rerank import BlockRankReranker

    values = options.values()
    if options.query_free:
        # Only a query-free prompt goes together with a cache or a store, so they wait for it.
        described = {name: value for name, value in values.items() if OPTIONS[name].owner != "ranker"}
        values["config"] = BlockRankReranker.from_pretrained(**described).query_free().config
    return values
