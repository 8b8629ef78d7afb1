from tests.kernels.conftest import poison_uninitialised_memory  # noqa: F401 - a fixture for every test
