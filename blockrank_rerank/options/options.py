"""Every option of a reranker, declared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import blockrank_rerank.options.learnt_files as learnt_files
import blockrank_rerank.options.values as values
from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.options.declaration import Option, Owner, option
from blockrank_rerank.system.files import UserPath

if TYPE_CHECKING:
    import torch

    from blockrank_rerank.engine.spec import EngineSpec
    from blockrank_rerank.engine.state_lookup import StateLookup


# Not frozen: type checkers would demand it of every class of a framework that has the options as fields.
@dataclass
class Options:
    """Which model ranks, and how: what :meth:`BlockRankReranker.from_pretrained` takes.

    Raises
    ------
    ValueError
        For options that exclude each other. What is wrong with a single one is raised where it is used.
    """

    model: UserPath = option(
        "default",
        str,
        "A folder with a Transformers model, a Hub id, or ``default`` for the model in the package.",
        owner="checkpoint",
        plain=values.plain_model,
        check=values.check_model,
        metavar="FOLDER|ID",
    )
    _: KW_ONLY
    config: BlockRankConfig | Mapping[str, Any] | UserPath | None = option(
        None,
        dict[str, Any],
        """Settings that take the place of the model's own ``blockrank_config.json``: the path of such a file.

        Also a :class:`BlockRankConfig`, or a mapping of its settings.""",
        plain=values.plain_config,
        check=values.check_config,
        word_type=Path,
        metavar="FILE",
    )
    scoring_layer: int | None = option(
        None,
        int,
        "0-based layer whose attention is the score, instead of the config's.",
        check=partial(values.check_number, "scoring_layer", None),
    )
    method: str = option(
        "attention",
        Literal["attention", "decode"],
        """What ranks: the ``attention`` of the scoring layer, or with ``decode`` how likely each document's id is as
        the answer of a language model.

        ``decode`` reads all layers and the LM head. ``raw_score`` is then a log-probability. It needs a prompt that
        numbers the documents, so that nothing can be prepared, kept or pruned.""",
        check=values.check_method,
    )
    content_free_query: str | None = option(
        None,
        str,
        """Correct the score by what a query that asks nothing sees (``N/A`` is the usual one), instead of the config's;
        takes the query-free prompt. For models that nobody trained to rank.

        Per head, its mean log-sum-exp is subtracted; so it takes the reduction ``softmax_of_mean`` too. It goes
        through in the same pass and costs its own tokens alone. A trained scoring layer, as the default model has,
        needs no correction and refuses it.""",
        check=values.check_content_free_query,
        metavar="TEXT",
    )
    max_document_tokens: int | None = option(
        None,
        int,
        "Longest document in tokens, instead of the config's; see ``long_documents``.",
        check=partial(values.check_number, "max_document_tokens", 1),
    )
    long_documents: str | None = option(
        None,
        Literal["split", "truncate", "error"],
        """What becomes of longer documents, instead of what the config says: ``split`` them into passages of which
        the best one counts, ``truncate`` and mark them, or ``error``.""",
        check=values.check_long_documents,
    )
    long_queries: str = option(
        "error",
        Literal["error", "truncate"],
        """What becomes of queries that are longer than the model reads: ``error``, before anything is ranked, or
        ``truncate``, which reads their beginning and warns once.""",
        check=values.check_long_queries,
    )
    device: str | torch.device | None = option(
        None,
        str,
        "``cpu``, ``cuda``, ``cuda:1``, …; CUDA where there is one, else the CPU, if not given.",
        plain=values.plain_torch,
        check=values.check_device,
    )
    dtype: str | torch.dtype | None = option(
        None,
        str,
        """``float32``, ``bfloat16`` or ``float16``; bf16 where the device is faster with it, else fp32, if not given.
        Scores are fp32 always.""",
        plain=values.plain_torch,
        check=values.check_dtype,
    )
    attention: str = option(
        "auto",
        str,
        """``auto`` (Triton on a GPU that it fits, torch elsewhere), ``triton``, ``sdpa`` or ``reference``;
        ``blockrank doctor`` lists those usable here.""",
        check=values.check_attention,
    )
    quantization: str | None = option(
        None,
        Literal["int8"],
        """``int8``: compute an encoder's linear layers in 8-bit integers, on a CPU. Nothing by default.

        It takes the extra ``openvino``. Scores change by what is rounded.""",
        check=values.check_quantization,
    )
    cache: str | int | None = option(
        None,
        str | int,
        """Keep the states of documents that were ranked, up to this many bytes (``2GB``), so that a document is read
        once and not once for every query.

        Scores stay the same to rounding. For models whose prompt is query-free, as the default model's is; see
        :meth:`BlockRankReranker.query_free`.""",
        owner="ranker",
        check=partial(values.check_bytes, "cache"),
        metavar="BYTES",
    )
    cache_device: str | torch.device | None = option(
        None,
        str,
        """Where the cache lies: with the model, if not given. ``cpu`` saves a GPU's memory; what a query reads is then
        copied to the GPU for it.""",
        owner="ranker",
        plain=values.plain_torch,
        check=values.check_cache_device,
    )
    store: UserPath | None = option(
        None,
        Path,
        """Folder of documents that ``blockrank prepare`` has read for this model; those found there are not read
        again.

        :meth:`BlockRankReranker.prepare_store` makes such a folder too.""",
        owner="ranker",
        plain=partial(values.plain_path, "store"),
        check=values.check_folder,
        metavar="FOLDER",
    )
    tuning: UserPath | Mapping[str, UserPath] | None = option(
        None,
        str | dict[str, str],
        """File of ``blockrank-finetune tune`` with which every query reads; or several by name (command line:
        ``NAME=FILE``), of which a request chooses one.

        ``{"legal": FILE}`` is for ``rank(…, tuning="legal")``. States of documents do not depend on it, so that one
        cache and one store serve all of them.""",
        owner="ranker",
        plain=learnt_files.plain_tuning,
        check=learnt_files.check_tuning,
        word_type=list[str],
        metavar="[NAME=]FILE",
        parse=learnt_files.parse_tuning,
    )
    calibration: UserPath | None = option(
        None,
        Path,
        """File of ``blockrank calibrate``: probabilities come of raw scores by its map, and documents below its
        threshold are left out where ``min_probability`` is not given.

        It is bound to the model, the settings of its queries and the tuning it was made with.""",
        owner="ranker",
        plain=partial(values.plain_path, "calibration"),
        check=learnt_files.check_calibration,
        metavar="FILE",
    )
    prune: Mapping[int, int] | None = option(
        None,
        dict[int, int],
        """``{2: 50}`` (command line: ``2:50``): score documents after 2 layers first, and read only the best 50 of
        them to the end. Later layers may keep fewer still. Nothing by default.

        Scores are those of a list of 50. Documents whose states are kept cost nothing to be read: they are not pruned,
        and do not count.""",
        plain=values.plain_prune,
        check=values.check_prune,
        word_type=list[str],
        metavar="LAYER:COUNT",
        parse=values.parse_prune,
    )
    max_memory: str | int | None = option(
        None,
        str | int,
        """About the most bytes (``2GB``) that a ranking may take beside the model's weights, however long the list.

        Fewer tokens go through at a time, and what a decoder's query reads of more documents than that waits in
        temporary files (``TMPDIR``), of which one at a time is read. What a cache may hold and states that
        :meth:`BlockRankReranker.prepare` has made come on top. Scores stay the same to rounding.""",
        check=partial(values.check_bytes, "max_memory"),
        metavar="BYTES",
        parse=values.parse_memory,
    )
    revision: str | None = option(
        None,
        str,
        "Branch, tag or commit on the Hub.",
        owner="checkpoint",
        check=partial(values.check_text, "revision"),
    )
    local_files_only: bool = option(
        False,
        bool,
        "Never use the network.",
        owner="checkpoint",
        check=partial(values.check_switch, "local_files_only"),
    )
    trust_remote_code: bool = option(
        False,
        bool,
        "Run Python code that comes with the model.",
        owner="checkpoint",
        check=partial(values.check_switch, "trust_remote_code"),
    )
    token: str | None = option(
        None,
        str,
        """Of the Hub, for private and gated models; the environment's ``HF_TOKEN`` if not given.

        It is neither shown nor saved. A model that is loaded already is shared, whatever token loaded it.""",
        owner="checkpoint",
        check=partial(values.check_text, "token"),
        secret=True,
    )

    def __post_init__(self) -> None:
        """Refuse options that exclude each other."""
        if self.method == "decode":
            self._refuse_beside_decoding()
        if self.prune and self.quantization == "int8":
            raise ValueError("prune cannot go together with quantization int8, which computes all layers at one time")
        if self.attention != "auto" and self.quantization == "int8":
            raise ValueError(
                f"attention {self.attention} cannot go together with quantization int8, which computes all layers by "
                "OpenVINO; leave attention auto"
            )
        if self.calibration is not None and isinstance(self.tuning, Mapping):
            raise ValueError(
                "calibration is of one way in which queries read, and cannot go together with several tunings by name; "
                "give one tuning as a FILE, with a calibration that was made with it"
            )
        if self.cache_device is not None and self.cache is None:
            raise ValueError(
                f'cache_device is where a cache lies, got {self.cache_device!r} without one; pass cache="2GB"'
            )

    def _refuse_beside_decoding(self) -> None:
        """Refuse what belongs to the attention of a scoring layer, or to documents without a place in a list."""
        reasons = dict.fromkeys(
            ("store", "cache", "tuning", "prune"), "states and scores depend on a document's number"
        )
        reasons |= dict.fromkeys(("scoring_layer", "content_free_query"), "all layers are read and none is a score")
        reasons["quantization"] = "8 bits are for encoders"
        for name, reason in reasons.items():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} cannot go together with method decode, which ranks by the id that a language model would "
                    f'answer: {reason}; leave {name} out, or use method="attention"'
                )

    def checked(self, owner: Owner) -> dict[str, Any]:
        """Name and value of the options of an owner, as it works with them.

        Raises
        ------
        FileNotFoundError, ValueError
            For values that cannot be used.
        """
        declared = [declaration for declaration in OPTIONS.values() if declaration.owner == owner]
        return {declaration.name: declaration.check(getattr(self, declaration.name)) for declaration in declared}

    def engine_spec(self) -> EngineSpec:
        """What the engine is loaded from.

        Raises
        ------
        FileNotFoundError, ValueError
            As :meth:`checked`.
        """
        from blockrank_rerank.engine.spec import EngineSpec
        from blockrank_rerank.model.checkpoint import Checkpoint

        return EngineSpec(Checkpoint(**self.checked("checkpoint")), tuple(self.checked("engine").items()))

    def state_lookup(self) -> StateLookup | None:
        """Where the states of documents are kept; nothing without cache and store.

        Raises
        ------
        ValueError
            As :meth:`checked`.
        """
        from blockrank_rerank.engine.state_lookup import StateLookup
        from blockrank_rerank.states.cache import StateCache

        options = self.checked("ranker")
        if options["cache"] is None and options["store"] is None:
            return None
        cache = None if options["cache"] is None else StateCache(options["cache"])
        return StateLookup(cache, options["store"], options["cache_device"])


OPTIONS: Mapping[str, Option] = {
    declared.name: Option(
        name=declared.name, annotation=str(declared.type), default=declared.default, **declared.metadata
    )
    for declared in fields(Options)
}
"""The declarations by name, in the order of help pages."""


def check_stand_alone(config: BlockRankConfig, model: str) -> None:
    """Refuse to keep the states of documents that depend on the query.

    Raises
    ------
    ValueError
        For a prompt that is not query-free, naming the model.
    """
    if not config.prompt.documents_stand_alone:
        raise ValueError(
            f"cache and store need documents that do not depend on the query, and {model} repeats it in "
            "its instruction or numbers its documents; pass "
            "config=BlockRankReranker.from_pretrained(model).query_free().config (--query-free), or save that config "
            "into a local folder of the model"
        )
