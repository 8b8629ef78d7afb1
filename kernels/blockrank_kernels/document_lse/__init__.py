"""Log-sum-exps of the attention logits that signal tokens give to documents."""

from blockrank_kernels.document_lse.api import document_lse

__all__ = ["document_lse"]
