"""Training data: reading, checking, mining negatives, drawing lists."""

from blockrank_rerank.finetune.data.embeddings import Encode, sentence_transformer
from blockrank_rerank.finetune.data.example import Candidate, TrainingExample, document_pool
from blockrank_rerank.finetune.data.list_sampler import ListSampler
from blockrank_rerank.finetune.data.mining import mine_negatives
from blockrank_rerank.finetune.data.mining_report import Mining, MiningReport
from blockrank_rerank.finetune.data.mixture_sampler import Draw, MixtureSampler
from blockrank_rerank.finetune.data.reader import read_examples
from blockrank_rerank.finetune.data.report import DataReport
from blockrank_rerank.finetune.data.teacher import is_false_negative
from blockrank_rerank.finetune.data.validation import validate
from blockrank_rerank.finetune.data.writer import write_examples

__all__ = [
    "Candidate",
    "DataReport",
    "Draw",
    "Encode",
    "ListSampler",
    "Mining",
    "MiningReport",
    "MixtureSampler",
    "TrainingExample",
    "document_pool",
    "is_false_negative",
    "mine_negatives",
    "read_examples",
    "sentence_transformer",
    "validate",
    "write_examples",
]
