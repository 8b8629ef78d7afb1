"""Finds the layer and the heads whose attention ranks best, from a few judged queries."""
