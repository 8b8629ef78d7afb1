"""What a model was made for, by the names that its files give, and whether that is what is asked of it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.model.checkpoint import Checkpoint, readable
from blockrank_rerank.model.foreign_files import check_embedding_folder

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""Endings of architectures whose head is what they are for."""

GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of architectures that write text."""


def check_embedding_model(model: str) -> None:
    """Refuse a model that was made for something else than embedding texts, and warn of one that does not say.

    Parameters
    ----------
    model : str
        Folder or Hub id.

    Raises
    ------
    FileNotFoundError, ValueError
        Saying what the model is, and what to give instead.
    """
    checkpoint = Checkpoint(model=model if "/" in model or Path(model).exists() else f"sentence-transformers/{model}")
    with readable(model, "the embeddings"):
        check_embedding_folder(checkpoint.folder)
    config = _record(checkpoint, "config.json")
    kind = _record(checkpoint, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if _exists(checkpoint, CONFIG_NAME):
        _refuse(model, "a BlockRank reranker")
    if kind != "SentenceTransformer":
        _refuse(model, f"a {kind}")
    if not config or _exists(checkpoint, "modules.json"):
        return  # what cannot be read is refused where it is loaded
    if head := _with_ending(config.get("architectures"), CLASSIFIERS + GENERATORS):
        _refuse(model, f"a {head}" + (" (a cross-encoder, most often)" if head.endswith(CLASSIFIERS[0]) else ""))
    warnings.warn(
        f"model {model!r} ({', '.join(map(str, config.get('architectures') or ['architecture unknown']))}) has no "
        "modules.json of an embedding model: a text is the mean of its last states, which means something only where "
        "the model was trained so",
        stacklevel=2,
    )


def check_trained_architecture(model: str, architectures: Sequence[str] | None, language_model: bool) -> None:
    """Say that the head of a classifier is left out in training; refuse one where a language model is needed.

    Parameters
    ----------
    model : str
        Folder or Hub id, for messages.
    architectures : sequence of str, optional
        As the model's config names them.
    language_model : bool
        Whether training needs a head that writes text.

    Raises
    ------
    ValueError
        For a classifier where the next-token loss is used.
    """
    head = _with_ending(architectures, CLASSIFIERS)
    if head and language_model:
        raise ValueError(
            f"language_model_weight needs a causal language model, got a {head} in {model!r}; set it to 0, or start "
            "from the language model"
        )
    if head:
        warnings.warn(f"model {model!r} is a {head}: its layers are trained, and its head is left out", stacklevel=2)


def _refuse(model: str, found: str) -> None:
    raise ValueError(
        f"expected an embedding model, got {model!r}, which is {found}: the cosine of its states is no relevance; give "
        "a sentence-transformers model such as sentence-transformers/all-MiniLM-L6-v2"
    )


def _with_ending(architectures: Any, endings: tuple[str, ...]) -> str | None:
    names = architectures if isinstance(architectures, list | tuple) else ()
    return next((name for name in names if isinstance(name, str) and name.endswith(endings)), None)


def _exists(checkpoint: Checkpoint, name: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return checkpoint.file(name) is not None
    return False


def _record(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        path = checkpoint.file(name)
        record = json.loads(path.read_text(encoding="utf-8")) if path else None
        return record if isinstance(record, dict) else {}
    return {}
