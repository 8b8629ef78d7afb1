"""Vectors of every pool's texts by embedding models, each computed once.

    python -m recipes.ensemble.vectors build/pools build/vectors --encoder arctic=FOLDER --encoder e5=FOLDER

Encoders are those of encoders.yaml. Each reads the pools whose ensemble it is in, by ensemble.yaml. A file that is
there is left as it is, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from blockrank_rerank.finetune.mining.embeddings import EmbeddingTable, Encode, Role
from blockrank_rerank.formats import read_corpus, read_queries
from blockrank_rerank.text.document import document_text
from recipes.ensemble.encoders import read_encoders
from recipes.ensemble.pools import pool_folders
from recipes.ensemble.settings import HERE, EnsembleSettings


class Vectors:
    """What one encoder made of one pool.

    Parameters
    ----------
    path : Path
        File that `write_vectors` has written.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self._vectors = {role: arrays[role] for role in ("document", "query")}
            names = {role: arrays[f"{role}_ids"] for role in self._vectors}
        self._places = {role: {str(name): place for place, name in enumerate(of)} for role, of in names.items()}

    def of(self, role: Role, names: Sequence[str]) -> NDArray[np.float32]:
        """``[names, hidden]`` of length 1."""
        return self._vectors[role][[self._places[role][name] for name in names]]


def vectors_file(vectors: Path, encoder: str, pool: Path) -> Path:
    """Where the vectors that an encoder gave a pool are kept."""
    return vectors / encoder / f"{pool.name}.npz"


def check_vectors(pools: Path, vectors: Path, settings: Path) -> None:
    """See that every pool has the vectors of all encoders of its ensemble, before anything is computed from them.

    Raises
    ------
    FileNotFoundError
        Naming those that are missing.
    """
    ensembles = EnsembleSettings.read(settings)
    wanted = [(name, pool) for pool in pool_folders(pools) for name in ensembles.encoders(pool.name)]
    if missing := [f"{name} of {pool.name}" for name, pool in wanted if not vectors_file(vectors, name, pool).exists()]:
        raise FileNotFoundError(
            f"no vectors in {vectors} by {', '.join(missing)}: recipes/ensemble/vectors.py makes them"
        )


def write_vectors(encode: Encode, pool: Path, path: Path) -> None:
    """Write one pool's vectors, whole or not at all."""
    corpus = read_corpus(pool / "corpus.jsonl")
    texts = {"document": {name: document_text(one, 0) for name, one in corpus.items()}}
    texts["query"] = dict(read_queries(pool / "queries.jsonl"))
    arrays: dict[str, NDArray[np.generic]] = {}
    for role, of_role in texts.items():
        table = EmbeddingTable(encode, cast(Role, role))
        table.add(of_role.values())
        arrays[role] = table[list(of_role.values())]
        arrays[f"{role}_ids"] = np.array(list(of_role))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    partial.rename(path)


def main(pools: Path, output: Path, encoder: list[str], settings: Path = HERE) -> None:
    """Write the vectors that each encoder gives the texts of every pool whose ensemble it is in."""
    ensembles = EnsembleSettings.read(settings)
    for name, encoding in read_encoders(encoder, settings).items():
        used = [pool for pool in pool_folders(pools) if name in ensembles.encoders(pool.name)]
        if missing := [pool for pool in used if not vectors_file(output, name, pool).exists()]:
            encode = encoding.load()
            for pool in missing:
                write_vectors(encode, pool, vectors_file(output, name, pool))
                print(name, pool.name, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--encoder", action="append", required=True, help="NAME=FOLDER or NAME=HUB_ID")
    parser.add_argument("--settings", type=Path, default=HERE, help="folder of settings; the recipe's by default")
    main(**vars(parser.parse_args()))
