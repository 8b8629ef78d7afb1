"""Linear layers of an encoder in 8-bit integers, with static scales for what they read, and the file of these."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from blockrank_rerank.config import BlockRankConfig
from blockrank_rerank.model.checkpoint import Checkpoint
from blockrank_rerank.model.devices import has_vnni, int8_on
from blockrank_rerank.model.families import ROBERTAS, layers_of
from blockrank_rerank.system.files import share_like

SCALES_NAME = "activation_scales.safetensors"

INT8_FAMILIES = frozenset({"bert"}) | ROBERTAS
"""Encoders whose layers are built alike."""

STEPS = 255
"""What a layer reads is rounded to the integers 0 to this."""

LARGEST_WEIGHT, LARGEST_WITHOUT_VNNI = 127, 63
"""Of a rounded weight: CPUs without VNNI add pairs of products in 16 bits, cut off, and 2 · 63 · 255 is below 2¹⁵.

The bit is worth half a point of nDCG@10 on texts of few words (dev/LOG.md).
"""

SMOOTHING = 0.75
"""Exponent by which large channels of what is read are made smaller, and their weights larger (arXiv 2211.10438)."""

LEAST = 1e-3
"""Of the largest value of a channel or column: a channel that is never used needs a scale too."""


def refuse_int8(
    model: str, model_config: Any, config: BlockRankConfig, device: torch.device, dtype: torch.dtype
) -> None:
    """Refuse what cannot be computed in 8-bit integers, before weights are read.

    Raises
    ------
    ImportError
        Where OpenVINO is missing.
    ValueError
        For another device than the CPU, other dtypes than fp32 and bf16, decoders, and other encoders than BERT and
        RoBERTa with a scoring head that alone lets the query see documents.
    """
    if not (verdict := int8_on(device)).usable:
        fault = ImportError if device.type == "cpu" else ValueError
        raise fault(f"quantization int8 cannot run on {device}: {verdict.reason}")
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"quantization int8 needs dtype float32 or bfloat16, got {str(dtype).removeprefix('torch.')}")
    kind, activation = model_config.model_type, getattr(model_config, "hidden_act", None)
    if kind not in INT8_FAMILIES or activation != "gelu":
        raise ValueError(
            f"quantization int8 is for encoders of {', '.join(sorted(INT8_FAMILIES))} with activation gelu, and model "
            f"{model!r} is {kind} with {activation}; leave quantization out"
        )
    if not config.documents_are_independent:
        raise ValueError(
            "quantization int8 needs a model whose query sees documents in an appended scoring layer only "
            "(scoring_head=True, and query_documents_from_layer not below scoring_layer); leave quantization out"
        )


def scales_file(checkpoint: Checkpoint) -> Path | None:
    """The file of a model's scales, if it has one; those of an adapter's base are not its own."""
    path = checkpoint.file(SCALES_NAME)
    return path if path is not None and path.parent == checkpoint.folder else None


def quantize_to_int8(checkpoint: Checkpoint, model: Any) -> None:
    """Replace the linear layers of a checkpoint's base model, of BERT or RoBERTa, by those in 8 bits, in place.

    Raises
    ------
    FileNotFoundError
        For a model without scales for what its layers read.
    ValueError
        For a damaged file of them, and one of another model.
    """
    path = scales_file(checkpoint)
    if path is None:
        raise FileNotFoundError(
            f"quantization int8: model {checkpoint.model!r} has no {SCALES_NAME}; measure them on texts of yours with "
            f"python -m recipes.activation_scales {shlex.quote(checkpoint.model)} TEXTS.jsonl, in a clone of "
            "blockrank-rerank"
        )
    scales = load_scales(path, model)
    for name, layers in linear_inputs(model):
        for owner, part in layers:
            setattr(owner, part, Int8Linear(getattr(owner, part), scales[name]))


class ActivationScale(NamedTuple):
    """How one input of linear layers is rounded, whatever else is in the pack.

    Attributes
    ----------
    scale : Tensor
        ``[in]`` fp32: one step of every channel.
    zero : int
        The step that stands for 0.
    """

    scale: Tensor
    zero: int


Scales = Mapping[str, ActivationScale]
"""By the name of the input, as :func:`linear_inputs` has them."""


def largest_weight() -> int:
    """Largest integer to which a weight is rounded on this machine."""
    return LARGEST_WEIGHT if has_vnni() else LARGEST_WITHOUT_VNNI


class Int8Linear(nn.Module):
    """A linear layer whose weights are 8-bit integers and which rounds what it reads to 8-bit integers.

    What it computes is the specification of quantization int8. A backend computes the same faster.

    Parameters
    ----------
    layer : nn.Linear
        With a bias.
    activation : ActivationScale
        Of what it reads.
    """

    def __init__(self, layer: nn.Linear, activation: ActivationScale) -> None:
        super().__init__()
        weight = layer.weight.detach().float() * activation.scale
        scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / largest_weight()
        self.weight = _constant((weight / scale[:, None]).round().to(torch.int8))
        self.weight_scale = _constant(scale)
        self.bias = _constant(layer.bias.detach())
        self.input_scale = _constant(activation.scale)
        self.input_zero = _constant(torch.tensor(float(activation.zero), dtype=torch.float32, device="cpu"))

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        steps = (input.float() / self.input_scale + self.input_zero).round().clamp(0, STEPS) - self.input_zero
        return (F.linear(steps, self.weight.float()) * self.weight_scale + self.bias.float()).to(input.dtype)


def _constant(tensor: Tensor) -> nn.Parameter:
    # A parameter, so that it goes to devices with the model and into the fingerprint of its states.
    return nn.Parameter(tensor, requires_grad=False)


def linear_inputs(model: Any) -> Iterator[tuple[str, list[tuple[Any, str]]]]:
    """Yield every input of linear layers of BERT or RoBERTa, by name, with owner and name of the layers that read it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Base model.
    """
    for index, layer in enumerate(layers_of(model)):
        attention = layer.attention
        yield f"{index}.attention", [(attention.self, name) for name in ("query", "key", "value")]
        yield f"{index}.attention_output", [(attention.output, "dense")]
        yield f"{index}.feed_forward", [(layer.intermediate, "dense")]
        yield f"{index}.feed_forward_output", [(layer.output, "dense")]


@contextmanager
def measured_scales(model: Any) -> Iterator[dict[str, ActivationScale]]:
    """Watch what the linear layers of a base model read; the scales are there when the block ends.

    Raises
    ------
    ValueError
        Where nothing was read.
    """
    scales: dict[str, ActivationScale] = {}
    bounds: dict[str, tuple[Tensor, Tensor]] = {}
    lock = Lock()

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = torch.aminmax(inputs[0].detach().float().flatten(0, -2), dim=0)
            with lock:  # documents are shared out among threads
                before = bounds.get(name, (low, high))
                bounds[name] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

        return hook

    inputs = [(name, [getattr(*layer) for layer in layers]) for name, layers in linear_inputs(model)]
    hooks = [layers[0].register_forward_pre_hook(watch(name)) for name, layers in inputs]
    try:
        yield scales
    finally:
        for hook in hooks:
            hook.remove()
    if not bounds:
        raise ValueError("no scales were measured: nothing was read by the model")
    scales.update({name: _scale(*bounds[name], layers) for name, layers in inputs})


def _scale(low: Tensor, high: Tensor, layers: Iterable[nn.Linear]) -> ActivationScale:
    """The scale for channels that went from ``low`` to ``high``, ``[in]`` each."""
    largest = torch.maximum(high, -low).clamp(min=LEAST)
    columns = torch.cat([layer.weight.float() for layer in layers]).abs().amax(0).clamp(min=LEAST)
    smoothing = largest**SMOOTHING / columns ** (1 - SMOOTHING)
    least, most = min(float((low / smoothing).min()), 0.0), max(float((high / smoothing).max()), 0.0)
    step = (most - least) / STEPS
    return ActivationScale(smoothing * step, round(-least / step))


def save_scales(scales: Scales, folder: Path) -> None:
    """Write ``activation_scales.safetensors`` into the folder of a model."""
    tensors: dict[str, Tensor] = {}
    for name, (scale, zero) in scales.items():
        tensors |= {
            f"{name}.scale": scale.cpu().contiguous(),
            f"{name}.zero": torch.tensor([zero], dtype=torch.uint8, device="cpu"),
        }
    save_file(tensors, folder / SCALES_NAME)
    share_like(folder / SCALES_NAME, folder / "config.json")


def _usable(scale: Tensor, zero: Tensor) -> bool:
    steps = scale.is_floating_point() and bool(((scale > 0) & scale.isfinite()).all())
    return steps and zero.numel() == 1 and float(zero) in range(STEPS + 1)


def load_scales(path: Path, model: Any) -> Scales:
    """Read the scales of a base model's inputs.

    Raises
    ------
    ValueError
        For a damaged file, and one of another model.
    """
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    scales = {}
    for name, layers in linear_inputs(model):
        width = getattr(*layers[0]).in_features
        scale, zero = tensors.get(f"{name}.scale"), tensors.get(f"{name}.zero")
        if scale is None or zero is None or scale.shape != (width,):
            raise ValueError(f"{path} has no scales for the {width} channels of {name}: it is of another model")
        if not _usable(scale, zero):
            raise ValueError(
                f"{path} is damaged: {name} needs scales that are floating numbers above 0, and as its zero one whole "
                f"number from 0 to {STEPS}; measure them again"
            )
        scales[name] = ActivationScale(scale.float(), int(zero))
    return scales
