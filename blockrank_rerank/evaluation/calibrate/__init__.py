"""Probabilities and thresholds of a model on somebody's own judged lists."""
