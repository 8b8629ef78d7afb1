"""Tests of the kernels, on a CPU."""
