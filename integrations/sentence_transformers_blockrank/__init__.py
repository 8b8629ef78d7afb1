"""BlockRank for sentence-transformers: what its ``CrossEncoder`` finds named in the folder of a model."""

from sentence_transformers_blockrank.module import RawScores

__all__ = ["RawScores"]
