"""Texts as unit vectors, and the nearest among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.finetune.data.hub import require
from blockrank_rerank.finetune.mining.progress import OnProgress
from blockrank_rerank.finetune.setting_kinds import check_count
from blockrank_rerank.system.files import UserPath

LARGEST_BATCH = 65_536
"""Texts of one forward pass that are believed to be meant."""

Role = Literal["query", "document"]
Encode = Callable[[Sequence[str], Role], NDArray[Any]]
"""Texts and what they are → one row per text; rows need not be normalised."""


POOLINGS = ("mean", "cls")


def sentence_transformer(
    model: UserPath,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int = 64,
    pooling: str | None = None,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
) -> Encode:
    """Load an embedding model as an `Encode`.

    Parameters
    ----------
    model : str or path-like
        Local folder or Hub id, of sentence-transformers or of an encoder alone.
    device : str, optional
        As torch names it; the best there is by default.
    dtype : str, optional
        ``float32``, ``bfloat16`` or ``float16``; the model's own by default.
    batch_size : int
        Texts per forward pass.
    pooling : str, optional
        ``mean`` or ``cls``: how token states become one vector. What comes with the model if not given, which is
        ``mean`` for an encoder alone.
    query_prefix, document_prefix : str, optional
        Put before every query, every document. The prompts that come with the model if not given.

    Raises
    ------
    ImportError
        If sentence-transformers is not installed.
    FileNotFoundError, ValueError
        If the model is not found, cannot be read, or was made for something else; for a pooling that there is not, or
        a batch size out of range.
    """
    from blockrank_rerank.finetune.architecture import check_embedding_model
    from blockrank_rerank.model.checkpoint import quiet, readable
    from blockrank_rerank.model.names import model_name

    if pooling not in (None, *POOLINGS):
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    check_count("batch_size", batch_size, LARGEST_BATCH)
    name: str = model_name(model)
    library = require("sentence_transformers", f"embedding with {name}")
    check_embedding_model(name)
    arguments = {} if dtype is None else {"model_kwargs": {"dtype": dtype}}
    with readable(name, "the embeddings"), quiet():
        encoder = library.SentenceTransformer(name, device=device, **arguments)
    if pooling is not None:
        _set_pooling(name, encoder, pooling)
    prefixes = {"query": query_prefix, "document": document_prefix}
    encoder.prompts |= {role: prefix for role, prefix in prefixes.items() if prefix is not None}

    def encode(texts: Sequence[str], role: Role) -> NDArray[Any]:
        method = encoder.encode_query if role == "query" else encoder.encode_document
        # A tensor: numpy has no bfloat16.
        vectors = method(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        return np.asarray(vectors.float().cpu())

    return encode


def _set_pooling(model: str, encoder: Any, pooling: str) -> None:
    places = [place for place, module in enumerate(encoder) if type(module).__name__ == "Pooling"]
    if not places:
        raise ValueError(f"pooling {pooling!r} was given, but {model} has no pooling layer; leave pooling out")
    layer = encoder[places[0]]
    settings = layer.get_config_dict()
    # Versions before 6 name it after words.
    dimension = settings.get("embedding_dimension") or settings["word_embedding_dimension"]
    encoder[places[0]] = type(layer)(dimension, pooling_mode=pooling)


class EmbeddingTable:
    """Unit vectors of texts, each of which is computed once.

    Parameters
    ----------
    encode : Encode
        The model.
    role : {"query", "document"}
        What the texts are.
    on_progress : OnProgress, optional
        Told the texts embedded.
    batch_size : int
        Texts per call of the model.
    """

    def __init__(
        self, encode: Encode, role: Role, on_progress: OnProgress | None = None, batch_size: int = 256
    ) -> None:
        self._encode, self._role, self._batch_size = encode, role, batch_size
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._rows: dict[str, int] = {}
        self._vectors: NDArray[np.float32] = np.zeros((0, 0), np.float32)

    def add(self, texts: Iterable[str]) -> None:
        """Embed those texts that are not in the table."""
        # Longest first, so that batches hold little padding and too large a batch fails at once.
        new = sorted({text for text in texts if text not in self._rows}, key=lambda text: (-len(text), text))
        if new:
            vectors = np.concatenate(list(self._batches(new)))
            self._vectors = np.concatenate([self._vectors, vectors]) if self._rows else vectors
            self._rows |= {text: row for row, text in enumerate(new, start=len(self._rows))}

    def __getitem__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts that have been added, shape (texts, dimension)."""
        return self._vectors[[self._rows[text] for text in texts]]

    def __len__(self) -> int:
        return len(self._rows)

    def _batches(self, texts: list[str]) -> Iterator[NDArray[np.float32]]:
        stage = {"query": "embedding queries", "document": "embedding documents"}[self._role]
        for start in range(0, len(texts), self._batch_size):
            batch = texts[start : start + self._batch_size]
            yield _unit(np.asarray(self._encode(batch, self._role), np.float32), len(batch))
            self._on_progress(stage, start + len(batch), len(texts))


def nearest(
    queries: NDArray[np.float32], documents: NDArray[np.float32], depth: int, rows: int = 256
) -> Iterator[NDArray[np.int64]]:
    """Give the numbers of the `depth` documents nearest to each query, nearest first; ties by number.

    Parameters
    ----------
    queries, documents : array
        Unit vectors, shape (texts, dimension).
    depth : int
        Documents per query.
    rows : int
        Queries at once, which bounds the memory.

    Yields
    ------
    array of int
        Shape (depth,), for one query after the other.
    """
    depth = min(depth, len(documents))
    for start in range(0, len(queries), rows):
        for scores in queries[start : start + rows] @ documents.T:
            best = np.argpartition(-scores, depth - 1)[:depth] if depth < len(scores) else np.arange(len(scores))
            yield best[np.lexsort((best, -scores[best]))]


def _unit(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    if vectors.ndim != 2 or len(vectors) != count:
        raise ValueError(f"the embedding model must return shape ({count}, dimension), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("the embedding model returned NaN or an infinity; try another dtype")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
