"""Find hard negatives, and let a teacher leave out those that may well be relevant."""

from blockrank_rerank.finetune.mining.embeddings import Encode, sentence_transformer
from blockrank_rerank.finetune.mining.mining import mine_negatives
from blockrank_rerank.finetune.mining.report import Mining, MiningReport
from blockrank_rerank.finetune.mining.teacher import is_false_negative

__all__ = ["Encode", "Mining", "MiningReport", "is_false_negative", "mine_negatives", "sentence_transformer"]
