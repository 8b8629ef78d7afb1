"""Small BEIR folders of training collections: drawn queries, their relevant passages and random others, cut short.

    python -m recipes.ensemble.pools SHARED/data/train build/pools

Every folder has two splits: ``train``, and ``test`` for the development queries, which are never trained on. Those that
recipes/default_model/development_queries.json names stay what they are; of other collections they are drawn, by seed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path
from typing import Any

from blockrank_rerank.formats import Corpus, Queries, read_collection, read_corpus, read_queries
from blockrank_rerank.text.document import document_text
from recipes.beir_folder import write_corpus, write_judged_queries, write_lines
from recipes.ensemble.settings import COLLECTIONS, HERE, read_collections, read_settings, settings_file

ROOT = Path(__file__).parents[2]
SEED = 28
WORD = re.compile(r"\S+\s*")


def cut(text: str, words: int, characters: int) -> str:
    """The beginning of a text, whole words, white space as it was."""
    kept = ""
    for found in WORD.findall(text)[:words]:
        if kept and len(kept) + len(found) > characters:
            break
        kept += found
    return kept.rstrip()


def write_pool(source: Path, output: Path, asked: dict[str, Any], limits: dict[str, int], held_out: set[str]) -> None:
    """Write one collection's pool."""
    rng = random.Random(f"{SEED}:{source.name}")
    collection, corpus = read_collection(source, "train"), read_corpus(source / "corpus.jsonl")
    queries = _queries(source, collection.queries, asked.get("query_field"))
    drawn = rng.sample(sorted(queries), len(queries))
    development = [one for one in drawn if one in held_out] or drawn[: asked["development"]]
    rest = [one for one in drawn if one not in {*development, *_sample_queries(source.name)}]
    splits = {"test": development, "train": rest[: asked["train"]]}
    wanted = dict.fromkeys(document for split in splits.values() for one in split for document in collection.qrels[one])
    others = [name for name in rng.sample(sorted(corpus), len(corpus)) if name not in wanted]
    names = [*wanted, *others][: max(asked["documents"], len(wanted))]
    texts: Corpus = {name: cut(document_text(corpus[name], 0), **limits) for name in names}
    for split, chosen in splits.items():
        write_judged_queries(output, split, {query: queries[query] for query in chosen}, collection.qrels)
    # Both splits share one file of queries, which the second has overwritten.
    records = ({"_id": query, "text": queries[query]} for chosen in splits.values() for query in chosen)
    write_lines(output / "queries.jsonl", (json.dumps(record, ensure_ascii=False) for record in records))
    write_corpus(output, texts)


def _queries(source: Path, queries: Queries, field: str | None) -> Queries:
    """Judged queries, from another field where asked."""
    if field is None:
        return dict(queries)
    records = map(json.loads, (source / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    return {one["_id"]: one[field] for one in records if one["_id"] in queries}


def _sample_queries(collection: str) -> set[str]:
    """Queries of the shipped sample, which measures and never trains."""
    return set(read_queries(ROOT / "examples/data/medquad-sample/queries.jsonl")) if collection == "medquad" else set()


def pool_folders(pools: Path) -> list[Path]:
    """The pools that are there, by name."""
    return sorted(path for path in pools.iterdir() if path.is_dir())


def source_folders(source: Path, settings: Path) -> dict[str, Path]:
    """The folder of each collection that the settings name.

    Raises
    ------
    FileNotFoundError
        Naming collections that are not there.
    """
    asked = read_collections(settings)
    folders = {name: source / numbers.get("source", name) for name, numbers in asked.items()}
    if missing := [name for name, folder in folders.items() if not (folder / "corpus.jsonl").exists()]:
        raise FileNotFoundError(
            f"no collection {', '.join(missing)} in {source}; {settings_file(settings, COLLECTIONS)} says what is read"
        )
    return folders


def main(source: Path, output: Path, settings: Path = HERE) -> None:
    """Write a pool of every collection that the settings name; what is missing is named before anything is written."""
    folders, cut_at = source_folders(source, settings), read_settings(settings, COLLECTIONS)["cut"]
    chosen = json.loads((ROOT / "recipes/default_model/development_queries.json").read_text(encoding="utf-8"))
    for collection, numbers in read_collections(settings).items():
        if not (output / collection / "corpus.jsonl").exists():
            write_pool(folders[collection], output / collection, numbers, cut_at, set(chosen.get(collection, ())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    main(**vars(parser.parse_args()))
