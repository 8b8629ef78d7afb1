"""The layers of an encoder of BERT's kind in 8 bits, as a graph of OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from blockrank_rerank.model.families import layers_of
from blockrank_rerank.model.int8 import STEPS, Int8Linear
from blockrank_rerank.model.quiet_openvino import openvino

ops = openvino.opset13

Node = Any
"""What every function of a graph returns; OpenVINO's own class has another place in every release."""

HEADS_FIRST = (0, 2, 1, 3)


def encoder_graph(model: Any) -> Any:
    """Build the layers of a base model whose linear layers are in 8 bits.

    The graph takes ``[B, L, hidden]`` embeddings and ``[B, 1, L, L]`` of 0 where a row sees a column and a very low
    number where it does not, both fp32, and gives ``[B, L, hidden]`` of the last layer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a family in :data:`INT8_FAMILIES`.
    """
    config = model.config
    hidden = embeddings = ops.parameter([-1, -1, config.hidden_size], np.float32, name="embeddings")
    mask = ops.parameter([-1, 1, -1, -1], np.float32, name="mask")
    for layer in layers_of(model):
        attention, output = layer.attention, layer.output
        attended = _linear(_attention(hidden, mask, attention.self, config), attention.output.dense)
        hidden = _norm(ops.add(attended, hidden), attention.output.LayerNorm)
        wide = ops.gelu(_linear(hidden, layer.intermediate.dense), "erf")
        hidden = _norm(ops.add(_linear(wide, output.dense), hidden), output.LayerNorm)
    return openvino.Model([ops.result(hidden)], [embeddings, mask], "encoder")


def _attention(hidden: Node, mask: Node, attention: Any, config: Any) -> Node:
    heads = config.num_attention_heads
    steps = _rounded(hidden, attention.query)
    query, key, value = (
        ops.transpose(ops.reshape(_product(steps, layer), _integers(0, 0, heads, -1), True), _integers(*HEADS_FIRST))
        for layer in (attention.query, attention.key, attention.value)
    )
    scale = _floats((config.hidden_size // heads) ** -0.5)
    out = ops.scaled_dot_product_attention(query, key, value, mask, scale)
    return ops.reshape(ops.transpose(out, _integers(*HEADS_FIRST)), _integers(0, 0, config.hidden_size), True)


def _linear(input: Node, layer: Int8Linear) -> Node:
    return _product(_rounded(input, layer), layer)


def _rounded(input: Node, layer: Int8Linear) -> Node:
    """What a layer reads in whole steps, which OpenVINO keeps as 8-bit integers."""
    zero = float(layer.input_zero)
    low, high = _floats(-zero), _floats(STEPS - zero)
    return ops.fake_quantize(ops.multiply(input, _floats(1 / layer.input_scale)), low, high, low, high, STEPS + 1)


def _product(steps: Node, layer: Int8Linear) -> Node:
    # In this form OpenVINO knows a weight in 8 bits.
    weight = ops.convert(ops.constant(layer.weight.numpy()), "f32")
    product = ops.matmul(steps, ops.multiply(weight, _floats(layer.weight_scale[:, None])), False, True)
    return ops.add(product, _floats(layer.bias))


def _norm(input: Node, norm: Any) -> Node:
    normal = ops.mvn(input, _integers(-1), True, norm.eps, "inside_sqrt")
    return ops.add(ops.multiply(normal, _floats(norm.weight)), _floats(norm.bias))


def _floats(values: Tensor | float) -> Node:
    array = values.detach().float().numpy() if isinstance(values, Tensor) else np.float32(values)
    return ops.constant(np.array(array, np.float32))


def _integers(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))
