"""Every option of a reranker, declared once: signatures, command line, adapters and engines derive from it."""

from blockrank_rerank.options.declaration import Option
from blockrank_rerank.options.options import OPTIONS, Options, check_stand_alone
from blockrank_rerank.options.signature import typed_as, with_options

__all__ = ["OPTIONS", "Option", "Options", "check_stand_alone", "typed_as", "with_options"]
