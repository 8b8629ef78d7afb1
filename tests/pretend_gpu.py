"""A GPU that is not there: its tensors compute on the CPU, and refuse to meet the CPU's, as CUDA's do.

What runs on it is the code of a GPU's path but for kernels: where tensors are put, and where they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "cuda:0"
CROSSING = {"aten::copy_", "aten::_to_copy", "aten::to", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations that CUDA allows between devices; an index may lie on the CPU."""


class GpuTensor(Tensor):
    """A tensor of the pretended GPU; ``held`` has its values.

    To C++ it is a meta tensor, whose operations all come here before they look at a device.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        with torch.inference_mode(False):
            made = Tensor._make_wrapper_subclass(
                cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
            )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:
        return torch.device(NAME)

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:  # chooses by device in C++
            return on_gpu(func.__name__, func, args, kwargs)
        if func is Tensor.__getitem__:  # a list becomes an index on the device that C++ sees
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return GpuTensor(_held(args[0])[tuple(_held(_sent(part)) for part in index)])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return dispatch(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """While it is entered, tensors can be put on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return dispatch(func, args, kwargs or {})


@contextmanager
def pretend_gpu() -> Iterator[str]:
    """A device name to pass, without gradients."""
    with pytest.MonkeyPatch.context() as patch, PretendGpu(), torch.no_grad():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda device=None: NAME)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (8 << 30, 16 << 30))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield NAME
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)


def dispatch(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run one operation of ATen where its tensors are, or where it is told to put its result."""
    leaves = tree_leaves((args, kwargs))
    name, target = func._schema.name, next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    args, kwargs = tree_map(_on_cpu, (args, kwargs))
    if name == "aten::_local_scalar_dense" or (target is not None and target.type == "cpu"):
        return func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if target is None and not any(isinstance(leaf, GpuTensor) for leaf in leaves):
        return func(*args, **kwargs)
    written = [
        given
        for given, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    out = on_gpu(name, func, args, kwargs)
    return written[0] if written and isinstance(out, Tensor) else out


def on_gpu(name: str, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Results of a function whose tensors must all be on the GPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name not in CROSSING and any(not isinstance(tensor, GpuTensor) and tensor.dim() for tensor in tensors):
        raise RuntimeError(f"{name}: tensors on {[str(tensor.device) for tensor in tensors]}")
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    return tree_map(lambda value: GpuTensor(value) if isinstance(value, Tensor) else value, out)


def _sent(index: Any) -> Any:
    """A part of an index as CUDA needs it: what comes from the CPU is put on the device, which waits."""
    index = torch.tensor(index) if isinstance(index, list) else index
    if isinstance(index, GpuTensor) or not (isinstance(index, Tensor) and index.dim()):
        return index
    return dispatch(torch.ops.aten._to_copy.default, (index,), {"device": torch.device(NAME)})


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value
