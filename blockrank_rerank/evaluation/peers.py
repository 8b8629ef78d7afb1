"""Rankers of other kinds, with the shape of ours, so that all get the same candidates."""

from __future__ import annotations

import importlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.errors import install_line
from blockrank_rerank.model.checkpoint import Checkpoint, quiet, readable
from blockrank_rerank.model.names import DEFAULT_MODEL
from blockrank_rerank.ranking.results import Limits, RankedDocument, Ranking
from blockrank_rerank.text.document import document_text

Kind = Literal["BlockRank", "cross-encoder", "embedding"]

MAX_TOKENS = 512
"""Of a text for an embedding model, as for the default model."""
DOCUMENTS_AT_ONCE = 64


def model_kind(model: str) -> Kind:
    """Say what a model ranks by, from what its files name.

    Parameters
    ----------
    model : str
        ``default``, a folder or a Hub id.

    Raises
    ------
    FileNotFoundError, ValueError
        For a model that cannot be read, and one that was made for something else.
    """
    if model == DEFAULT_MODEL:
        return "BlockRank"
    with readable(model, "the files"):
        folder = Checkpoint(model=model).folder
    if (folder / CONFIG_NAME).exists():
        return "BlockRank"
    named = [*_record(folder / "config.json").get("architectures", [])]
    kind = _record(folder / "config_sentence_transformers.json").get("model_type")
    if kind == "CrossEncoder" or any(name.endswith("ForSequenceClassification") for name in named):
        return "cross-encoder"
    if (folder / "modules.json").exists():
        return "embedding"
    raise ValueError(
        f"expected a BlockRank model ({CONFIG_NAME}), a cross-encoder (…ForSequenceClassification) or an embedding "
        f"model (modules.json), got {model!r}, whose files say {', '.join(named) or 'nothing'}: it has no score of its "
        "own"
    )


