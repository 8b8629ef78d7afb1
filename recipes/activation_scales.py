"""Measure the static scales of quantization int8: what the linear layers of an encoder read in some texts.

    python -m recipes.activation_scales FOLDER TEXTS [TEXTS ...] [--texts 64]

FOLDER is a model's, and gets the file activation_scales.safetensors. TEXTS are what `blockrank rerank` reads: files of
texts, JSON lines, folders. From each of them so many are drawn at random and ranked, for the first words of one. Run
it again when the weights have changed. The default model's scales are of all 30 training collections:

    python -m recipes.activation_scales blockrank_rerank/default_model DATA/train/*/corpus.jsonl --texts 12
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.formats import read_documents
from blockrank_rerank.model.int8 import measured_scales, save_scales

SEED, QUERY_WORDS = 7, 8


def main(folder: Path, sources: list[Path], texts: int) -> None:
    """Draw texts from every source, rank them and write what was read."""
    ranker = BlockRankReranker.from_pretrained(folder, device="cpu", dtype="float32")
    generator = random.Random(SEED)
    with measured_scales(ranker.engine.backbone.model) as scales:
        for source in sources:
            documents = read_documents([source])
            drawn = generator.sample(documents, min(texts, len(documents)))
            query = " ".join(drawn[0].text.split()[:QUERY_WORDS])
            ranker.rank(query, [document.content for document in drawn])
    save_scales(scales, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sources", type=Path, nargs="+", metavar="TEXTS")
    parser.add_argument("--texts", type=int, default=64, help="drawn from each source; 64 if not given")
    main(**vars(parser.parse_args()))
