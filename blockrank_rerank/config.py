"""The settings that a ranking depends on, and their file."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from blockrank_rerank.system.files import UserPath, absolute, check_readable, expanded

CONFIG_NAME = "blockrank_config.json"
FORMAT_VERSION = 1
RELEASED_MODEL = "quicktensor/blockrank-msmarco-mistral-7b"

NO_INSTRUCTION = (
    "abstention needs an instruction in the prompt: its block stands for no document at all; give it one (an encoder: "
    "blockrank-finetune init --start-token shared)"
)
"""What is wrong with settings of a model that may abstain."""

LARGEST_NUMBER = 2**31 - 1
"""Of any setting: files of other people may hold any number, and positions are 32 bits wide in places."""
LONG_DOCUMENTS = ("split", "truncate", "error")
LONG_QUERIES = ("error", "truncate")
REDUCTIONS = ("mean_of_softmax", "softmax_of_mean")
"""Names of the rules that make scores of log-sum-exps; the rules are in model/scores.py."""
CORRECTED_REDUCTION = "softmax_of_mean"
"""The rule for scores that a content-free query corrects: by the other, nDCG@10 was 3 points lower (dev/LOG.md)."""


QUERY_FREE_INSTRUCTION = (
    "You will be given a list of documents and then a query. Each document will be formatted as ID: <id> | "
    "CONTENT: <content> | END ID: <id>. You need to read carefully and understand all of them and your goal "
    "is to find all document(s) from the list that can help answer the query.\n\nDocuments:"
)
"""The released instruction without the query, for documents that are prepared before a query is known."""


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """The text around a query and its documents, one template per block.

    Templates are trusted text: special-token strings in them become special tokens. What fills the
    placeholders is data and never does. The defaults are the prompt of the released checkpoint.

    Parameters
    ----------
    instruction : str
        May contain ``{query}``; without it, documents do not depend on the query.
    query_free_instruction : str
        Takes the instruction's place where documents are processed before the query is known.
    document : str
        Must contain ``{text}`` and something beside it, so that an empty document still has a token.
        May contain ``{index}``, the position in the list. A title goes before the text, after a space.
    query : str
        Must contain ``{query}``.
    answer : str
        What the assistant has said already; with ``chat`` it follows the template's assistant header.
    answer_start : str
        Tokenised on its own and appended to the query block.
    chat : bool
        Whether the tokenizer's chat template goes around the blocks.
    """

    instruction: str = (
        "You will be given a query and a list of documents. Each document will be formatted as ID: <id> | "
        "CONTENT: <content> | END ID: <id>. You need to read carefully and understand all of them and your goal "
        "is to find all document(s) from the list that can help answer the query.\nQuery: {query}\n\nDocuments:"
    )
    query_free_instruction: str = QUERY_FREE_INSTRUCTION
    document: str = "\nID: {index} | CONTENT: {text} | END ID: {index}"
    query: str = (
        "\n\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print out the "
        "ID of the document.\nQuery: {query}\nThe following document(s) can help answer the query:"
    )
    answer: str = "Final Answer: "
    answer_start: str = "["
    chat: bool = True

    def __post_init__(self) -> None:
        """Check placeholders."""
        _check_types(self)
        allowed = {
            "instruction": {"query"},
            "query_free_instruction": set(),
            "document": {"text", "index"},
            "query": {"query"},
        }
        required = {"instruction": set(), "query_free_instruction": set(), "document": {"text"}, "query": {"query"}}
        for name, names in allowed.items():
            found = placeholders(getattr(self, name), name)
            if not required[name] <= found <= names:
                raise ValueError(
                    f"prompt.{name} may hold the placeholders {sorted(names)} and needs {sorted(required[name])}, "
                    f"got {sorted(found)}"
                )
        if not "".join(text for text, *_ in string.Formatter().parse(self.document)).strip():
            raise ValueError("prompt.document needs text beside its placeholders: an empty document must have a token")

    @property
    def query_free(self) -> bool:
        """Whether the instruction before the documents omits the query."""
        return "query" not in placeholders(self.instruction, "instruction")

    @property
    def documents_stand_alone(self) -> bool:
        """Whether a document's tokens depend on nothing but its text, so that its states serve every query."""
        return self.query_free and "index" not in placeholders(self.document, "document")

    def without_query(self) -> PromptTemplate:
        """Return the prompt with the query-free instruction, and every document numbered 0."""
        if self.documents_stand_alone:
            return self
        document = "".join(
            escaped(literal) + {"index": "0", "text": "{text}", None: ""}[name]
            for literal, name, _, _ in string.Formatter().parse(self.document)
        )
        instruction = self.instruction if self.query_free else self.query_free_instruction
        return replace(self, instruction=instruction, document=document)


