"""A model to start from: a trained one with two numbers of its scoring layer reset.

    python -m recipes.ensemble.start build/start --base blockrank_rerank/default_model --temperature 0.05 \
        --length-weight -0.3

An encoder without a scoring layer is for `blockrank-finetune init`, for instance:

    blockrank-finetune init ARCTIC build/start --temperature 0.02 --length-weight 0 --start-token each --dtype float16 \
        --query-prefix "Represent this sentence for searching relevant passages: "

Temperature and length weight are chosen on development sets; a training moves them by hundredths (dev/LOG.md).
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME


def write_start(output: Path, base: Path, temperature: float, length_weight: float) -> None:
    """Write the model's folder.

    Raises
    ------
    FileNotFoundError
        For a base without a scoring layer.
    """
    if not (base / SCORING_HEAD_NAME).exists():
        raise FileNotFoundError(f"no {SCORING_HEAD_NAME} in {base}: give an encoder one with blockrank-finetune init")
    shutil.copytree(base, output, ignore=shutil.ignore_patterns("README.md", "__pycache__"))
    head = load_file(output / SCORING_HEAD_NAME)
    head["log_temperature"] = torch.full_like(head["log_temperature"], math.log(temperature))
    head["length_weight"] = torch.full_like(head["length_weight"], length_weight)
    save_file(head, output / SCORING_HEAD_NAME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--length-weight", type=float, required=True)
    write_start(**vars(parser.parse_args()))
