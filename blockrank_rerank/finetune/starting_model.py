"""A model to start training from: an encoder with a scoring layer that nobody has trained."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch

from blockrank_rerank.config import BlockRankConfig, PromptTemplate, escaped
from blockrank_rerank.finetune.architecture import check_plain_encoder, own_prefixes
from blockrank_rerank.finetune.settings import DTYPES
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.families import check_fits, position_limit
from blockrank_rerank.model.model_folder import check_new_folder, write_model
from blockrank_rerank.model.scoring_head import ScoringHead
from blockrank_rerank.system.files import UserPath, absolute, path_text
from blockrank_rerank.text.prompt import PromptEncoder

StartToken = Literal["shared", "each"]
START_TOKENS: tuple[StartToken, ...] = ("shared", "each")


def write_starting_model(
    encoder: UserPath,
    folder: UserPath,
    *,
    query_prefix: str | None = None,
    document_prefix: str | None = None,
    start_token: StartToken = "shared",
    temperature: float = 0.05,
    length_weight: float = -0.3,
    dtype: str | None = None,
) -> BlockRankConfig:
    """Write an encoder with a scoring layer on top, which ranks by cosines of tokens until it is trained.

    Parameters
    ----------
    encoder : str or path-like
        Folder or Hub id of an encoder, such as an embedding model.
    folder : str or path-like
        New or empty; whole or not there.
    query_prefix, document_prefix : str, optional
        What the encoder was trained to see before a query and before a document. The prompts that come with it (in
        its ``config_sentence_transformers.json``) if not given, so that an empty text leaves them out.
    start_token : str
        Whose is the first token of a sentence, such as [CLS]: ``shared`` by all blocks as their instruction, or
        ``each`` has its own. Without an instruction there are no probabilities.
    temperature : float
        Of the cosines.
    length_weight : float
        Of the logarithm of a document's length: -1 makes a mean over its tokens, 0 a sum.
    dtype : str, optional
        Of the written weights; the encoder's own if not given.

    Returns
    -------
    BlockRankConfig
        The settings that were written beside the weights.

    Raises
    ------
    FileExistsError
        For a folder with something in it.
    FileNotFoundError
        Where the encoder is not found.
    NotADirectoryError
        For a file in the folder's place.
    ValueError
        For a decoder, a cross-encoder, a reranker, an encoder without a tokenizer, and values out of range.
    """
    target = absolute(folder, "folder")
    check_new_folder(target)
    head_values = _check_values(start_token, temperature, length_weight, dtype)
    checkpoint = Checkpoint(model=path_text(encoder))
    model_config = checkpoint.model_config()
    check_plain_encoder(checkpoint, model_config)
    tokenizer = checkpoint.tokenizer(model_config.vocab_size)
    own_query, own_document = own_prefixes(checkpoint)
    prefixes = (
        own_query if query_prefix is None else query_prefix,
        own_document if document_prefix is None else document_prefix,
    )
    prompt = _prompt(checkpoint.model, tokenizer, *prefixes, start_token)
    config = _config(model_config.num_hidden_layers, prompt, start_token)
    check_fits(config, model_config)
    # What cannot rank is refused before anything is written.
    PromptEncoder(tokenizer, config, position_limit(config, model_config)).encode("query", ["document"])
    network: Any = checkpoint.truncated_model(
        model_config, model_config.num_hidden_layers, getattr(torch, dtype) if dtype else "auto", "eager"
    )
    head = ScoringHead(model_config.hidden_size)
    with torch.no_grad():
        head.log_temperature.fill_(math.log(head_values[0]))
        head.length_weight.fill_(head_values[1])
    write_model(target, network, head, config, tokenizer, next(network.parameters()).dtype)
    return config


def _check_values(start_token: str, temperature: float, length_weight: float, dtype: str | None) -> tuple[float, float]:
    if start_token not in START_TOKENS:
        raise ValueError(f"start_token must be {' or '.join(START_TOKENS)}, got {start_token!r}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    if not math.isfinite(length_weight):
        raise ValueError(f"length_weight must be a finite number, got {length_weight!r}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return float(temperature), float(length_weight)


def _prompt(model: str, tokenizer: Any, query_prefix: str, document_prefix: str, start_token: str) -> PromptTemplate:
    first, last = tokenizer.cls_token, tokenizer.sep_token
    if not first or not last:
        raise ValueError(
            f"model {model!r} has a tokenizer without cls_token or sep_token, with which sentences begin and end; name "
            "them in its tokenizer_config.json"
        )
    first, last = escaped(first), escaped(last)
    shared, own = (first, "") if start_token == "shared" else ("", first)
    return PromptTemplate(
        instruction=shared,
        query_free_instruction=shared,
        document=f"{own}{escaped(document_prefix)}{{text}}{last}",
        query=f"{own}{escaped(query_prefix)}{{query}}{last}",
        answer="",
        answer_start="",
        chat=False,
    )


def _config(layers: int, prompt: PromptTemplate, start_token: str) -> BlockRankConfig:
    return BlockRankConfig(
        scoring_layer=layers,
        scoring_head=True,
        signal_tokens="all",
        reduction="softmax_of_mean",
        # The query sees no document: 0.1 MRR better untrained (dev/LOG.md).
        query_documents_from_layer=layers,
        # Every block starts where a sentence starts for the encoder: after the shared first token, or with its own.
        query_offset=int(start_token == "shared"),
        max_document_tokens=None,
        prompt=prompt,
    )
