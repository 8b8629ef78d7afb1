"""Mix the weights of a trained model with those of the model it comes from; the scoring layer stays the trained one's.

    python -m recipes.default_model.mix_models build/distilled-more build/first build/mixed --share 0.5

``base_share`` of blockrank-finetune does so with the model that a run starts from; this does where there were runs
between.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def mix(trained: Path, base: Path, output: Path, share: float) -> None:
    """Write ``share`` of the trained weights and the rest of the base's, in fp16."""
    new, old = load_file(trained / WEIGHTS), load_file(base / WEIGHTS)
    mixed = {name: old[name].float().lerp(tensor.float(), share).to(torch.float16) for name, tensor in new.items()}
    shutil.copytree(trained, output)
    save_file(mixed, output / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--share", type=float, default=0.5)
    arguments = parser.parse_args()
    mix(arguments.trained, arguments.base, arguments.output, arguments.share)
