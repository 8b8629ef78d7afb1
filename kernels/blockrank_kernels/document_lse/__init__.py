from blockrank_kernels.document_lse.api import document_lse

__all__ = ["document_lse"]