@dataclass(frozen=True, kw_only=True)
class BlockRankConfig:
    """Everything that turns a Transformers model into a BlockRank reranker; validated where it is built.

    Parameters
    ----------
    scoring_layer : int
        0-based layer whose attention is the score. Equal to the number of the model's layers where
        ``scoring_head`` is true.
    scoring_head : bool
        Whether a trained scoring attention layer is appended after the model's last layer.
    heads : tuple of int, optional
        Query heads whose attention counts; all by default.
    signal_tokens : int or str
        How many tokens at the end of the query block are read, or ``"all"`` of them.
    reduction : str
        ``"mean_of_softmax"`` (the paper): the mean over signals and heads of each one's softmax over
        documents. ``"softmax_of_mean"``: the softmax over documents of the mean log-sum-exp.
    content_free_query : str, optional
        A query that asks nothing, such as ``"N/A"``, which goes through beside every query: per head, the mean of its
        signals' log-sum-exps is subtracted from the query's, so that what a head sees in a document whatever the query
        counts no longer. For models whose own attention is the score, with a query-free prompt and
        ``"softmax_of_mean"``.
    abstention : bool
        Whether the model was trained to attend to the instruction block where no document is relevant; then
        every document also gets a probability of relevance. It does not depend on the list where the query block sees
        the documents at the scoring layer only (``query_documents_from_layer``); below it, as in the paper's form, the
        query's own states do.
    answerability : tuple of 4 floats, optional
        Learnt numbers by which the raw scores of a list say whether it holds an answer at all: see
        :func:`~blockrank_rerank.model.scores.answerable`.
    query_offset : int
        Position of the first token of the query block.
    query_documents_from_layer : int
        First layer in which the query block sees the documents; 0 is the paper.
    max_document_tokens : int, optional
        Longest document block, template included. As many as the model's positions admit where not given.
    long_documents : str
        What becomes of longer documents: ``"split"`` into overlapping passages, of which the best one counts;
        ``"truncate"``, and say so; or ``"error"``.
    prompt : PromptTemplate
        The text of the blocks.
    version : int
        Format of the saved file.
    """

    scoring_layer: int
    scoring_head: bool = False
    heads: tuple[int, ...] | None = None
    signal_tokens: int | str = 2
    reduction: str = "mean_of_softmax"
    content_free_query: str | None = None
    abstention: bool = False
    answerability: tuple[float, ...] | None = None
    query_offset: int = 16384  # released code, block_icr_collate_fn; the paper's text says 8192
    query_documents_from_layer: int = 0
    max_document_tokens: int | None = 512  # released configs, max_block_length
    long_documents: str = "split"
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Check every value; lists become tuples."""
        for name in ("heads", "answerability"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.prompt, Mapping):
            object.__setattr__(self, "prompt", from_settings(PromptTemplate, self.prompt, "prompt"))
        _check_types(self)
        _check_ranges(self)

    @property
    def documents_are_independent(self) -> bool:
        """Whether the query meets the documents in an appended scoring layer only, so that they can come in groups."""
        return self.scoring_head and self.query_documents_from_layer >= self.scoring_layer

    def to_json(self) -> str:
        """The content of ``blockrank_config.json``."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def save(self, folder: UserPath) -> None:
        """Write ``blockrank_config.json`` into an existing folder."""
        (absolute(folder, "folder") / CONFIG_NAME).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: UserPath) -> BlockRankConfig:
        """Read a ``blockrank_config.json`` file, or the one in a folder.

        Raises
        ------
        FileNotFoundError
            Where there is none.
        ValueError
            For malformed files, unknown settings and other format versions.
        """
        path = expanded(path, "config")
        path = path / CONFIG_NAME if path.is_dir() else path
        check_readable(path, "settings")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except RecursionError:
            raise ValueError(
                f"{path} is not a config: its brackets are nested too deeply; write settings by name"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
        version = values.get("version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version!r}, this release of blockrank-rerank reads version "
                f"{FORMAT_VERSION}: {_version_advice(version)}"
            )
        config: BlockRankConfig = from_settings(cls, values, str(path))
        return config


def _version_advice(version: object) -> str:
    if version is None:
        return f'add "version": {FORMAT_VERSION}'  # settings that were written by hand
    return "install the release that wrote it, or write it again with this one"


def escaped(literal: str) -> str:
    """The template that stands for a text: its braces are no placeholders."""
    return literal.replace("{", "{{").replace("}", "}}")


def placeholders(template: str, name: str) -> set[str]:
    """Names in braces of a template.

    Raises
    ------
    ValueError
        For unbalanced braces.
    """
    try:
        return {found for _, found, _, _ in string.Formatter().parse(template) if found is not None}
    except ValueError as error:
        raise ValueError(f"prompt.{name} is not a template: {error}; write literal braces twice") from error


def from_settings(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """Build a config or a prompt from its settings by name; errors begin with where these were given."""
    refuse_unknown_names(values, [f.name for f in fields(cls)], where)
    if cls is BlockRankConfig and "scoring_layer" not in values:
        raise ValueError(
            f'{where}: scoring_layer is missing, which has no default: add "scoring_layer": N, the number of a layer '
            "(blockrank detect finds one)"
        )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "int | str": (int, str),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "tuple[int, ...] | None": (tuple, type(None)),
    "tuple[float, ...] | None": (tuple, type(None)),
    "PromptTemplate": (PromptTemplate,),
}


def _check_types(config: Any) -> None:
    for item in fields(config):
        value, types = getattr(config, item.name), _TYPES[str(item.type)]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"{item.name} must be {item.type}, got {value!r}")


