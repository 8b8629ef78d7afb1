"""Fixtures of the tests on a GPU."""

from tests.kernels.conftest import poison_uninitialised_memory  # noqa: F401 - a fixture for every test
