"""A model to start from: an encoder with an untrained scoring layer, or a trained model with two numbers reset.

    python -m recipes.ensemble.start build/start --base blockrank_rerank/default_model --temperature 0.05 \
        --length-weight -0.3
    python -m recipes.ensemble.start build/start --base ARCTIC --temperature 0.02 --length-weight 0 \
        --query-prefix "Represent this sentence for searching relevant passages: " --start-token each

Temperature and length weight are chosen on development sets; a training moves them by hundredths (dev/LOG.md).
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

from blockrank_rerank import BlockRankConfig, PromptTemplate
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME, ScoringHead


def write_start(
    output: Path, base: Path, temperature: float, length_weight: float, query_prefix: str, start_token: str
) -> None:
    """Write the model's folder.

    Raises
    ------
    FileNotFoundError
        For a base without a model.
    """
    if not (base / "config.json").exists():
        raise FileNotFoundError(f"no model in {base}: config.json is missing; give the folder of an encoder")
    if (base / SCORING_HEAD_NAME).exists():
        shutil.copytree(base, output, ignore=shutil.ignore_patterns("README.md", "__pycache__"))
    else:
        _append_scoring_layer(base, output, query_prefix, start_token)
    head = load_file(output / SCORING_HEAD_NAME)
    head["log_temperature"] = torch.full_like(head["log_temperature"], math.log(temperature))
    head["length_weight"] = torch.full_like(head["length_weight"], length_weight)
    save_file(head, output / SCORING_HEAD_NAME)


def _append_scoring_layer(base: Path, output: Path, query_prefix: str, start_token: str) -> None:
    """Write an encoder in half precision, without its pooler, with an untrained scoring layer."""
    config, tokenizer = AutoConfig.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    model = AutoModel.from_pretrained(base, config=config, add_pooling_layer=False, dtype=torch.float16)
    output.mkdir(parents=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    ScoringHead(config.hidden_size).save(output)
    BlockRankConfig(
        scoring_layer=config.num_hidden_layers,
        scoring_head=True,
        signal_tokens="all",
        reduction="softmax_of_mean",
        query_documents_from_layer=config.num_hidden_layers,
        # Every block starts where a sentence starts for the original model.
        query_offset=int(start_token == "shared"),
        max_document_tokens=None,
        prompt=_prompt(tokenizer, query_prefix, start_token),
    ).save(output)


def _prompt(tokenizer: Any, query_prefix: str, start_token: str) -> PromptTemplate:
    first, last = tokenizer.cls_token, tokenizer.sep_token
    shared, own = (first, "") if start_token == "shared" else ("", first)
    return PromptTemplate(
        instruction=shared,
        query_free_instruction=shared,
        document=f"{own}{{text}}{last}",
        query=f"{own}{query_prefix}{{query}}{last}",
        answer="",
        answer_start="",
        chat=False,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--length-weight", type=float, required=True)
    parser.add_argument("--query-prefix", default="")
    parser.add_argument(
        "--start-token", choices=["shared", "each"], default="shared", help="whose is [CLS]: all blocks'"
    )
    write_start(**vars(parser.parse_args()))