def _check_ranges(config: BlockRankConfig) -> None:
    for item in fields(config):
        value = getattr(config, item.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number > LARGEST_NUMBER:
                raise ValueError(f"{item.name} must be at most {LARGEST_NUMBER:,}, got {str(number)[:40]}")
    for name in ("scoring_layer", "query_offset", "query_documents_from_layer"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}")
    if config.version != FORMAT_VERSION:
        raise ValueError(f"version must be {FORMAT_VERSION}, the format of this release, got {config.version}")
    signals = config.signal_tokens
    if signals != "all" if isinstance(signals, str) else signals < 1:
        raise ValueError(f'signal_tokens must be a positive number or "all", got {signals!r}')
    if config.abstention and not config.prompt.instruction and not config.prompt.chat:
        raise ValueError(NO_INSTRUCTION)
    if config.content_free_query is not None:
        _check_content_free(config.content_free_query, config)
    if config.long_documents not in LONG_DOCUMENTS:
        raise ValueError(f"long_documents must be one of {LONG_DOCUMENTS}, got {config.long_documents!r}")
    if config.reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {config.reduction!r}")
    if config.heads is not None and (
        not config.heads or any(isinstance(h, bool) or not isinstance(h, int) or h < 0 for h in config.heads)
    ):
        raise ValueError(f"heads must be a list of head numbers, or none at all for all heads, got {config.heads!r}")
    if config.heads is not None and len(set(config.heads)) != len(config.heads):
        raise ValueError(f"heads must not repeat a head, got {config.heads!r}")
    if config.answerability is not None and not _are_four_numbers(config.answerability):
        raise ValueError(f"answerability must be four finite numbers, or none at all, got {config.answerability!r}")
    if config.max_document_tokens is not None and config.max_document_tokens < 1:
        raise ValueError(f"max_document_tokens must be positive, got {config.max_document_tokens}")


def _are_four_numbers(values: tuple[Any, ...]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(values) == len(numbers) == 4 and all(map(math.isfinite, numbers))


def _check_content_free(query: str, config: BlockRankConfig) -> None:
    if not query.strip():
        raise ValueError(f'content_free_query must have text, such as "N/A", got {query!r}; None for no correction')
    if config.reduction != CORRECTED_REDUCTION:
        raise ValueError(
            f"content_free_query needs reduction {CORRECTED_REDUCTION!r}, got {config.reduction!r}: a mean of "
            "log-sum-exps is what it is subtracted from"
        )
    if not config.prompt.query_free:
        raise ValueError(
            "content_free_query needs a prompt whose instruction does not repeat the query, since both queries go over "
            "the same documents: give content_free_query to from_pretrained (--content-free-query), which takes the "
            "query-free prompt, or set prompt=config.prompt.without_query() too"
        )


RELEASED = BlockRankConfig(scoring_layer=20)
"""Preset of the released checkpoint, Mistral-7B-Instruct-v0.3 (arXiv 2510.05396)."""

PRESETS = {RELEASED_MODEL: RELEASED}


def with_scoring_layer(config: BlockRankConfig, scoring_layer: int | None) -> BlockRankConfig:
    """The config with another scoring layer; a trained scoring head stays where it was trained.

    Raises
    ------
    ValueError
        Where the config has a scoring head for another layer.
    """
    if scoring_layer is None or scoring_layer == config.scoring_layer:
        return config
    if config.scoring_head:
        raise ValueError(
            f"scoring_layer must stay {config.scoring_layer}, where this model's scoring head was trained, "
            f"got {scoring_layer}"
        )
    return replace(config, scoring_layer=scoring_layer)


def refuse_unknown_names(names: Iterable[object], known: Iterable[str], where: str) -> None:
    """Refuse settings that do not exist, and name those that were probably meant.

    Raises
    ------
    ValueError
        If a name is none of the known ones.
    """
    known = list(known)
    unknown = sorted(str(name) for name in set(names) - set(known))
    if unknown:
        meant = [close for name in unknown for close in get_close_matches(name, known, n=1)]
        advice = f"did you mean {', '.join(meant)}? " if meant else ""
        raise ValueError(f"{where}: unknown settings {', '.join(unknown)}; {advice}known are {', '.join(known)}")
