"""The Triton kernels against the specification, interpreted where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from blockrank_kernels import block_attention, document_lse
from blockrank_kernels.block_attention.reference import visible
from blockrank_kernels.block_attention.triton import tiles
from blockrank_kernels.gpu import automatic, triton_on

from tests.interpreter import import_triton
from tests.kernels.cases import LseCase, attention_case, check_attention, check_lse, covering, lse_case
from tests.kernels.conftest import pack, random_qkv

triton = import_triton()

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


ATTENTION = covering([attention_case(seed, longest=40, documents=5) for seed in range(100)])
LSE = covering([lse_case(seed, longest=90, documents=20) for seed in range(100)])
seeds = {"ids": lambda case: f"seed{case.seed}"}


@pytest.mark.parametrize("case", ATTENTION, **seeds)
def test_block_attention_is_no_worse_than_eager(case, monkeypatch):
    if case.splits:
        monkeypatch.setattr(tiles, "SPLIT_LENGTH", 16)
    check_attention(case, DEVICE)


@pytest.mark.parametrize("case", LSE, **seeds)
def test_log_sum_exps_are_no_worse_than_the_reference(case):
    check_lse(case, DEVICE)


@pytest.mark.parametrize("split", [16, 1024])
def test_two_runs_are_equal_to_the_last_bit(split, monkeypatch):
    monkeypatch.setattr(tiles, "SPLIT_LENGTH", split)
    segments = pack([(9, [30, 4, 41], 12)])
    runs = []
    for _ in range(2):
        leaves = [t.to(DEVICE).requires_grad_() for t in random_qkv(segments.num_tokens, 4, 2, 16, torch.bfloat16)]
        out = block_attention(*leaves, segments, implementation="triton")
        runs.append([out, *torch.autograd.grad(out.float().sin().sum(), leaves)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.skipif(DEVICE != "cpu", reason="looks into the interpreter")
def test_every_launch_says_whether_products_are_fused(monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    launched = {}
    launch = GridExecutor.__call__

    def record(self, *args, **kwargs):
        launched.setdefault((self.fn.__module__, self.fn.__name__), set()).add(kwargs.get("enable_fp_fusion"))
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", record)
    monkeypatch.setattr(tiles, "SPLIT_LENGTH", 16)
    segments = pack([(9, [30, 4, 41], 12)])
    q, k, v = (t.requires_grad_() for t in random_qkv(segments.num_tokens, 4, 2, 16, torch.float32))
    block_attention(q, k, v, segments, implementation="triton").sum().backward()
    document_lse(q[-2:], k, torch.tensor([9, 39, 43, 84]), implementation="triton").sum().backward()
    assert len(launched) == 9
    assert set.union(*launched.values()) == {True}


def test_strided_views_need_no_copy_and_change_nothing():
    segments = pack([(5, [20, 7], 6)])
    tokens = segments.num_tokens
    packed = torch.randn(tokens, 4 + 2 + 2, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    views = packed.split([4, 2, 2], 1)
    expected = block_attention(*(view.contiguous() for view in views), segments, implementation="triton")
    assert torch.equal(block_attention(*views, segments, implementation="triton"), expected)
    transposed = [view.transpose(0, 1).contiguous().transpose(0, 1) for view in views]
    assert torch.equal(block_attention(*transposed, segments, implementation="triton"), expected)


def test_values_may_be_wider_than_keys():
    segments = pack([(3, [9, 4], 5)])
    q, k, _ = random_qkv(segments.num_tokens, 2, 1, 16, torch.float32)
    v = torch.randn(segments.num_tokens, 1, 40)
    got = block_attention(q.to(DEVICE), k.to(DEVICE), v.to(DEVICE), segments, implementation="triton")
    torch.testing.assert_close(got.cpu(), block_attention(q, k, v, segments, implementation="reference"))


def test_a_document_sees_no_other_document_even_when_it_holds_nan():
    segments = pack([(5, [7, 8, 9], 4)])
    q, k, v = (t.to(DEVICE) for t in random_qkv(segments.num_tokens, 2, 2, 16, torch.float32))
    start, end = segments.offsets[2:4].tolist()
    v[start:end] = float("nan")
    out = block_attention(q, k, v, segments, implementation="triton")
    assert out[:start].isfinite().all()
    assert out[end:-4].isfinite().all()
    assert out[-4:].isnan().all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("make", [tiles.row_tiles, tiles.key_tiles])
def test_work_items_cover_every_visible_pair_once(make, causal, monkeypatch):
    monkeypatch.setattr(tiles, "SPLIT_LENGTH", 7)
    segments = pack([(9, [30, 4, 41], 12), (2, [3, 19], 5)])
    covered = torch.zeros(segments.num_tokens, segments.num_tokens, dtype=torch.int64)
    items = make(segments, causal, 8, 40, torch.device("cpu"))
    side = covered if make is tiles.row_tiles else covered.T
    for start, end, *ranges, _, _ in [*items.whole.tolist(), *items.split.tolist()]:
        for first, last in (ranges[:2], ranges[2:]):
            side[start:end, first:last] += 1
    pairs = visible(segments, causal, None)
    assert bool((covered[pairs] == 1).all())
    # Only a tile on the diagonal reaches beyond the triangle, by less than its size.
    beyond = ((covered > 0) & ~pairs).nonzero()
    assert bool((beyond.diff(dim=1).abs() < 8).all())


@pytest.mark.parametrize("processors", [16, 108, 132])
def test_a_query_that_sees_a_long_list_is_split_among_the_processors_that_there_are(processors, monkeypatch):
    from blockrank_kernels.block_attention.triton import launch

    monkeypatch.setattr(launch, "processors", lambda device: processors)
    segments = pack([(9, [200] * 100, 40)])
    query, key, value = (torch.zeros(segments.num_tokens, heads, 16, device=DEVICE) for heads in (4, 2, 2))
    problem = launch.Problem(query, key, value, True, 1.0, None, None)
    rows = problem.forward_sizes().rows // problem.group
    made = [tiles.row_tiles(segments, True, rows, problem.busy(), query.device) for _ in range(2)]
    assert torch.equal(made[0].split, made[1].split)
    programs = len(made[0].split) * problem.key_heads
    assert programs <= tiles.PROGRAMS_PER_PROCESSOR * processors
    # Every tile has equally many parts, so that some of the last round of programs may be missing.
    assert programs + len(made[0].merged) * problem.key_heads > tiles.PROGRAMS_PER_PROCESSOR * processors
    assert len(set(made[0].merged[:, 3].tolist())) == 1


def test_long_ranges_share_the_device_by_their_lengths():
    segments = pack([(9, [4000], 8), (9, [12000], 8), (9, [500], 8)])
    made = tiles.row_tiles(segments, True, 16, 16, torch.device("cpu"))
    assert made.merged[:, 3].tolist() == [4, 11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float64}, "take float16, bfloat16 and float32, got torch.float64"),
        ({"dim": 512}, "head dimensions up to 256, got 512"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_and_never_replaced(change, message):
    dtype, dim = change.get("dtype", torch.float32), change.get("dim", 16)
    tensors = [torch.zeros(5, 2, dim, dtype=dtype, device=DEVICE)] * 2
    with pytest.raises(ValueError, match=message):
        block_attention(*tensors, tensors[0], pack([(2, [1, 1], 1)]), implementation="triton")
    if "dtype" in change:
        with pytest.raises(ValueError, match=message):
            document_lse(*tensors, torch.tensor([0, 5]), implementation="triton")


@pytest.mark.parametrize(
    ("heads", "dtype", "softcap"),
    [
        ((1, 1, 384), torch.float32, None),
        ((2, 1, 385), torch.float32, 3.0),
        ((2, 2, 272), torch.bfloat16, None),
    ],
    ids=str,
)
def test_log_sum_exps_of_heads_wider_than_a_tile(heads, dtype, softcap):
    check_lse(LseCase([1, 20, 3], 9, heads, dtype, softcap, 0), DEVICE)


def test_on_a_gpu_auto_takes_triton_for_wide_heads_too(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    wide = torch.zeros(5, 1, 384, device=DEVICE)
    assert automatic(wide, wide, any_width=True) == "triton"
    assert automatic(wide, wide) == "sdpa"


def test_without_a_gpu_triton_is_refused_with_a_reason_and_auto_takes_torch(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    verdict = triton_on(torch.device("cpu"))
    assert not verdict.usable
    assert "need a GPU" in verdict.reason
    zeros = torch.zeros(5, 2, 16)
    assert automatic(zeros) == "sdpa"
    with pytest.raises(ValueError, match="cannot run here: Triton kernels need a GPU"):
        document_lse(zeros, zeros, torch.tensor([0, 5]), implementation="triton")


def test_on_gpus_that_kernels_were_never_compiled_for_auto_takes_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "MI300")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    verdict = triton_on(torch.device("cuda"))
    assert not verdict.usable
    assert "NVIDIA's GPUs" in verdict.reason


@pytest.mark.parametrize("spelling", ["1", "true", "ON"])
def test_whatever_triton_takes_for_yes_interprets(monkeypatch, spelling):
    monkeypatch.setenv("TRITON_INTERPRET", spelling)
    assert triton.knobs.runtime.interpret
    assert triton_on(torch.device("cpu")).usable


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton can start where there is a GPU")
def test_a_gpu_on_which_triton_cannot_start_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    verdict = triton_on(torch.device("cuda"))
    assert not verdict.usable
    assert verdict.reason.startswith("Triton cannot start: ")
    assert len(verdict.reason) > len("Triton cannot start: ")


def test_kernels_are_launched_on_the_gpu_of_their_tensors(monkeypatch):
    launched, enter = [], torch.cuda.device_of
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: (launched.append(tensor), enter(tensor))[1])
    query, key, value = random_qkv(4, 2, 1, 16, torch.float32)
    query, key, value = (tensor.to(DEVICE) for tensor in (query, key, value))
    block_attention(query, key, value, pack([(2, [1], 1)]), implementation="triton")
    document_lse(query, key, torch.tensor([0, 4]), implementation="triton")
    assert len(launched) == 2
    assert all(tensor is query for tensor in launched)


def test_a_second_derivative_is_refused():
    query, key, value = (tensor.to(DEVICE).requires_grad_() for tensor in random_qkv(4, 2, 1, 16, torch.float32))
    outputs = (
        block_attention(query, key, value, pack([(2, [1], 1)]), implementation="triton"),
        document_lse(query, key, torch.tensor([0, 4]), implementation="triton"),
    )
    for out in outputs:
        [first] = torch.autograd.grad(out.square().sum(), query, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()


def test_more_query_heads_than_a_tile_holds_are_refused():
    query, key = torch.zeros(4, 256, 64, device=DEVICE), torch.zeros(4, 1, 64, device=DEVICE)
    with pytest.raises(ValueError, match="up to 128 query heads per key head of this dimension, got 256"):
        block_attention(query, key, key, pack([(2, [1], 1)]), implementation="triton")


def test_the_package_imports_neither_triton_nor_transformers():
    code = "import sys, blockrank_kernels; print([n for n in ('triton', 'transformers') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout.strip() == "[]"
