"""Reading a model truncated after its scoring layer, from a folder or the Hub."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blockrank_rerank.config import CONFIG_NAME, PRESETS, RELEASED, BlockRankConfig
from blockrank_rerank.model import foreign_files as foreign
from blockrank_rerank.model.adapter import LoraAdapter
from blockrank_rerank.model.families import (
    DECODERS,
    ENCODERS,
    MODERNBERT_SINCE,
    RELEASED_DEPTH,
    loading_options,
    truncate,
)
from blockrank_rerank.model.linear import chunk_feed_forward
from blockrank_rerank.system.files import UserPath, absolute, path_text


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a model is read from.

    Parameters
    ----------
    model : str
        A local folder or a Hub id.
    revision : str, optional
        Branch, tag or commit on the Hub.
    local_files_only : bool
        Never use the network.
    trust_remote_code : bool
        Whether code from the repository may run.
    token : str, optional
        For private and gated models; the environment's ``HF_TOKEN`` if not given. Neither shown nor pickled, and
        two checkpoints that differ in it are equal: it says who reads, not what.
    """

    model: str
    revision: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    token: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a path that is not there before anything is asked of the Hub."""
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a folder or a Hub id, got {self.model!r}")
        given = self.model
        object.__setattr__(self, "model", settled_model(given))
        path = Path(self.model)
        if path.exists() and not path.is_dir():
            advice = foreign.file_instead_of_folder(path)
            raise FileNotFoundError(f"model folder {given!r} does not exist or is not a folder: {advice}")
        if (looks_local(self.model) or given.endswith("/")) and not path.is_dir():
            raise FileNotFoundError(f"model folder {given!r} does not exist or is not a folder")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the token, which does not belong into files, and what was found on this machine."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__} | {"token": None}

    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of a local folder's files, which change when the model does."""
        if not Path(self.model).is_dir():
            return ()
        stats = ((path.name, path.stat()) for path in sorted(Path(self.model).iterdir()))
        base = () if self.adapter is None else self.base.version()
        return (*((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats), *base)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments that every Transformers loader takes."""
        return {
            "revision": self.revision,
            "local_files_only": self.local_files_only,
            "trust_remote_code": self.trust_remote_code,
            "token": self.token,
        }

    @property
    def folder(self) -> Path:
        """Where its files lie: a local folder as it is, or the part of the Hub's cache that was fetched for it.

        Every reader is given a folder, because only then no library asks the Hub for anything.

        Raises
        ------
        FileNotFoundError, ValueError
            For what is neither there nor on the Hub.
        """
        local = Path(self.model)
        if looks_local(self.model) and not local.is_dir():
            raise FileNotFoundError("the folder is not there any more")
        return local if local.is_dir() else self._snapshot

    @cached_property
    def _snapshot(self) -> Path:
        code = ["*.py"] if self.trust_remote_code else []
        return self._fetched([*foreign.SMALL_FILES, CONFIG_NAME, *code], self.revision)

    def _complete(self, names: Sequence[str]) -> None:
        """Fetch those of these files that are not in the folder; a local one has no others than it has."""
        if not Path(self.model).is_dir() and not all((self.folder / name).is_file() for name in names):
            self._fetched(names, self.folder.name)

    def _fetched(self, names: Sequence[str], revision: str | None) -> Path:
        from blockrank_rerank.model.hub import fetch

        return fetch(self.model, names, revision, local_files_only=self.local_files_only, token=self.token)

    @property
    def adapter(self) -> LoraAdapter | None:
        """The adapter that this is, if it is one and no model of its own."""
        with readable(self.model, "the files"):
            folder = self.folder
        with readable(self.model, "the adapter"):
            return LoraAdapter.of(folder)

    @property
    def base(self) -> Checkpoint:
        """Where config and layers are read from: the model itself, or what an adapter was trained on.

        A folder that names a model of the Hub finds it in the local cache only: no folder makes us use the network.

        Raises
        ------
        FileNotFoundError, ValueError
            For a base that is not there, or is an adapter itself.
        """
        adapter = self.adapter
        if adapter is None:
            return self
        with readable(self.model, "the adapter"):
            name, revision = adapter.base
        with readable(self.model, f"the base {name!r} of the adapter"):
            local = self.local_files_only or Path(self.model).is_dir()
            base = replace(self, model=name, revision=revision, local_files_only=local)
            if LoraAdapter.of(base.folder) is not None:
                raise ValueError("it is an adapter too: merge it into its own base first")
        return base

    def file(self, name: str) -> Path | None:
        """Local path of one file of the model, or nothing where the model has no such file; an adapter's base may."""
        largest = foreign.LARGEST_JSON if name.endswith(".json") else foreign.LARGEST_WEIGHTS
        for source in (self,) if self.adapter is None else (self, self.base):
            with readable(source.model, name):
                source._complete([name])
                if (source.folder / name).is_file():
                    return foreign.check_file(source.folder / name, largest)
        return None

    def model_config(self) -> Any:
        """The Transformers config, of a supported architecture."""
        import transformers
        from transformers import AutoConfig

        base = self.base
        with readable(base.model, foreign.MODEL_CONFIG):
            foreign.check_model_config(base.folder, ENCODERS | DECODERS)
            config = AutoConfig.from_pretrained(str(base.folder), **self.options)
        release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        if config.model_type == "modernbert" and release < MODERNBERT_SINCE:
            raise ValueError(
                f"model {self.model!r} has architecture 'modernbert', which needs transformers "
                f"{'.'.join(map(str, MODERNBERT_SINCE))} or newer, got {transformers.__version__}: "
                "pip install -U transformers"
            )
        return config

    def tokenizer(self, vocabulary: int) -> Any:
        """The tokenizer of a model with so many embeddings.

        Raises
        ------
        ValueError
            Where it cannot be read, or is not this model's.
        """
        from transformers import AutoTokenizer

        source = self if foreign.has_tokenizer(self.folder) else self.base
        with readable(source.model, "the tokenizer"):
            foreign.check_tokenizer(source.folder)
            tokenizer = AutoTokenizer.from_pretrained(str(source.folder), **self.options)
        # Where its files are missing Transformers makes an empty one, to which every word is unknown.
        if 2 * len(tokenizer) < vocabulary:
            raise ValueError(
                f"model {self.model!r} has a tokenizer of {len(tokenizer)} tokens and embeddings of {vocabulary}: "
                f"{foreign.NO_TOKENIZER}"
            )
        return tokenizer

    def blockrank_config(self, model_config: Any, scoring_layer: int | None) -> BlockRankConfig:
        """The model's own settings, or the released prompt for a decoder that has none.

        Raises
        ------
        ValueError
            For an encoder without ``blockrank_config.json``.
        """
        path = self.file(CONFIG_NAME)
        config = BlockRankConfig.load(path) if path else PRESETS.get(self.base.model)
        if config is None and model_config.model_type in ENCODERS:
            raise ValueError(
                f"model {self.model!r} is an encoder without {CONFIG_NAME}; pass config=BlockRankConfig(...) if it has "
                "one elsewhere, or give it a scoring layer with: "
                f"blockrank-finetune init {shlex.quote(self.model)} {_new_folder(self.model)} "
                "(that folder ranks at once, and better after blockrank-finetune train)"
            )
        if config is None and scoring_layer is None:
            scoring_layer = round(RELEASED_DEPTH * model_config.num_hidden_layers)
            warnings.warn(
                f"model {self.model!r} has no {CONFIG_NAME}: using scoring_layer={scoring_layer} of "
                f"{model_config.num_hidden_layers}, the relative depth of the released checkpoint, and its prompt",
                stacklevel=2,
            )
        return with_scoring_layer(config or RELEASED, scoring_layer)

    def truncated_model(
        self,
        model_config: Any,
        layers: int,
        dtype: torch.dtype | str,
        attention: str,
        *,
        language_model: bool = False,
    ) -> nn.Module:
        """The model with its first ``layers`` layers; later ones are never allocated.

        Without ``language_model`` neither is the LM head: only the base model is read.

        Raises
        ------
        ValueError
            For missing, damaged or ill-fitting weights.
        """
        from transformers import AutoModel, AutoModelForCausalLM

        loader = AutoModelForCausalLM if language_model else AutoModel
        base, own = self.base, {"attn_implementation": attention, **loading_options(model_config)}
        with readable(base.model, "the weights"), quiet():
            stored = base._weights()
            with torch.device("meta"):
                shell = loader.from_config(truncate(model_config, layers), **own)
            foreign.check_size(sum(weight.numel() for weight in shell.parameters()), stored)
            model, report = loader.from_pretrained(
                str(base.folder),
                config=truncate(model_config, layers),
                dtype=dtype,
                output_loading_info=True,
                **self.options,
                **own,
            )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"model {base.model!r} is incomplete: {len(missing)} weights are missing, the first is {missing[0]}"
            )
        frozen: nn.Module = model.eval().requires_grad_(False)
        if (adapter := self.adapter) is not None:
            with readable(self.model, "the adapter"):
                adapter.merge_into(frozen, layers)
        chunk_feed_forward(model.base_model)
        return frozen

    def _weights(self) -> int:
        """Fetch the files of the weights, and refuse those that are not there; their bytes."""
        listed = foreign.listed_weights(self.folder)
        for names in [listed] if listed else [[whole] for whole in foreign.WHOLE_WEIGHTS]:
            self._complete(names)
            if found := foreign.listed_weights(self.folder):
                return foreign.check_weights(self.folder, found)
        return foreign.check_weights(self.folder, [])