def _record(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def _sentence_transformers() -> Any:
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ImportError(
            f"other models need sentence_transformers, which cannot be imported; {install_line('report')}"
        ) from error


class PairRanker(ABC):
    """Gives every pair of query and document a score that does not depend on the list."""

    def fitting_queries(self, queries: Mapping[str, str]) -> dict[str, str]:
        """Return the queries: a model of pairs cuts what is too long itself."""
        return dict(queries)

    def rank_batch(
        self,
        requests: Iterable[tuple[str, Sequence[Any]]],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Ranking]:
        """Rank as `BlockRankReranker.rank_batch` does, by this model's scores."""
        lists = [(query, [document_text(d, i) for i, d in enumerate(documents)]) for query, documents in requests]
        limits = Limits(top_k, threshold)
        rankings = [
            limits.select(_ranking(texts, scores))
            for (_, texts), scores in zip(lists, self._scores(lists), strict=True)
        ]
        if on_progress:
            on_progress(len(lists), 0)
        return rankings

    @abstractmethod
    def _scores(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """One score for every text of every list."""


def _ranking(texts: Sequence[str], scores: Sequence[float]) -> Ranking:
    ranked = [RankedDocument(i, score, score, texts[i], False) for i, score in enumerate(scores)]
    return Ranking(sorted(ranked, key=lambda document: -document.score))


class CrossEncoderRanker(PairRanker):
    """A cross-encoder of sentence-transformers, by its logits.

    Parameters
    ----------
    model : str
        Folder or Hub id.
    device, dtype
        Where and in what it computes.

    Raises
    ------
    ImportError
        If sentence-transformers is not installed.
    FileNotFoundError, ValueError
        If the model cannot be read.
    """

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype) -> None:
        library = _sentence_transformers()
        with readable(model, "the cross-encoder"), quiet():
            self._model = library.CrossEncoder(model, device=str(device), model_kwargs={"dtype": dtype})

    def _scores(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [self._of_list(query, texts) for query, texts in lists]

    def _of_list(self, query: str, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        # Not the sigmoid, which is 1.0 for several documents.
        logits = self._model.predict(
            [(query, text) for text in texts],
            activation_fn=torch.nn.Identity(),
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        if logits.dim() != 1:
            raise ValueError(f"expected a cross-encoder with one score per pair, got {logits.shape[-1]} labels")
        scores: list[float] = logits.float().tolist()
        return scores


class RerankersRanker(PairRanker):
    """A ranker of the library rerankers; those without scores count by their ranks.

    Parameters
    ----------
    name : str
        ``TYPE:MODEL``, for its ``Reranker(MODEL, model_type=TYPE)``. It chooses device and dtype itself.

    Raises
    ------
    ImportError
        If the library is not installed.
    ValueError
        If the name has another form, or the library has no such ranker; with what it says.
    """

    def __init__(self, name: str) -> None:
        kind, _, model = name.partition(":")
        if not kind or not model:
            raise ValueError(f"expected rerankers:TYPE:MODEL, such as rerankers:flashrank:NAME, got 'rerankers:{name}'")
        try:
            library = importlib.import_module("rerankers")
        except ImportError as error:
            raise ImportError(f"rankers of rerankers need it: {install_line('rerankers')}") from error
        said = io.StringIO()
        with redirect_stdout(said):  # it prints what is missing, and returns None
            found = library.Reranker(model, model_type=kind, verbose=0)
        if found is None:
            raise ValueError(
                f"rerankers has no ranker of type {kind!r} for {model!r}: {' '.join(said.getvalue().split())}"
            )
        self._model = found

    def _scores(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [self._of_list(query, texts) if texts else [] for query, texts in lists]

    def _of_list(self, query: str, texts: Sequence[str]) -> list[float]:
        ranked = self._model.rank(query, [*texts], doc_ids=[*range(len(texts))])
        scores = {
            result.document.doc_id: float(result.score) if ranked.has_scores else -float(place)
            for place, result in enumerate(ranked)
        }
        missing = len(texts) - len(scores)
        if missing:
            raise ValueError(f"expected a score of every document, got none for {missing} of {len(texts)}")
        return [scores[i] for i in range(len(texts))]


class Encoder:
    """An embedding model of sentence-transformers.

    Parameters
    ----------
    model : str
        Folder or Hub id.
    device, dtype
        Where and in what it computes.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        As for :class:`CrossEncoderRanker`.
    """

    def __init__(self, model: str, device: torch.device, dtype: torch.dtype) -> None:
        library = _sentence_transformers()
        with readable(model, "the embeddings"), quiet():
            self._model = library.SentenceTransformer(model, device=str(device), model_kwargs={"dtype": dtype})
        self._model.max_seq_length = min(self._model.max_seq_length or MAX_TOKENS, MAX_TOKENS)

    def encode(self, texts: Sequence[str], *, query: bool, tokens: bool) -> list[Tensor]:
        """Make unit vectors: ``[D]`` of each text, or ``[T, D]`` of its tokens; fp32."""
        method = self._model.encode_query if query else self._model.encode_document
        value = "token_embeddings" if tokens else "sentence_embedding"
        made = method([*texts], output_value=value, convert_to_tensor=True, show_progress_bar=False)
        return [torch.nn.functional.normalize(vector.float(), dim=-1) for vector in made]


class CosineRanker(PairRanker):
    """The cosine of two texts' embeddings, as an embedding model was published.

    Parameters
    ----------
    encoder : Encoder
        The model.
    """

    tokens = False

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def documents(self, texts: Sequence[str]) -> list[Tensor]:
        """Read documents, for any number of queries."""
        return self._encoder.encode(texts, query=False, tokens=self.tokens) if texts else []

    def query(self, text: str) -> Tensor:
        """Read a query."""
        return self._encoder.encode([text], query=True, tokens=self.tokens)[0]

    def compare(self, query: Tensor, documents: Sequence[Tensor]) -> list[float]:
        """Compare a query with documents that were read."""
        scores: list[float] = (torch.stack([*documents]) @ query).tolist()
        return scores

    def _scores(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        queries = {text: self.query(text) for text in dict.fromkeys(query for query, _ in lists)}
        rows = [[0.0] * len(texts) for _, texts in lists]
        wanted: dict[str, list[tuple[int, int]]] = {}
        for number, (_, texts) in enumerate(lists):
            for place, text in enumerate(texts):
                wanted.setdefault(text, []).append((number, place))
        # A document is read once, and is gone before the next ones are: token vectors of a corpus are large.
        by_length = sorted(wanted, key=len)
        for start in range(0, len(by_length), DOCUMENTS_AT_ONCE):
            texts = by_length[start : start + DOCUMENTS_AT_ONCE]
            for number, cells in _by_list(texts, self.documents(texts), wanted).items():
                places, vectors = zip(*cells, strict=True)
                for place, score in zip(places, self.compare(queries[lists[number][0]], vectors), strict=True):
                    rows[number][place] = score
        return rows


def _by_list(
    texts: Sequence[str], vectors: Sequence[Tensor], wanted: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[int, list[tuple[int, Tensor]]]:
    """List number → its places in these texts, with their vectors."""
    found: dict[int, list[tuple[int, Tensor]]] = {}
    for text, vector in zip(texts, vectors, strict=True):
        for number, place in wanted[text]:
            found.setdefault(number, []).append((place, vector))
    return found


class MaxSimRanker(CosineRanker):
    """The mean over a query's tokens of the best cosine with any of the document's (ColBERT's, arXiv 2004.12832)."""

    tokens = True

    def compare(self, query: Tensor, documents: Sequence[Tensor]) -> list[float]:
        """Compare a query's tokens with those of documents."""
        similar = torch.cat([*documents]) @ query.T
        parts = similar.split([len(document) for document in documents])
        scores: list[float] = torch.stack([part.amax(0).mean() for part in parts]).tolist()
        return scores
