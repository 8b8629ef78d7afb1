"""Arithmetic that the Triton kernels of both operations share."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

LOG2_E = tl.constexpr(1.4426950408889634)
"""Makes a natural logit one for ``exp2``, which GPUs have in hardware."""

LN_2 = tl.constexpr(0.6931471805599453)
"""Makes a binary logarithm a natural one."""


@triton.jit
def dot(a, b):
    """Multiply matrices in fp32, without TF32: a score must not depend on the GPU's age.

    In fp32 the bound on imprecise sums keeps the compiler from adding the product to an accumulator term by term:
    over 5,000 tokens such a chain loses several times what a sum of tiles loses.
    """
    if INTERPRETED:
        # Triton's interpreter takes the bits of bfloat16 for integers.
        a, b = a.to(tl.float32), b.to(tl.float32)
    if a.dtype == tl.float32:
        return tl.dot(a, b, input_precision="ieee", max_num_imprecise_acc=1)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def dot_split(a, b):
    """Multiply fp32 ``a`` with ``b`` of any dtype: for half precision ``a`` becomes a sum of two halves."""
    high = a.to(b.dtype)
    product = dot(high, b)
    if b.dtype != tl.float32:
        product += dot((a - high.to(tl.float32)).to(b.dtype), b)
    return product


@triton.jit
def softcapped(logits, cap, SOFTCAP: tl.constexpr):
    """Return ``cap * tanh(logits / cap)``; where ``2 sigmoid - 1`` cancels, by the series of Cephes' ``tanhf``."""
    if SOFTCAP:
        x = logits / cap
        z = x * x
        series = -5.70498872745e-3 * z + 2.06390887954e-2
        series = (series * z - 5.37397155531e-2) * z + 1.33314422036e-1
        series = (series * z - 3.33332819422e-1) * z * x + x
        logits = cap * tl.where(tl.abs(x) < 0.625, series, 2 * tl.sigmoid(2 * x) - 1)
    return logits


@triton.jit
def softcap_slope(logits, cap, SOFTCAP: tl.constexpr):
    """Return the derivative of soft-capped logits from their values."""
    slope = 1.0
    if SOFTCAP:
        slope = 1 - (logits / cap) * (logits / cap)
    return slope
