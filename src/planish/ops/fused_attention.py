"""MultiHeadAttention, ONNX Runtime's fused attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.graph import Node, Value
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, floordiv, product
from planish.ops.attention import merge_heads, split_heads
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import Array, Attributes, Cost, Inferred, Inputs, Op, Sample, bytes_of
from planish.ops.softmax import softmax

MASK_FILTER = -10000.0


class MultiHeadAttention(Op):
    """Attention over heads packed in the last axis, with biases and masks.

    Inputs query [B,S,H*D], key and value [B,L,H*D] or [B,H,L,D] (or query alone, packed
    [B,S,H,3,D]; or key packed [B,L,H,2,D]), bias of all three projections, key_padding_mask ([B]
    lengths, [B,T] or [B,S,T] flags), attention_bias, past_key and past_value [B,H,P,D]. Outputs:
    result [B,S,H*D], present key and value.
    """

    name = "com.microsoft.MultiHeadAttention"
    attributes: ClassVar[Mapping[str, Any]] = {
        "mask_filter_value": MASK_FILTER,
        "num_heads": REQUIRED,
        "scale": None,
        "unidirectional": 0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the result and of present key and value."""
        dtype = node.present_inputs[0].dtype
        extents = _extents(node)
        if extents is None:
            return [Inferred(dtype, None)] * 3
        batch, queries, heads, size, total, value_size = extents
        return [
            Inferred(dtype, (batch, queries, heads * value_size)),
            Inferred(dtype, (batch, heads, total, size)),
            Inferred(dtype, (batch, heads, total, value_size)),
        ]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that batches and numbers of keys agree."""
        query, key, value = node.input(0), node.input(1), node.input(2)
        shapes = [each.shape for each in (query, key, value) if each is not None and each.shape]
        found = [each for shape in shapes[1:] for each in equal(shape[0], shapes[0][0])]
        if len(shapes) < 3:
            return found
        lengths = [shape[2 if len(shape) == 4 else 1] for shape in shapes[1:]]
        return found + equal(*lengths)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compose projections' biases, masks, softmax and products in float32 at least."""
        query = required(inputs, 0)
        q, k, v = _projected(inputs, attributes["num_heads"])
        past_key, past_value = optional(inputs, 6), optional(inputs, 7)
        if past_key is not None and past_value is not None:
            k = np.concatenate([widen(past_key), k], axis=2)
            v = np.concatenate([widen(past_value), v], axis=2)
        scale = attributes["scale"] or 1 / np.sqrt(q.shape[-1])
        scores = (q @ k.swapaxes(2, 3)) * q.dtype.type(scale)
        addend = optional(inputs, 5)
        if addend is not None:
            scores = scores + widen(addend)
        allowed = _allowed(optional(inputs, 4), scores.shape, attributes)
        scores = np.where(allowed, scores, scores + q.dtype.type(attributes["mask_filter_value"]))
        out = merge_heads(softmax(scores, -1) @ v)
        return [narrow(out, query), narrow(k, query), narrow(v, query)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover separate, packed and cached operands, bias and masks."""
        return _samples()

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count both matrix products and five operations a score."""
        extents = _extents(node)
        if extents is None:
            return Cost(0, bytes_of(node))
        batch, queries, heads, size, total, value_size = extents
        scores = product((batch, queries, heads, total))
        return Cost(scores * (size * 2 + value_size * 2 + 5), bytes_of(node))


def _extents(node: Node) -> tuple[Dim, Dim, Dim, Dim, Dim, Dim] | None:
    """Return batch, queries, heads, head size, total keys, value head size; None if unknown."""
    query, key, value = node.input(0), node.input(1), node.input(2)
    present = [operand for operand in (query, key, value) if operand is not None]
    if query is None or any(operand.shape is None for operand in present):
        return None
    heads: Dim = node.attributes["num_heads"]
    shape = query.known_shape
    size = shape[4] if len(shape) == 5 else floordiv(shape[2], heads)
    keys, value_size = shape[1], size
    if key is not None:
        keys = key.known_shape[2 if key.rank == 4 else 1]
    if value is not None:
        value_size = _head_size(value, heads)
    if key is None and len(shape) != 5:
        raise ShapeError("without a key, the query must be packed [B,S,H,3,D]", where=str(node))
    past = node.input(6)
    total = keys if past is None else past.known_shape[2] + keys
    return shape[0], shape[1], heads, size, total, value_size


def _head_size(value: Value, heads: Dim) -> Dim:
    return value.known_shape[3] if value.rank == 4 else floordiv(value.known_shape[2], heads)


def _projected(inputs: Inputs, heads: int) -> tuple[Array, Array, Array]:
    """Return query, key and value as [B,H,S,D], biases added."""
    query, key, value = required(inputs, 0), optional(inputs, 1), optional(inputs, 2)
    if key is None:
        packed = widen(query).transpose(3, 0, 2, 1, 4)
        parts = [packed[0], packed[1], packed[2]]
    elif value is None:
        packed = widen(key).transpose(3, 0, 2, 1, 4)
        parts = [split_heads(widen(query), heads), packed[0], packed[1]]
    else:
        parts = [
            widen(part) if part.ndim == 4 else split_heads(widen(part), heads)
            for part in (query, key, value)
        ]
    bias = optional(inputs, 3)
    if bias is None:
        return parts[0], parts[1], parts[2]
    ends = np.cumsum([heads * part.shape[-1] for part in parts])[:-1]
    biases = [each.reshape(heads, 1, -1) for each in np.split(widen(bias), ends)]
    return parts[0] + biases[0], parts[1] + biases[1], parts[2] + biases[2]


def _allowed(mask: Array | None, shape: tuple[int, ...], attributes: Attributes) -> Array:
    """Return, broadcast to scores [B,H,S,T], which keys a query may look at."""
    queries, keys = shape[2:]
    allowed = np.ones((1, 1, queries, keys), np.bool_)
    if attributes["unidirectional"]:
        allowed = np.tri(queries, keys, keys - queries, dtype=np.bool_)[None, None]
    if mask is None:
        return allowed
    if mask.ndim == 1:
        return np.asarray(allowed & (np.arange(keys) < mask[: shape[0]].reshape(-1, 1, 1, 1)))
    flags = mask.reshape(shape[0], 1, -1, mask.shape[-1]) != 0
    return np.asarray(allowed & flags)


def _samples() -> list[Sample]:
    q, k, v = (random_array(seed, 2, 3, 32) for seed in (1, 2, 3))
    long_k, long_v = random_array(4, 2, 5, 32), random_array(5, 2, 5, 32)
    bias = random_array(6, 96)
    attributes = {"num_heads": 4}
    lengths = np.array([3, 5], np.int32)
    flags = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1]], np.int32)
    addend = random_array(7, 1, 4, 3, 5)
    past = random_array(8, 2, 4, 2, 8)
    heads_k, heads_v = random_array(10, 2, 4, 5, 8), random_array(11, 2, 4, 5, 8)
    return [
        Sample((q, k, v), attributes),
        Sample((q, long_k, long_v, bias), attributes, (3,), name="bias"),
        Sample((q, long_k, long_v, None, lengths), attributes, name="lengths"),
        Sample((q, long_k, long_v, None, flags), attributes, name="flags"),
        Sample(
            (q, long_k, long_v, None, None, addend), {**attributes, "scale": 0.1}, name="addend"
        ),
        Sample((q, k, v), {**attributes, "unidirectional": 1}, name="causal"),
        Sample((q, k, v, None, None, None, past, past), attributes, outputs=3, name="cache"),
        Sample((q, heads_k, heads_v), attributes, name="heads"),
    ]
