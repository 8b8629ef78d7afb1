"""The folder of a model, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.errors import install_line
from blockrank_rerank.model.checkpoint import quiet
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.system.files import share_like, sync_all, system_errors

NO_CLASSIFIER = (
    "this is a BlockRank model and has no classifier: sentence-transformers reads it from 5.5 on, with "
    "trust_remote_code=True; with any release use blockrank_rerank.BlockRankCrossEncoder(model)"
)
"""Stands where releases before 5.4, which ask for no modules, read a version and fail with what they find there.

They would rank with a classifier of random weights otherwise.
"""
FOR_SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers_blockrank.module.RawScores"}],
    "config_sentence_transformers.json": {
        "model_type": "CrossEncoder",
        # Else it would be a sigmoid, of numbers that are no log odds.
        "activation_fn": "torch.nn.modules.linear.Identity",
        "requirements": {
            "blockrank-rerank": {"specifier": ">=0.1.0", "reason": f"it ranks this model; {install_line()}"}
        },
    },
}
"""Files by which ``sentence_transformers.CrossEncoder(folder)`` ranks with the model, and their content."""


def check_new_folder(folder: Path) -> None:
    """Refuse to write a model where something is already.

    Raises
    ------
    FileExistsError
        For a folder with something in it.
    NotADirectoryError
        For a file in the folder's place.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"expected a folder for the model, got the file {folder}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"the folder {folder} has something in it; name another one, or empty it")


def write_model(
    folder: Path,
    network: Any,
    head: ScoringHead | None,
    config: BlockRankConfig,
    tokenizer: Any,
    dtype: torch.dtype,
    scales: Path | None = None,
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
    scales : Path, optional
        File of the scales for quantization int8 of these weights.

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
    try:
        _write_files(unfinished, network, head, config, tokenizer, dtype)
        if scales is not None:
            shutil.copyfile(scales, unfinished / scales.name)
        sync_all(unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def _write_files(
    folder: Path, network: Any, head: ScoringHead | None, config: BlockRankConfig, tokenizer: Any, dtype: torch.dtype
) -> None:
    state = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    with system_errors(folder):
        with quiet():
            network.save_pretrained(folder, state_dict=state)
        if head is not None:
            head.save(folder)
    # Transformers writes the dtype of the weights in memory.
    network.config.dtype = dtype
    network.config.sentence_transformers = {"version": NO_CLASSIFIER}
    network.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config.save(folder)
    for name, content in FOR_SENTENCE_TRANSFORMERS.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for weights in folder.glob("*.safetensors"):
        share_like(weights, folder / "config.json")
