from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StrictInt
from typing_extensions import Self

from blockrank_rerank import BlockRankReranker
from blockrank_rerank.model.checkpoint import DEFAULT_MODEL, model_name

PathText = Annotated[str, BeforeValidator(model_name)]
"""A folder as text, which settings are saved as; given as a path too."""


class ModelOptions(BaseModel):
    """Which model ranks, and how; classes with the same options share one loaded model."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, protected_namespaces=(), validate_assignment=True
    )

    # The model's settings are frozen: the engine is described once, and would ignore a later change.
    model: PathText = Field(
        default=DEFAULT_MODEL, frozen=True, description="Folder, Hub id, or 'default' for the model in the package."
    )
    max_document_tokens: int | None = Field(
        default=None, frozen=True, description="Longest document; longer ones are split."
    )
    long_documents: Literal["split", "truncate", "error"] | None = Field(
        default=None, frozen=True, description="What becomes of longer ones; the model's setting if not given."
    )
    cache: str | StrictInt | None = Field(
        default=None, frozen=True, description='Bytes of documents\' states to keep, such as "500MB".'
    )
    cache_device: str | None = Field(
        default=None, frozen=True, description="Where the cache lies: with the model, if not given."
    )
    store: PathText | None = Field(default=None, frozen=True, description="Folder that `blockrank prepare` has made.")
    max_memory: str | StrictInt | None = Field(
        default=None, frozen=True, description='About the most bytes that a ranking may take, such as "1GB".'
    )
    device: str | None = Field(default=None, frozen=True, description="CUDA where there is one, if not given.")
    dtype: str | None = Field(
        default=None, frozen=True, description="The faster of float32 and bfloat16, if not given."
    )
    quantization: Literal["float8"] | None = Field(
        default=None, frozen=True, description="Compute linear layers in 8 bits, on a GPU that can."
    )
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit on the Hub.")
    local_files_only: bool = Field(default=False, frozen=True, description="Never use the network.")
    trust_remote_code: bool = Field(
        default=False, frozen=True, description="Run Python code that comes with the model."
    )

    _reranker: BlockRankReranker = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Describe the engine; it loads with the first list."""
        super().model_post_init(context)
        self._reranker = BlockRankReranker.from_pretrained(
            self.model,
            max_document_tokens=self.max_document_tokens,
            long_documents=self.long_documents,
            cache=self.cache,
            cache_device=self.cache_device,
            store=self.store,
            max_memory=self.max_memory,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            revision=self.revision,
            local_files_only=self.local_files_only,
            trust_remote_code=self.trust_remote_code,
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some settings changed, whose engine has them too."""
        copied = super().model_copy(update=update, deep=deep)
        if any(field.frozen and name in (update or {}) for name, field in type(self).model_fields.items()):
            copied.model_post_init(None)
        return copied
