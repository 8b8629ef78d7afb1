from blockrank_kernels.document_scores.api import document_scores

__all__ = ["document_scores"]
