"""The judged queries of a BEIR folder's split."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from blockrank_rerank.errors import DataError
from blockrank_rerank.formats.beir import Queries, read_queries
from blockrank_rerank.formats.qrels import Qrels, read_qrels
from blockrank_rerank.system.files import UserPath, expanded


@dataclass(frozen=True, kw_only=True)
class Collection:
    """The queries of one split, with their judgements.

    Parameters
    ----------
    queries : Queries
        Those with a positive judgement, or all that are judged where these were asked for.
    qrels : Qrels
        Judgements of these queries.
    without_positive : tuple of str
        Queries of the split that have judgements but no positive one: no ranking of them is right or wrong.
    """

    queries: Queries
    qrels: Qrels
    without_positive: tuple[str, ...]

    def sample(self, limit: int, seed: int) -> Collection:
        """Draw at most `limit` queries at random."""
        if limit >= len(self.queries):
            return self
        drawn = set(random.Random(seed).sample(sorted(self.queries), limit))
        return Collection(
            queries={query: text for query, text in self.queries.items() if query in drawn},
            qrels={query: judged for query, judged in self.qrels.items() if query in drawn},
            without_positive=self.without_positive,
        )


def read_collection(
    folder: UserPath, split: str = "test", min_relevance: int = 1, *, all_judged: bool = False
) -> Collection:
    """Read the judged queries of a BEIR folder.

    Parameters
    ----------
    folder : str or path-like
        Holds ``queries.jsonl`` and ``qrels/<split>.tsv``, which may have ``.gz`` after their names.
    split : str
        Name of the judgements.
    min_relevance : int
        Least judgement that counts as positive.
    all_judged : bool
        Whether ``queries`` has those without a positive judgement too.

    Raises
    ------
    FileNotFoundError
        If a file is missing; names the splits that there are.
    DataError
        If a file is malformed, a judged query has no text, or no query has a positive judgement.
    """
    folder = expanded(folder, "folder")
    qrels = read_qrels(qrels_path(folder, split))
    positive = {query for query, judged in qrels.items() if max(judged.values()) >= min_relevance}
    if not positive:
        raise DataError(f"no document of split {split!r} is judged {min_relevance} or higher")
    texts = read_queries(beir_file(folder, "queries.jsonl"))
    wanted = qrels.keys() if all_judged else positive
    return Collection(
        queries={query: _text(texts, query, folder) for query in qrels if query in wanted},
        qrels={query: judged for query, judged in qrels.items() if query in wanted},
        without_positive=tuple(query for query in qrels if query not in positive),
    )


def collection_files(folder: UserPath, split: str) -> list[Path]:
    """Return the files that are read of a BEIR folder, which no output may replace."""
    names = ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv")
    return [beir_file(expanded(folder, "folder"), name) for name in names]


def beir_file(folder: Path, name: str) -> Path:
    """Return a file of a BEIR folder: where it is there with ``.gz`` after its name alone, that one."""
    path, compressed = folder / name, folder / f"{name}.gz"
    return compressed if compressed.exists() and not path.exists() else path


def qrels_path(folder: Path, split: str) -> Path:
    """Return the file of a split's judgements.

    Raises
    ------
    FileNotFoundError
        If folder or split is missing; names the splits that there are.
    NotADirectoryError
        If the folder is a file.
    IsADirectoryError
        If the judgements are a folder.
    """
    path = beir_file(folder, f"qrels/{split}.tsv")
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a BEIR folder, with queries.jsonl and qrels/, got the file {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"expected a file of judgements, one per line, got the folder {path}")
    if not path.exists():
        found = (known.name.removesuffix(".gz") for known in path.parent.glob("*"))
        splits = ", ".join(sorted({name[:-4] for name in found if name.endswith(".tsv")})) or "none"
        raise FileNotFoundError(f"no judgements {path}; splits available: {splits}")
    return path


def _text(texts: Queries, query: str, folder: Path) -> str:
    if query not in texts:
        raise DataError(f"query {query!r} is judged but has no text", str(folder / "queries.jsonl"))
    return texts[query]
