"""The folder of a model, written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.files import share_like, system_errors
from blockrank_rerank.finetune.checkpoint_mark import sync_all
from blockrank_rerank.model.checkpoint import quiet
from blockrank_rerank.model.scoring_head import ScoringHead


def write_model(
    folder: Path, network: Any, head: ScoringHead | None, config: BlockRankConfig, tokenizer: Any, dtype: torch.dtype
) -> None:
    """Write a folder that loads as a Transformers model and as a reranker, in place of what is there.

    Parameters
    ----------
    folder : Path
        Its parents are made where they are missing.
    network : transformers.PreTrainedModel
        The model.
    head : ScoringHead, optional
        The appended scoring layer.
    config : BlockRankConfig
        Settings of the model.
    tokenizer : transformers.PreTrainedTokenizerFast
        Of the model.
    dtype : torch.dtype
        Of the written weights; the head's are fp32.

    Raises
    ------
    OSError
        Where the disk is full.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    if unfinished.is_symlink():  # which is not followed, and not removed as a folder is
        unfinished.unlink()
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    state = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    with system_errors(unfinished):
        with quiet():
            network.save_pretrained(unfinished, state_dict=state)
        if head is not None:
            head.save(unfinished)
    # Transformers writes the dtype of the weights in memory.
    network.config.dtype = dtype
    network.config.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    config.save(unfinished)
    for weights in unfinished.glob("*.safetensors"):
        share_like(weights, unfinished / "config.json")
    sync_all(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
