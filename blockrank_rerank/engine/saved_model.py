"""A model as a ranker uses it, written into a folder of its own or onto the Hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open

from blockrank_rerank.engine.shared import SharedEngine
from blockrank_rerank.engine.spec import EngineSpec, resolve_config
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.devices import resolve_device, resolve_dtype
from blockrank_rerank.model.foreign_files import listed_weights
from blockrank_rerank.system.files import UserPath, absolute

STORED_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
"""What safetensors calls them."""


class SavedModel:
    """How a ranker's model leaves it, for a class that has a shared engine."""

    _shared: SharedEngine

    def save_pretrained(self, folder: UserPath) -> None:
        """Write the model as it is in use into a folder: ``from_pretrained(folder)`` then gives the same scores.

        Weights are those of the model's files, and no later layer than the scoring one is among them; an adapter is
        merged. Settings are those in force (``config``, :meth:`with_config`, ``max_document_tokens``, …). Options
        that only this machine needs, such as device, dtype and quantization, are not kept.

        Parameters
        ----------
        folder : str or path-like
            New or empty; whole or not there. Its parents are made.

        Raises
        ------
        FileExistsError
            For a folder with something in it.
        NotADirectoryError
            For a file in the folder's place.
        FileNotFoundError, ValueError
            Where the model cannot be read, or its files have changed since they were.
        OSError
            Where the disk is full.
        """
        save_model(self._shared, absolute(folder, "folder"))

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Write the model as :meth:`save_pretrained` does, into a model of the Hub, which is made if it is not there.

        Parameters
        ----------
        repo_id : str
            ``owner/name``; files of the same names are replaced.
        private : bool, optional
            Whether a new one is private; what the owner's settings say if not given. One that is there stays as it is.
        token : str, optional
            That may write; the one of ``hf auth login`` or ``HF_TOKEN`` if not given.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        FileNotFoundError, ValueError
            Where the model cannot be read, before anything is asked of the Hub.
        huggingface_hub.errors.HfHubHTTPError
            Where the Hub refuses it.
        """
        from huggingface_hub import HfApi

        with TemporaryDirectory() as folder:
            save_model(self._shared, Path(folder) / "model")
            api = HfApi(token=token)
            # It may have been named without its owner.
            repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=repo, folder_path=Path(folder) / "model", commit_message="Upload a BlockRank reranker"
            )
        return str(commit.commit_url)


def save_model(shared: SharedEngine, folder: Path) -> None:
    """Read an engine's model and write it, up to its scoring layer and with the settings in force, as a folder.

    It is read anew, and on the CPU: what is loaded may be rounded, fused or quantised for its device.

    Raises
    ------
    OSError, ValueError
        As :meth:`SavedModel.save_pretrained`.
    """
    # Ranking needs none of them, and they bring in Transformers.
    from blockrank_rerank.model.backbone import Backbone
    from blockrank_rerank.model.int8 import scales_file
    from blockrank_rerank.model.model_folder import check_new_folder, write_model
    from blockrank_rerank.model.scoring_head import read_head

    # What it leaves out, the layers after the scoring layer and the LM head, is what decodes.
    shared.spec.refuse_decoding("save_pretrained")
    check_new_folder(folder)
    shared.check_writable()
    checkpoint, (model_config, config) = shared.spec.checkpoint, resolve_config(shared.spec)
    head = read_head(checkpoint, model_config, config)
    tokenizer = checkpoint.tokenizer(model_config.vocab_size)
    layers = config.scoring_layer + (not config.scoring_head)
    network = _read_network(shared.spec, model_config, layers)
    Backbone(network, config, head).refuse_nonfinite_weights(checkpoint.model)
    write_model(folder.resolve(), network, head, config, tokenizer, network.dtype, scales_file(checkpoint))


def _read_network(spec: EngineSpec, model_config: Any, layers: int) -> Any:
    """The layers in use, in a dtype that keeps every bit of what they are in use."""
    checkpoint = spec.checkpoint
    if checkpoint.adapter is not None:  # merging rounds, to the dtype in use
        dtype = resolve_dtype(spec.dtype, resolve_device(spec.device))
        return checkpoint.truncated_model(model_config, layers, dtype, "eager")
    if checkpoint.gguf is None:
        network: Any = checkpoint.truncated_model(model_config, layers, "auto", "eager")
        if _stored_dtypes(checkpoint) == {network.dtype}:
            return network
    # It is packed, it was rounded, or may have been: fp32 holds every other dtype exactly.
    return checkpoint.truncated_model(model_config, layers, torch.float32, "eager")


def _stored_dtypes(checkpoint: Checkpoint) -> set[torch.dtype | None]:
    """Dtypes of a model's weights in its files; nothing for files that do not say."""
    found: set[torch.dtype | None] = set()
    for name in listed_weights(checkpoint.folder):
        if not name.endswith(".safetensors"):
            return {None}
        with safe_open(checkpoint.folder / name, "pt") as weights:
            found |= {STORED_DTYPES.get(weights.get_slice(key).get_dtype()) for key in weights.keys()}  # noqa: SIM118
    return found
