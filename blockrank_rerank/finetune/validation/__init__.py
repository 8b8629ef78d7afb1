"""Training data is checked here: every fault is found, and what there is is counted."""

from blockrank_rerank.finetune.validation.report import DataReport
from blockrank_rerank.finetune.validation.statistics import Spread, Statistics
from blockrank_rerank.finetune.validation.validation import validate

__all__ = ["DataReport", "Spread", "Statistics", "validate"]
