"""What a model was made for, by the names that its files give, and whether that is what is asked of it."""

from __future__ import annotations

import contextlib
import json
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockrank_rerank.config import CONFIG_NAME
from blockrank_rerank.model.checkpoint import Checkpoint, readable
from blockrank_rerank.model.families import ENCODERS
from blockrank_rerank.model.foreign_files import check_embedding_folder
from blockrank_rerank.model.scoring_head import SCORING_HEAD_NAME

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
"""Endings of architectures whose head is what they are for."""

GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""Endings of architectures that write text."""


CROSS_ENCODER = " (a cross-encoder, most often)"

RANK, TRAIN = "blockrank rerank QUERY FILE --model {}", "blockrank-finetune train model={} data=DATA output=FOLDER"
"""Commands that messages advise, of a model."""


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
        folder = checkpoint.folder
    if _exists(checkpoint, CONFIG_NAME):
        _refuse(model, "a BlockRank reranker")
    with readable(model, "the embeddings"):
        check_embedding_folder(folder)
    config = _record(checkpoint, "config.json")
    kind = _record(checkpoint, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        _refuse(model, f"a {kind}")
    if not config or _exists(checkpoint, "modules.json"):
        return  # what cannot be read is refused where it is loaded
    if head := _with_ending(config.get("architectures"), CLASSIFIERS + GENERATORS):
        _refuse(model, f"a {head}" + (CROSS_ENCODER if head.endswith(CLASSIFIERS[0]) else ""))
    warnings.warn(
        f"model {model!r} ({', '.join(map(str, config.get('architectures') or ['architecture unknown']))}) has no "
        "modules.json of an embedding model: a text is the mean of its last states, which means something only where "
        "the model was trained so",
        stacklevel=2,
    )


def check_plain_encoder(checkpoint: Checkpoint, model_config: Any) -> None:
    """Refuse a model that needs no new scoring layer, or whose states were not made to be compared.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where it is read from.
    model_config : transformers.PretrainedConfig
        Of a supported architecture.

    Raises
    ------
    ValueError
        Saying what the model is, and what to do with it.
    """
    model = checkpoint.model
    if model_config.model_type not in ENCODERS:
        raise ValueError(
            f"expected an encoder ({', '.join(sorted(ENCODERS))}), got {model!r}, a decoder "
            f"({model_config.model_type}): it needs no scoring layer, since one of its own scores; rank with it as it "
            f"is ({RANK.format(shlex.quote(model))}), or train it as it is ({TRAIN.format(shlex.quote(model))})"
        )
    if _exists(checkpoint, CONFIG_NAME) or _exists(checkpoint, SCORING_HEAD_NAME):
        raise ValueError(
            f"expected an encoder without a scoring layer, got {model!r}, which is a BlockRank reranker already: train "
            f"it as it is ({TRAIN.format(shlex.quote(model))})"
        )
    kind = _record(checkpoint, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    found = _with_ending(model_config.architectures, CLASSIFIERS) or (kind if kind != "SentenceTransformer" else None)
    if found:
        raise ValueError(
            f"expected an encoder whose states are compared, got {model!r}, which is a {found}"
            f"{CROSS_ENCODER if found.endswith(CLASSIFIERS[0]) else ''}: its layers serve the head that a scoring "
            "layer would replace; give an embedding model, or the encoder that it was trained from"
        )
    if not _exists(checkpoint, "modules.json"):
        warnings.warn(
            f"model {model!r} has no modules.json of an embedding model: until it is trained it ranks by cosines of "
            "states that were not made to be compared",
            stacklevel=3,
        )


def own_prefixes(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return what an embedding model was trained to see before a query and before a document, as its files say.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where it is read from.

    Returns
    -------
    tuple of str
        Empty where the files name none.
    """
    prompts = _record(checkpoint, "config_sentence_transformers.json").get("prompts")
    found = prompts if isinstance(prompts, dict) else {}
    named = {name: text for name, text in found.items() if isinstance(text, str)}
    # The names that sentence-transformers looks for, in its order.
    document = next((named[name] for name in ("document", "passage", "corpus") if name in named), "")
    return named.get("query", ""), document


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
