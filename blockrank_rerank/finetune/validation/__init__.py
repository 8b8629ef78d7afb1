"""Check training data: find every fault, and count what there is."""

from blockrank_rerank.finetune.validation.report import DataReport
from blockrank_rerank.finetune.validation.statistics import Spread, Statistics
from blockrank_rerank.finetune.validation.validation import validate

__all__ = ["DataReport", "Spread", "Statistics", "validate"]
