"""Read training data, write it, and draw lists from it."""

from blockrank_rerank.finetune.data.example import Candidate, TrainingExample, document_pool
from blockrank_rerank.finetune.data.list_sampler import ListSampler
from blockrank_rerank.finetune.data.mixture_sampler import Draw, MixtureSampler
from blockrank_rerank.finetune.data.reader import read_examples
from blockrank_rerank.finetune.data.writer import write_examples

__all__ = [
    "Candidate",
    "Draw",
    "ListSampler",
    "MixtureSampler",
    "TrainingExample",
    "document_pool",
    "read_examples",
    "write_examples",
]
