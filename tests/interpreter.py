from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch


def import_triton() -> ModuleType:
    """Triton where its kernels can run, on a GPU or interpreted; skips the test or the module elsewhere."""
    triton = pytest.importorskip("triton")
    if not torch.cuda.is_available() and triton.__version__.startswith("3.6.") and np.__version__ >= "2.4":
        pytest.skip("the interpreter of Triton 3.6 does not run on NumPy 2.4", allow_module_level=True)
    return triton
