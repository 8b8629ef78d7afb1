"""The Triton kernels compile for GPUs that are not here, onto tensor cores and without spilling."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
CHECKED_WITH = ("3.6.", "3.7.", "3.9.")
"""Versions of Triton without a fault in all rows of benchmarks/compile_kernels.py --quick; another one may need other
registers."""

NO_PRODUCT = ("merge_softmax", "merge_sum", "delta", "rms_norm", "rotary", "gated_activation")


def test_kernels_compile_for_both_architectures_without_a_fault():
    command = [sys.executable, ROOT / "benchmarks/compile_kernels.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": ""})
    rows = [line for line in done.stdout.splitlines() if "sm_" in line]
    assert {row.split("sm_")[1][:2] for row in rows} == {"80", "90"}, done.stdout + done.stderr[-2000:]
    products = [row for row in rows if " bf16 " in row and not row.split()[0].endswith(NO_PRODUCT)]
    assert len(products) >= 12
    assert all("mma" in row for row in products), done.stdout
    assert {*NO_PRODUCT} <= {row.split()[0].partition(".")[2] for row in rows}
    if triton.__version__.startswith(CHECKED_WITH):
        assert done.returncode == 0, done.stdout
        assert done.stdout.endswith("0 faults\n")


def test_no_kernel_is_compiled_for_a_number_that_differs_from_list_to_list():
    code = """if True:
        import compile_kernels
        kernels = {variant.kernel for variant in compile_kernels.variants(90, quick=True)}
        numbers = [p for kernel in kernels for p in kernel.params if not (p.is_constexpr or p.do_not_specialize)]
        print(*sorted({p.name for p in numbers}))
    """
    paths = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    tensors = {"Q", "K", "V", "out", "lse", "delta", "grad", "dQ", "dK", "dV", "partial", "partial_lse"}
    tensors |= {"states", "residual", "weight", "total", "cos", "sin"}
    tables = {"items", "merged", "positions", "offsets"}
    sides = [*"qkv", "states", "residual"]
    strides = {f"{side}_{what}" for side in sides for what in ("token", "head")} | {"cos_token", "sin_token"}
    floats = {"scale", "factor", "cap", "eps", "offset"}  # compilers never look at their values
    assert set(done.stdout.split()) == tensors | tables | strides | floats | {"heads"}
