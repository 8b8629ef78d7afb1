"""The module with which sentence-transformers' ``CrossEncoder`` ranks with a BlockRank model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

import torch
from torch import nn

from blockrank_rerank import BlockRankCrossEncoder, BlockRankReranker
from blockrank_rerank.adapters import check_pairs_stand_alone

SINCE = (5, 5)
"""The first release of sentence-transformers whose ``CrossEncoder`` computes with modules of others."""
INSTEAD = "use blockrank_rerank.BlockRankCrossEncoder(model), which has the options of a reranker"


class RawScores(nn.Module):
    """Scores pairs of a query and a document by raw score; the only module of its ``CrossEncoder``.

    The model is read when the first pair is scored, and again where the ``CrossEncoder`` has gone to another device.

    Parameters
    ----------
    reranker : BlockRankReranker
        Describes the model, but for its device.
    options : mapping
        With which it was described.
    """

    def __init__(self, reranker: BlockRankReranker, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._reranker, self._options = reranker, dict(options)
        self._scorer: tuple[torch.device, BlockRankCrossEncoder] | None = None
        # Says where the CrossEncoder is; of whole numbers, as the dtype is an option and does not follow it.
        self.place = nn.Parameter(torch.zeros(1, dtype=torch.int64, device="cpu"), requires_grad=False)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the token, which does not belong into files, and the loaded model."""
        return self.__dict__ | {"_options": self._options | {"token": None}, "_scorer": None}

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        *,
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        backend: str = "torch",
        **unused: Any,
    ) -> RawScores:
        """Describe the model in a folder or on the Hub, for sentence-transformers.

        Parameters
        ----------
        model_name_or_path : str
            Folder or Hub id.
        token, cache_folder, revision, local_files_only
            As in ``CrossEncoder``.
        model_kwargs : mapping, optional
            May hold ``dtype``, as in :meth:`BlockRankReranker.from_pretrained`.
        config_kwargs : mapping, optional
            May hold ``num_labels``, which is 1.
        backend : str
            ``torch``.
        **unused
            What else ``CrossEncoder`` gives: no code of the folder runs, and long documents are split and not cut.

        Raises
        ------
        FileNotFoundError
            Where the model is not found.
        ImportError
            For sentence-transformers before 5.5.
        ValueError
            For arguments that cannot be used, and a model whose pairs score otherwise alone than in their list.
        """
        installed = version("sentence-transformers")
        if tuple(int(part) for part in installed.split(".")[:2]) < SINCE:
            raise ImportError(f"a BlockRank model needs sentence-transformers 5.5 or newer, got {installed}; {INSTEAD}")
        given, labels = dict(model_kwargs or {}), dict(config_kwargs or {})
        dtype = given.pop("dtype", given.pop("torch_dtype", None))
        if given or labels not in ({}, {"num_labels": 1}) or backend != "torch":
            _refuse("model_kwargs with dtype alone, num_labels=1 and backend='torch'", [*given, labels, backend])
        if cache_folder is not None and not os.path.isdir(model_name_or_path):
            model_name_or_path = _downloaded(model_name_or_path, cache_folder, revision, local_files_only, token)
        options: dict[str, Any] = {
            "model": model_name_or_path,
            "revision": revision,
            "local_files_only": local_files_only,
            "token": token if isinstance(token, str) else None,
            "dtype": None if dtype == "auto" else dtype,
        }
        reranker = BlockRankReranker.from_pretrained(**options)
        check_pairs_stand_alone(reranker)
        return cls(reranker, options)

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a document that are read in one piece; longer ones are split, or what the settings say."""
        return self._reranker.config.max_document_tokens

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **unknown: Any) -> dict[str, Any]:
        """Keep pairs as they are: the model's own prompt goes around them.

        Raises
        ------
        ValueError
            For a prompt, and other arguments of a call; a TypeError would make sentence-transformers call without them.
        """
        if prompt or any(value is not None for value in unknown.values()):
            _refuse("no prompt and no other arguments: the model has a prompt of its own", [prompt, *unknown])
        return {"pairs": list(inputs)}

    def forward(self, features: dict[str, Any], **unused: Any) -> dict[str, Any]:
        """Add ``scores`` ``[pairs]``, fp32, to the ``pairs``.

        Raises
        ------
        RuntimeError
            In training.
        TypeError, ValueError
            As :meth:`BlockRankCrossEncoder.predict`.
        """
        if self.training:
            raise RuntimeError(
                "a BlockRank model is not trained by sentence-transformers; use blockrank-finetune train"
            )
        scores: Any = self._scorer_here().predict(features["pairs"], convert_to_tensor=True)
        return features | {"scores": scores.to(self.place.device)}

    def save(self, output_path: str, *arguments: Any, **unused: Any) -> NoReturn:
        """Refuse: a model is written by its reranker.

        Raises
        ------
        ValueError
            Saying how.
        """
        model = self._reranker.model
        raise ValueError(
            f"a BlockRank model is not saved by sentence-transformers; use BlockRankReranker.from_pretrained({model!r})"
            ".save_pretrained(FOLDER)"
        )

    def _scorer_here(self) -> BlockRankCrossEncoder:
        device = self.place.device
        if self._scorer is None or self._scorer[0] != device:
            reranker = BlockRankReranker.from_pretrained(**self._options, device=device)
            self._scorer = device, BlockRankCrossEncoder(reranker, score_type="raw")
        return self._scorer[1]


def _refuse(expected: str, found: Sequence[Any]) -> NoReturn:
    raise ValueError(f"a BlockRank model takes {expected}, got {', '.join(map(repr, found))}; {INSTEAD}")


def _downloaded(model: str, cache_folder: str, revision: str | None, local_files_only: bool, token: Any) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        model, cache_dir=cache_folder, revision=revision, local_files_only=local_files_only, token=token
    )
