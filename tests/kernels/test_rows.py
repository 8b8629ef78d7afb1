"""Row-wise operations: their kernels and their specification, against fp64 and what Transformers computes."""

from __future__ import annotations

import pytest
import torch
from blockrank_kernels import gated_activation, rms_norm, rotary_
from transformers.activations import ACT2FN
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from tests.interpreter import import_triton
from tests.kernels.conftest import assert_no_worse_than_eager

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NORMS = {0.0: LlamaRMSNorm, 1.0: Gemma2RMSNorm}


@pytest.fixture(params=["reference", "triton"])
def implementation(request):
    if request.param == "triton":
        import_triton()
    return request.param


def random(*shape, dtype=torch.float32, seed=0):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).to(DEVICE)


def strided(tensor):
    """The same values beside others, as queries are in a merged product."""
    return torch.cat([torch.full_like(tensor, float("nan")), tensor], 1)[:, tensor.shape[1] :]


SHAPES = [(1, 1), (7, 48), (70, 64), (5, 130), (3, 4096 + 40), (9, 3, 24), (40, 8, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", NORMS)
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
def test_norms_are_no_worse_than_those_of_transformers(shape, dtype, offset, with_residual, implementation):
    states, residual = 3 * random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    weight = random(shape[-1], dtype=dtype, seed=2)
    eager = NORMS[offset](shape[-1], eps=1e-5).to(DEVICE, dtype)
    eager.weight = torch.nn.Parameter(weight, requires_grad=False)
    got, total = rms_norm(
        strided(states), weight, eps=1e-5, offset=offset, residual=strided(residual) if with_residual else None,
        implementation=implementation,
    )  # fmt: skip
    exact_sum = states.double() + residual.double() if with_residual else states.double()
    assert got.dtype == total.dtype == dtype
    assert_no_worse_than_eager(total, states + residual if with_residual else states, exact_sum)
    # The sum is normalised as it was rounded. Triton's interpreter cuts bfloat16 off instead.
    exact = total.double()
    truth = exact / (exact.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (offset + weight.double())
    assert_no_worse_than_eager(got, eager(total), truth)


@pytest.mark.parametrize(
    ("tokens", "heads", "dim", "turned"),
    [(1, 1, 2, 2), (9, 3, 24, 24), (33, 8, 64, 64), (5, 40, 128, 128), (7, 2, 96, 40)],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_is_no_worse_than_that_of_transformers_and_leaves_the_rest(
    tokens, heads, dim, turned, dtype, implementation
):
    states = random(tokens, heads, dim, dtype=dtype)
    # Halves that differ show that none stands for the other.
    cos, sin = (random(tokens, turned, dtype=dtype, seed=seed) for seed in (1, 2))

    def eager(dtype):
        query, _ = apply_rotary_pos_emb(
            *[states.to(dtype).transpose(0, 1)[None]] * 2, cos[None].to(dtype), sin[None].to(dtype)
        )
        return query[0].transpose(0, 1)

    wide = torch.full((tokens, heads + 2, dim), 7.0, dtype=dtype, device=DEVICE)
    wide[:, 1:-1] = states
    got = rotary_(wide[:, 1:-1], cos, sin, implementation=implementation)
    assert_no_worse_than_eager(got, eager(dtype), eager(torch.float64))
    assert torch.equal(got, wide[:, 1:-1])
    assert torch.equal(got[..., turned:], states[..., turned:])
    assert bool((wide[:, [0, -1]] == 7).all())


@pytest.mark.parametrize("shape", [(1, 1), (7, 48), (70, 64), (5, 1025), (3, 2600)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("activation", "name"), [("silu", "silu"), ("gelu_tanh", "gelu_pytorch_tanh")])
def test_gated_activations_are_no_worse_than_those_of_transformers(shape, dtype, activation, name, implementation):
    rows, width = shape
    states = 4 * random(rows, 2 * width, dtype=dtype)
    states[0, 0], states[-1, -1] = -200, 200

    def eager(states):
        gate, rest = states.chunk(2, -1)
        return ACT2FN[name](gate) * rest

    got = gated_activation(strided(states), activation=activation, implementation=implementation)
    assert got.dtype == dtype
    assert got.isfinite().all()
    assert_no_worse_than_eager(got, eager(states), eager(states.double()))


def test_what_does_not_fit_is_refused_by_name():
    rows, heads = torch.zeros(4, 6), torch.zeros(4, 2, 6)
    angles, weight = torch.zeros(4, 6), torch.zeros(6)
    for call, message in (
        (lambda: rms_norm(rows, weight[:5], eps=1.0), r"weight must be \[6\] on cpu for these states, got \[5\]"),
        (lambda: rms_norm(rows, weight, eps=1.0, residual=heads), "residual must be as states"),
        (lambda: rms_norm(weight, weight, eps=1.0), r"states must be \[T, D\] or \[T, H, D\]"),
        (lambda: rms_norm(rows, weight, eps=1.0, implementation="sdpa"), "one of auto, reference, triton, got 'sdpa'"),
        (lambda: rotary_(rows, angles, angles), r"rotary_ needs states \[T, H, D\]"),
        (lambda: rotary_(heads, angles[:, :5], angles[:, :5]), "with an even R"),
        (lambda: rotary_(heads, angles[:3], angles[:3]), "with an even R"),
        (lambda: gated_activation(rows[:, :5], activation="silu"), r"states must be \[T, 2 I\], got \[4, 5\]"),
        (lambda: gated_activation(rows, activation="gelu"), "one of silu, gelu_tanh, got 'gelu'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_what_the_kernels_cannot_do_is_refused_and_never_replaced():
    import_triton()
    wide = torch.zeros(1, 16385, device=DEVICE)
    heads = torch.zeros(3, 8, 2, device=DEVICE).transpose(1, 2)
    leaf = torch.zeros(2, 4, device=DEVICE, requires_grad=True)
    for call, message in (
        (lambda: rms_norm(wide, wide[0], eps=1.0, implementation="triton"), "up to 16384 numbers, got 16385"),
        (lambda: rms_norm(leaf, leaf[0], eps=1.0, implementation="triton"), "rms_norm has no backward pass"),
        (lambda: gated_activation(leaf, activation="silu", implementation="triton"), "no backward pass"),
        (lambda: gated_activation(wide[:, 1:].double(), activation="silu", implementation="triton"), "float64"),
        (lambda: rotary_(heads, *[heads[:, 0]] * 2, implementation="triton"), "side by side"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("rows", [0, 3])
def test_no_rows_are_no_fault(rows, implementation):
    states = torch.ones(rows, 2, 4, device=DEVICE)
    assert rms_norm(states, states.new_ones(4), eps=1.0, implementation=implementation)[0].shape == states.shape
    assert rotary_(states, states[:, 0], states[:, 0], implementation=implementation).shape == states.shape
    assert gated_activation(states[:, 0], activation="silu", implementation=implementation).shape == (rows, 2)


def test_on_a_gpu_auto_takes_triton_and_elsewhere_torch(monkeypatch):
    import_triton()
    from blockrank_kernels.rms_norm import api

    taken = []
    for name in ("reference", "triton"):
        monkeypatch.setitem(api.IMPLEMENTATIONS, name, lambda *call, name=name: taken.append(name))
    states = torch.ones(2, 4)
    rms_norm(states, states[0], eps=0.0)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    rms_norm(states, states[0], eps=0.0)
    assert taken == ["reference", "triton"]
