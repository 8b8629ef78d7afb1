"""Record the exact scores of the default model and of all tiny models, and compare them with an earlier record.

    python tests/record_scores.py record build/scores.json
    python tests/record_scores.py compare build/scores.json

fp32, one thread, every route from documents to scores. A change of the inside that should change no score must leave
every bit as it was: record on the commit before it and compare after every step, on the same machine and versions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from blockrank_rerank import BlockRankReranker  # noqa: E402
from tests.tiny_models import BERT_CONFIG, CONFIG, FAMILIES, save_model, save_scoring_head  # noqa: E402

LINES = (ROOT / "examples/data/anemia.txt").read_text(encoding="utf-8").split("\n")
SHORT = [*filter(None, LINES)][:9] + [{"title": "Iron", "text": "Too little iron."}, "", "Too little iron."]  # noqa: RUF005
LONG = [" ".join(LINES), " ".join(reversed(LINES)), *SHORT[:3]]
QUERIES = ["What causes iron-deficiency anemia?", "who treats a heart attack"]

Record = dict[str, Any]


def numbers(ranking: Any) -> list[Any]:
    """Every field of a ranking, floats to the bit."""
    return [
        [
            d.index,
            d.score.hex(),
            d.raw_score.hex(),
            d.probability and d.probability.hex(),
            d.truncated,
            d.passage,
            d.pruned,
        ]
        for d in ranking
    ]


def weights(explanation: Any) -> list[Any]:
    """Attention of every word, to the bit."""
    return [[document.ranked.index, [word.weight.hex() for word in document.words]] for document in explanation]


def routes(load: Callable[..., BlockRankReranker], folder: Path, *, stands_alone: bool, prune: int) -> Record:
    """Scores by every route that a model has."""
    plain, found = load(), Record()
    query = QUERIES[0]
    found["rank"] = numbers(plain.rank(query, SHORT))
    found["long"] = numbers(plain.rank(query, LONG))
    found["batch"] = [numbers(r) for r in plain.rank_batch([(q, SHORT[n:]) for n, q in enumerate(QUERIES * 3)])]
    found["explain"] = weights(plain.explain(query, SHORT, top_k=4))
    found["limited"] = numbers(load(max_memory=4_000_000).rank(query, SHORT * 3))
    found["pruned"] = numbers(load(prune={prune: 5}).rank(query, SHORT + LONG))
    if stands_alone:
        prepared = plain.prepare(SHORT)
        found["prepared"] = [numbers(plain.rank(q, prepared)) for q in QUERIES]
        found["prepared int8"] = numbers(plain.rank(query, plain.prepare(LONG, dtype="int8")))
        cached = load(cache="50MB")
        found["cached"] = [numbers(cached.rank(query, SHORT)) for _ in range(2)]
        plain.prepare_store(folder / "store", SHORT[:6])
        stored = load(store=folder / "store")
        found["stored"] = [numbers(r) for r in stored.rank_batch([(q, SHORT) for q in QUERIES])]
        found["stored, limited"] = numbers(load(store=folder / "store", max_memory=4_000_000).rank(query, SHORT))
    return found


def of_default_model(folder: Path) -> Record:
    """The model in the package."""

    def load(**options: Any) -> BlockRankReranker:
        return BlockRankReranker.from_pretrained(dtype="float32", device="cpu", **options)

    return routes(load, folder, stands_alone=True, prune=2)


def of_family(name: str, folder: Path) -> Record:
    """A random model of a family, with the query in the instruction and without it, with and without a scoring head."""
    save_model(folder, name)
    save_scoring_head(folder)
    encoder = "bert" in FAMILIES[name][0]
    prompt = BERT_CONFIG.prompt if encoder else CONFIG.prompt
    layers = FAMILIES[name][1]["num_hidden_layers"]
    plain = replace(CONFIG, prompt=prompt, query_offset=80)
    configs = {
        "attention": plain,
        "query-free": replace(plain, prompt=prompt.without_query(), long_documents="split", max_document_tokens=40),
        "head": replace(
            BERT_CONFIG,
            scoring_layer=layers,
            query_documents_from_layer=layers,
            prompt=prompt.without_query(),
            abstention=True,
            query_offset=80,
        ),
        "head, query sees documents": replace(
            plain, scoring_layer=layers, scoring_head=True, abstention=True, reduction="softmax_of_mean"
        ),
    }
    found = Record()
    for kind, config in configs.items():

        def load(config: Any = config, **options: Any) -> BlockRankReranker:
            return BlockRankReranker.from_pretrained(folder, config=config, dtype="float32", device="cpu", **options)

        stands_alone = config.prompt.documents_stand_alone
        try:
            found[kind] = routes(load, folder / kind, stands_alone=stands_alone, prune=1)
        except ValueError as error:  # a window hides the documents: the refusal is the record
            found[kind] = str(error)
    return found


def everything() -> Record:
    """All records, by model."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {"default": of_default_model(Path(folder) / "default")}
        for name in FAMILIES:
            found[name] = of_family(name, Path(folder) / name)
    # Through JSON, as a record on disk is.
    return json.loads(json.dumps(found).replace(folder, "FOLDER"))


def differing(before: Any, now: Any, where: str = "") -> list[str]:
    """Places at which two records differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = before.keys() | now.keys()
        return [at for name in sorted(names) for at in differing(before.get(name), now.get(name), f"{where} › {name}")]
    return [] if before == now else [where]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("path", type=Path)
    asked = parser.parse_args()
    now = everything()
    if asked.action == "record":
        asked.path.parent.mkdir(parents=True, exist_ok=True)
        asked.path.write_text(json.dumps(now), encoding="utf-8")
        sys.exit()
    places = differing(json.loads(asked.path.read_text(encoding="utf-8")), now)
    print("\n".join(places) if places else "no score differs")
    sys.exit(bool(places))
