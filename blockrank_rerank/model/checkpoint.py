"""Reading a model truncated after its scoring layer, from a folder or the Hub."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from blockrank_rerank.config import CONFIG_NAME, PRESETS, RELEASED, BlockRankConfig, with_scoring_layer
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
from blockrank_rerank.model.gguf import (
    MOST_WEIGHTS_PER_BYTE,
    check_gguf,
    gguf_config,
    gguf_in,
    is_gguf,
    use_bars_that_can_be_disabled,
    without_quantizer,
)
from blockrank_rerank.model.linear import chunk_feed_forward
from blockrank_rerank.model.names import looks_local, settled_model
from blockrank_rerank.system.files import file_identity


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a model is read from.

    Parameters
    ----------
    model : str
        A local folder, a GGUF file or a Hub id.
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
        if self.is_file:
            return
        if path.exists() and not path.is_dir():
            raise FileNotFoundError(
                f"model folder {given!r} does not exist or is not a folder: it is a file; give the folder that holds "
                "it, or a GGUF file, whose name ends in .gguf"
            )
        if path.suffix.lower() == ".gguf" and not path.exists():
            raise FileNotFoundError(f"model file {given!r} does not exist")
        if (looks_local(self.model) or given.endswith("/")) and not path.is_dir():
            raise FileNotFoundError(f"model folder {given!r} does not exist or is not a folder")

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the token, which does not belong into files, and what was found on this machine."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__} | {"token": None}

    def version(self) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of a local folder's files, which change when the model does."""
        if self.is_file:
            files = [Path(self.model)]
        elif Path(self.model).is_dir():
            files = sorted(Path(self.model).iterdir())
        else:
            return ()
        found = ((path.name, file_identity(path)) for path in files)  # a link may lead nowhere, and an editor's does
        base = () if self.adapter is None else self.base.version()
        return (*((name, file.nbytes, file.modified_ns) for name, file in found if file is not None), *base)

    @property
    def is_file(self) -> bool:
        """Whether it is a GGUF file, and nothing beside it belongs to it."""
        return is_gguf(Path(self.model))

    @property
    def gguf(self) -> Path | None:
        """The GGUF file that config and weights are read from, where they are in one; Hub ids never are."""
        if self.is_file:
            return Path(self.model)
        return gguf_in(Path(self.model)) if Path(self.model).is_dir() else None

    @contextlib.contextmanager
    def _source(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The folder that a Transformers loader is given, and what names a GGUF file to it, checked."""
        if (path := self.gguf) is None:
            yield str(self.folder), {}
            return
        check_gguf(path)
        # Loaders look for a tokenizer and an adapter beside a file, where another model's may lie.
        with TemporaryDirectory() as empty:
            yield empty if self.is_file else str(self.folder), {"gguf_file": str(path)}

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
        local = Path(self.model).parent if self.is_file else Path(self.model)
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
        if self.is_file:
            return None
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
        if self.is_file:
            return None
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
        with readable(base.model, "the files"):
            path = base.gguf
        with readable(base.model, foreign.MODEL_CONFIG if path is None else "the settings"):
            if path is not None:
                config = gguf_config(path)
                foreign.check_settings(config.to_dict(), ENCODERS | DECODERS)
            else:
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

        source = self if self.is_file or foreign.has_tokenizer(self.folder) else self.base
        with readable(source.model, "the tokenizer"), source._source() as (folder, in_gguf):
            # A folder's own may have what a GGUF file has lost of it.
            if not source.is_file and (foreign.has_tokenizer(source.folder) or not in_gguf):
                foreign.check_tokenizer(source.folder)
                in_gguf = {}
            tokenizer = AutoTokenizer.from_pretrained(folder, **self.options, **in_gguf)
        # Where its files are missing Transformers makes an empty one, to which every word is unknown.
        if 2 * len(tokenizer) < vocabulary:
            raise ValueError(
                f"model {self.model!r} has a tokenizer of {len(tokenizer)} tokens and embeddings of {vocabulary}: "
                f"{foreign.NO_TOKENIZER}"
            )
        return tokenizer

    def own_config(self) -> BlockRankConfig | None:
        """The settings that come with the model, or with the released one's name."""
        path = self.file(CONFIG_NAME)
        return BlockRankConfig.load(path) if path else PRESETS.get(self.base.model)

    def blockrank_config(self, model_config: Any, scoring_layer: int | None, decodes: bool = False) -> BlockRankConfig:
        """The model's own settings, or the released prompt for a decoder that has none.

        What ``decodes`` reads no scoring layer, and nothing is said of it.

        Raises
        ------
        ValueError
            For an encoder without ``blockrank_config.json``.
        """
        config = self.own_config()
        if config is None and model_config.model_type in ENCODERS:
            raise ValueError(
                f"model {self.model!r} is an encoder without {CONFIG_NAME}; pass config=BlockRankConfig(...) if it has "
                "one elsewhere, or give it a scoring layer with: "
                f"blockrank-finetune init {shlex.quote(self.model)} {_new_folder(self.model)} "
                "(that folder ranks at once, and better after blockrank-finetune train)"
            )
        if config is None and scoring_layer is None:
            scoring_layer = round(RELEASED_DEPTH * model_config.num_hidden_layers)
            depth = f"scoring_layer={scoring_layer} of {model_config.num_hidden_layers}, the relative depth of"
            what = "the prompt of" if decodes else depth
            rest = "" if decodes else ", and its prompt"
            warnings.warn(
                f"model {self.model!r} has no {CONFIG_NAME}: using {what} the released checkpoint{rest}", stacklevel=2
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

        base, own = self.base, {"attn_implementation": attention, **loading_options(model_config)}
        with readable(base.model, "the weights"), quiet(), base._source() as (folder, in_gguf), torch.device("cpu"):
            if in_gguf:
                use_bars_that_can_be_disabled()
            # Names of fused projections are found in a GGUF file for a whole language model alone.
            loader = AutoModelForCausalLM if language_model or in_gguf else AutoModel
            stored = base._weights()
            with torch.device("meta"):
                shell = loader.from_config(truncate(model_config, layers), **own)
            most = MOST_WEIGHTS_PER_BYTE if in_gguf else foreign.MOST_WEIGHTS_PER_BYTE
            foreign.check_size(sum(weight.numel() for weight in shell.parameters()), stored, most)
            model, report = loader.from_pretrained(
                folder,
                config=truncate(model_config, layers),
                dtype=dtype,
                output_loading_info=True,
                **self.options,
                **own,
                **in_gguf,
            )
        if in_gguf:
            without_quantizer(model)
            model = model if language_model else model.base_model
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(
                f"model {base.model!r} is incomplete: {len(missing)} weights are missing, the first is {missing[0]}"
            )
        foreign.warn_of_unread(base.model, report["unexpected_keys"], layers)
        frozen: nn.Module = model.eval().requires_grad_(False)
        if (adapter := self.adapter) is not None:
            with readable(self.model, "the adapter"):
                adapter.merge_into(frozen, layers)
        chunk_feed_forward(model.base_model)
        return frozen

    def _weights(self) -> int:
        """Fetch the files of the weights, and refuse those that are not there; their bytes."""
        if (path := self.gguf) is not None:
            return check_gguf(path)
        listed = foreign.listed_weights(self.folder)
        for names in [listed] if listed else [[whole] for whole in foreign.WHOLE_WEIGHTS]:
            self._complete(names)
            if found := foreign.listed_weights(self.folder):
                return foreign.check_weights(self.folder, found)
        return foreign.check_weights(self.folder, [])


def _new_folder(model: str) -> str:
    """A name for what is made of a model, as a shell takes it."""
    return shlex.quote(f"{Path(model).name or 'encoder'}-reranker")


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
        if not Path(model).exists():
            first = f"{first.rstrip('.')}. There is no folder of that name either."
        raise FileNotFoundError(f"cannot read {part} of model {model!r}: {first}") from error
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
