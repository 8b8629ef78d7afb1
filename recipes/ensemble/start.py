"""A model to start from: a trained one, with other numbers in its scoring layer where asked, or an encoder with one.

    python -m recipes.ensemble.start build/start --base default
    python -m recipes.ensemble.start build/start --base ARCTIC --temperature 0.02 --length-weight 0

A base is a folder or a Hub id. An encoder reads the prefixes that come with it, as with `blockrank-finetune init`,
which has more options. Temperature and length weight are chosen on development sets; a training moves them by
hundredths (dev/LOG.md).
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from blockrank_rerank.finetune.starting_model import write_starting_model
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.names import model_folder
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME

WEIGHTS = "model.safetensors"


def write_start(output: Path, base: str, temperature: float | None = None, length_weight: float | None = None) -> None:
    """Write the model's folder, whole or not at all; numbers that are not given stay the base's.

    Raises
    ------
    FileNotFoundError
        Where the base, or its weights, are not found.
    """
    given = {"temperature": temperature, "length_weight": length_weight}
    numbers = {name: number for name, number in given.items() if number is not None}
    checkpoint = Checkpoint(model=model_folder(base))
    if checkpoint.file(SCORING_HEAD_NAME) is None:
        write_starting_model(base, output, dtype="float16", **numbers)
        return
    if checkpoint.file(WEIGHTS) is None:
        raise FileNotFoundError(f"no {WEIGHTS} in {base}")
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint.folder, partial, ignore=shutil.ignore_patterns("README.md", "__pycache__"))
    head = load_file(partial / SCORING_HEAD_NAME)
    if temperature is not None:
        head["log_temperature"] = torch.full_like(head["log_temperature"], math.log(temperature))
    if length_weight is not None:
        head["length_weight"] = torch.full_like(head["length_weight"], length_weight)
    save_file(head, partial / SCORING_HEAD_NAME)
    partial.rename(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--base", required=True)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--length-weight", type=float)
    write_start(**vars(parser.parse_args()))