def looks_local(model: str) -> bool:
    """Whether a model's name can only be a folder's."""
    return Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1


def _new_folder(model: str) -> str:
    """A name for what is made of a model, as a shell takes it."""
    return shlex.quote(f"{Path(model).name or 'encoder'}-reranker")


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


@contextlib.contextmanager
def readable(model: str, part: str) -> Iterator[None]:
    """Turn the many ways in which reading a model fails into one line that names model and part."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not isinstance(error, OSError):
            raise ValueError(f"cannot read {part} of model {model!r}: {first}") from error
        # A mistyped folder looks like a Hub id, and the Hub's error says nothing about folders.
        nowhere = "" if Path(model).exists() else " There is no folder of that name either."
        raise FileNotFoundError(f"cannot read {part} of model {model!r}: {first}{nowhere}") from error
    except Exception as error:
        # safetensors and tokenizers raise bare Exception subclasses for damaged files.
        raise ValueError(f"cannot read {part} of model {model!r}: {error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Transformers: truncation leaves weights unused by design, and it would report every one."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


DEFAULT_MODEL = "default"
"""The model that ships inside the package."""


_DEFAULT_FOLDER = Path(__file__).parents[1] / "default_model"


def model_name(model: Any) -> Any:
    """A name that stays the same wherever the process goes: ``default``, a Hub id, or the absolute path of a folder.

    A folder named ``default`` is not the model in the package, so it is given as a path. What is neither text nor
    path is returned as it is.
    """
    text = path_text(model)
    if model == DEFAULT_MODEL or not isinstance(text, str) or not text:
        return text
    text = f"./{text}" if text == DEFAULT_MODEL else text
    missing = text.startswith(".") and not Path(text).is_dir()
    return text if missing else settled_model(text)  # what is missing is refused as it was given


def settled_model(model: str) -> str:
    """The absolute path of a model's folder, and a Hub id as it is: one of whose name there is no folder.

    Raises
    ------
    ValueError
        For the home folder of a user that there is not.
    """
    is_folder = model.startswith(("~", ".")) or Path(model).is_dir()
    return str(absolute(model, "model")) if is_folder else model


def shown_model(folder: str) -> str:
    """The model name that stands for a folder or Hub id."""
    return DEFAULT_MODEL if folder == str(_DEFAULT_FOLDER) else folder


def model_folder(model: UserPath) -> str:
    """The folder or Hub id that a model name stands for."""
    return str(_DEFAULT_FOLDER) if model == DEFAULT_MODEL else str(model_name(model))
