"""Block attention on a GPU: kernels launched over a layout's work items, forward and backward.

The heads that share a key head are the rows of one tile: row ``r`` of a tile is token ``r // GROUP`` and query
head ``r % GROUP`` of the group. A tile goes through at most two ranges of the other side, of which only the one
inside its own segment can need a triangle. Tiles with a long range are split over several programs, whose
partial results are merged in a fixed order: no atomics, so two runs are equal. Softmax is kept online
(arXiv 1805.02867), gradients are recomputed from the log-sum-exp (arXiv 2307.08691).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from blockrank_kernels.block_attention.triton.backward import (
    delta_kernel,
    key_gradient_kernel,
    merge_sum_kernel,
    query_gradient_kernel,
)
from blockrank_kernels.block_attention.triton.forward import forward_kernel, merge_softmax_kernel
from blockrank_kernels.block_attention.triton.tile_sizes import (
    DELTA_ROWS,
    MERGE_WARPS,
    TileSizes,
    forward_sizes,
    key_gradient_sizes,
    query_gradient_sizes,
    with_group,
)
from blockrank_kernels.block_attention.triton.tiles import PROGRAMS_PER_PROCESSOR, Tiles, key_tiles, row_tiles
from blockrank_kernels.gpu import CAPABILITY, COMPILER, padded_size, processors, upload
from blockrank_kernels.last_rows import LastRows
from blockrank_kernels.segments import Segments


class Problem:
    """One call's tensors, sizes and options, which all of its launches share.

    ``query``, ``key`` and ``value`` begin with tokens ``first_row`` and ``first_key`` of the sequence that tables and
    ``positions`` are about; positions are read where there is a window.
    """

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, softcap: float | None,
        window: int | None, positions: Tensor | None = None, first_row: int = 0, first_key: int = 0,
    ) -> None:  # fmt: skip
        self.query, self.key, self.value = (_rows_contiguous(tensor) for tensor in (query, key, value))
        self.causal, self.scale, self.softcap, self.window = causal, scale, softcap, window
        self.positions, self.first_row, self.first_key = positions, first_row, first_key
        self.rows, self.heads, self.dim = query.shape
        self.key_heads, self.value_dim = value.shape[1:]
        self.group = self.heads // self.key_heads
        self.dtype, self.padded_dim = query.dtype, padded_size(max(self.dim, self.value_dim))

    def forward_sizes(self) -> TileSizes:
        """Return the tile sizes of the forward pass."""
        return with_group(forward_sizes(self.padded_dim, self.dtype, self._capability()), self.group)

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return memory for the output ``[R, Hq, Dv]`` and the log2-sum-exp2 ``[Hq, R]``."""
        out = self.query.new_empty(self.rows, self.heads, self.value_dim)
        return out, self.query.new_empty(self.heads, self.rows, dtype=torch.float32)

    def partial_outputs(self, tiles: Tiles, sizes: TileSizes) -> tuple[Tensor, Tensor]:
        """Return memory for the same of tiles that are split, in fp32."""
        return self._slots(tiles, sizes.rows, self.value_dim), self._slots(tiles, sizes.rows)

    def attend(self, items: Tensor, out_lse: tuple[Tensor, Tensor], sizes: TileSizes, split: bool) -> None:
        """Compute the outputs of work items, or their parts of them."""
        factor = self.scale if self.softcap else self.scale * math.log2(math.e)
        scalars = (self.rows, self.first_row, self.first_key, factor)
        self._launch(forward_kernel, items, out_lse, scalars, sizes, split)

    def merge(
        self, partial: tuple[Tensor, Tensor], out_lse: tuple[Tensor, Tensor], tiles: Tiles, sizes: TileSizes
    ) -> None:
        """Merge the outputs of tiles that were split."""
        merge_softmax_kernel[(len(tiles.merged), self.key_heads)](
            *partial, *out_lse, tiles.merged, self.rows, value_dim=self.value_dim, GROUP=self.group, ROWS=sizes.rows,
            VALUE_DIM=padded_size(self.value_dim), num_warps=MERGE_WARPS, **COMPILER,
        )  # fmt: skip

    def forward(self, segments: Segments) -> tuple[Tensor, Tensor]:
        """Return the output ``[T, Hq, Dv]`` and the log2-sum-exp2 ``[Hq, T]``."""
        sizes = self.forward_sizes()
        tiles = self._tiles(segments, row_tiles, sizes.rows // self.group)
        out_lse = self.outputs()
        if len(tiles.whole):
            self.attend(tiles.whole, out_lse, sizes, split=False)
        if len(tiles.split):
            partial = self.partial_outputs(tiles, sizes)
            self.attend(tiles.split, partial, sizes, split=True)
            self.merge(partial, out_lse, tiles, sizes)
        return out_lse

    def backward(self, segments: Segments, out: Tensor, lse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of query, key and value."""
        grad = grad.contiguous()
        delta = lse.new_empty(lse.shape)
        delta_kernel[(triton.cdiv(self.rows, DELTA_ROWS), self.heads)](
            grad, out, delta, self.rows, value_dim=self.value_dim, ROWS=DELTA_ROWS,
            VALUE_DIM=padded_size(self.value_dim), **COMPILER,
        )  # fmt: skip
        return self._query_gradient(segments, grad, lse, delta), *self._key_gradients(segments, grad, lse, delta)

    def _query_gradient(self, segments: Segments, *grad_lse_delta: Tensor) -> Tensor:
        sizes = query_gradient_sizes(self.padded_dim, self.dtype, self.softcap is not None, self._capability())
        sizes = with_group(sizes, self.group)
        tiles = self._tiles(segments, row_tiles, sizes.rows // self.group)
        gradient = self.query.new_empty(self.query.shape)
        scalars = self.rows, self.scale
        if len(tiles.whole):
            tensors = *grad_lse_delta, gradient
            self._launch(query_gradient_kernel, tiles.whole, tensors, scalars, sizes, split=False)
        if len(tiles.split):
            partial = self._slots(tiles, sizes.rows, self.dim)
            tensors = *grad_lse_delta, partial
            self._launch(query_gradient_kernel, tiles.split, tensors, scalars, sizes, split=True)
            self._merge_sum(partial, gradient, tiles, sizes.rows, self.group)
        return gradient

    def _key_gradients(self, segments: Segments, *grad_lse_delta: Tensor) -> tuple[Tensor, Tensor]:
        sizes = key_gradient_sizes(self.padded_dim, self.dtype, self.softcap is not None, self._capability())
        sizes = with_group(sizes, self.group)
        tiles = self._tiles(segments, key_tiles, sizes.keys)
        gradients = self.key.new_empty(self.key.shape), self.value.new_empty(self.value.shape)
        scalars = self.rows, self.scale
        if len(tiles.whole):
            tensors = *grad_lse_delta, *gradients
            self._launch(key_gradient_kernel, tiles.whole, tensors, scalars, sizes, split=False)
        if len(tiles.split):
            partials = self._slots(tiles, sizes.keys, self.dim), self._slots(tiles, sizes.keys, self.value_dim)
            tensors = *grad_lse_delta, *partials
            self._launch(key_gradient_kernel, tiles.split, tensors, scalars, sizes, split=True)
            for partial, gradient in zip(partials, gradients, strict=True):
                self._merge_sum(partial, gradient, tiles, sizes.keys, 1)
        return gradients

    def _launch(
        self, kernel: Any, items: Tensor, tensors: Sequence[Tensor], scalars: Sequence[float], sizes: TileSizes,
        split: bool,
    ) -> None:  # fmt: skip
        """Launch a kernel for each work item and key head.

        ``tensors`` are what it takes after query, key and value, and ``scalars`` what it takes after the strides.
        """
        inputs = self.query, self.key, self.value
        strides = (stride for tensor in inputs for stride in tensor.stride()[:2])
        positions = items if self.positions is None else self.positions
        kernel[(len(items), self.key_heads)](
            *inputs, *tensors, items, positions, *strides, *scalars, self.softcap or 1.0,
            **self._constants(sizes, split),
        )  # fmt: skip

    def _constants(self, sizes: TileSizes, split: bool) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "value_dim": self.value_dim,
            "GROUP": self.group,
            "SPLIT": split,
            "CAUSAL": self.causal,
            "WINDOW": self.window or 0,
            "SOFTCAP": self.softcap is not None,
            "ROWS": sizes.rows,
            "KEYS": sizes.keys,
            "DIM": padded_size(self.dim),
            "VALUE_DIM": padded_size(self.value_dim),
            "num_warps": sizes.warps,
            "num_stages": sizes.stages,
        } | COMPILER

    def _merge_sum(self, partial: Tensor, out: Tensor, tiles: Tiles, rows: int, group: int) -> None:
        dim = out.shape[-1]
        merge_sum_kernel[(len(tiles.merged), self.key_heads)](
            partial, out, tiles.merged, dim=dim, GROUP=group, ROWS=rows, DIM=padded_size(dim), num_warps=MERGE_WARPS,
            **COMPILER,
        )  # fmt: skip

    def _slots(self, tiles: Tiles, *shape: int) -> Tensor:
        """Return memory for the partial results of tiles that are split."""
        return self.query.new_empty(len(tiles.split), self.key_heads, *shape, dtype=torch.float32)

    def busy(self) -> int:
        """Return how many work items keep the device busy; each is a program for every key head."""
        return PROGRAMS_PER_PROCESSOR * processors(self.query.device) // self.key_heads

    def _capability(self) -> int:
        device = self.query.device
        major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else CAPABILITY
        return 10 * major + minor

    def _tiles(
        self, segments: Segments, make: Callable[[Segments, bool, int, int, torch.device], Tiles], size: int
    ) -> Tiles:
        plans, settings = segments.plans, (self.causal, size, self.busy(), self.query.device)
        name = (make.__name__, *settings)
        if name not in plans:
            plans[name] = make(segments, *settings)
        tiles: Tiles = plans[name]
        return tiles


def uploaded_positions(layout: Segments | LastRows, window: int | None, device: torch.device) -> Tensor | None:
    """Return positions on the device, put there once; nothing where no window is measured in them."""
    if window is None:
        return None
    name = "positions", device
    if name not in layout.plans:
        layout.plans[name] = upload(layout.positions, device)
    uploaded: Tensor = layout.plans[name]
    return uploaded


def _problem(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, causal: bool, scale: float, softcap: float | None,
    window: int | None,
) -> Problem:  # fmt: skip
    positions = uploaded_positions(segments, window, query.device)
    return Problem(query, key, value, causal, scale, softcap, window, positions)


class _BlockAttention(torch.autograd.Function):
    """Block attention of the tensors, differentiable once."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, *settings: Any) -> Tensor:
        segments, *options = settings
        out, lse = _problem(query, key, value, segments, *options).forward(segments)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        segments, *options = ctx.settings
        gradients = _problem(query, key, value, segments, *options).backward(segments, out, lse, grads[0])
        return *gradients, *(None for _ in ctx.settings)


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    causal: bool,
    scale: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    """Attend to context and own segment on a GPU; see :func:`blockrank_kernels.block_attention`."""
    attend: Callable[..., Tensor] = _BlockAttention.apply
    return attend(query, key, value, segments, causal, scale, softcap, window)


def _rows_contiguous(tensor: Tensor) -> Tensor:
    """Return a tensor whose heads have their numbers side by side; kernels take any order of tokens and heads."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
