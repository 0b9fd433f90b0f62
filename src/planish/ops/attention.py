"""Attention and rotary position embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, broadcasts, equal
from planish.ir.shape import Dim, Shape, floordiv, product
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    bytes_of,
)

MODE_RAW, MODE_CAPPED, MODE_BIASED, MODE_SOFTMAX = range(4)  # qk_matmul_output_mode


def split_heads(x: Array, heads: int) -> Array:
    """Return [B,S,heads*D] as [B,heads,S,D]."""
    batch, sequence, hidden = x.shape
    return x.reshape(batch, sequence, heads, hidden // heads).transpose(0, 2, 1, 3)


def merge_heads(x: Array) -> Array:
    """Return [B,heads,S,D] as [B,S,heads*D]."""
    batch, heads, sequence, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, sequence, heads * size)


def masked_softmax(scores: Array, bias: Array) -> Array:
    """Return softmax over the last axis; rows whose additive `bias` is all -inf become zeros."""
    with np.errstate(invalid="ignore"):
        top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
        powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
        sums = powers.sum(axis=-1, keepdims=True)
        weights = powers / np.where(sums == 0, 1, sums)
    masked = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.asarray(np.where(masked, scores.dtype.type(0), weights))


def _head_counts(node: Node) -> tuple[Dim, Dim]:
    """Return the numbers of query heads and of key heads."""
    query, key = node.present_inputs[:2]
    if query.rank == 4:
        return query.known_shape[1], key.known_shape[1]
    counts = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    if not counts[0] or not counts[1]:
        raise ShapeError("q_num_heads and kv_num_heads are needed for 3-D inputs", where=str(node))
    return counts


def _heads_first(shape: Shape, heads: Dim) -> Shape:
    if len(shape) == 4:
        return shape
    return (shape[0], heads, shape[1], floordiv(shape[2], heads))


class Attention(Op):
    """Scaled dot-product attention: softmax(Q K^T * scale + mask) V.

    Inputs Q, K, V ([B,H,S,D] or [B,S,H*D]), and optionally mask (boolean: True takes part; or
    added to the scores), past_key, past_value ([B,H,P,D]), nonpad_kv_seqlen [B]. Query heads are a
    multiple of key heads. Outputs: the result, present key and value, and the scores in the state
    that `qk_matmul_output_mode` names. A query that may look at no key gives zeros.
    """

    name = "Attention"
    attributes: ClassVar[Mapping[str, Any]] = {
        "is_causal": 0,
        "kv_num_heads": None,
        "left_window_size": -1,
        "q_num_heads": None,
        "qk_matmul_output_mode": 0,
        "right_window_size": -1,
        "scale": None,
        "softcap": 0.0,
        "softmax_precision": None,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of the four outputs."""
        query, key, value = node.present_inputs[:3]
        if query.shape is None or key.shape is None or value.shape is None:
            types = (query.dtype, key.dtype, value.dtype, query.dtype)
            return [Inferred(dtype, None) for dtype in types]
        query_heads, key_heads = _head_counts(node)
        q = _heads_first(query.shape, query_heads)
        k, v = _heads_first(key.shape, key_heads), _heads_first(value.shape, key_heads)
        past = node.input(4)
        total = k[2] if past is None else k[2] + past.known_shape[2]
        out: Shape = (q[0], query_heads, q[2], v[3])
        if len(query.shape) == 3:
            out = (q[0], q[2], query_heads * v[3])
        return [
            Inferred(query.dtype, out),
            Inferred(key.dtype, (k[0], key_heads, total, k[3])),
            Inferred(value.dtype, (v[0], key_heads, total, v[3])),
            Inferred(query.dtype, (q[0], query_heads, q[2], total)),
        ]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that batches, head sizes and numbers of keys agree, and the mask broadcasts."""
        query, key, value = node.present_inputs[:3]
        if query.shape is None or key.shape is None or value.shape is None:
            return []
        query_heads, key_heads = _head_counts(node)
        q, k, v = (
            _heads_first(shape, heads)
            for shape, heads in (
                (query.shape, query_heads),
                (key.shape, key_heads),
                (value.shape, key_heads),
            )
        )
        found = [*equal(q[0], k[0]), *equal(q[0], v[0]), *equal(q[3], k[3]), *equal(k[2], v[2])]
        past, mask = node.input(4), node.input(3)
        total = k[2] if past is None else k[2] + past.known_shape[2]
        if mask is None or not mask.shape or mask.shape[-1] != total:
            return found  # a shorter mask hides the keys behind it
        return found + broadcasts([mask.shape], (q[0], query_heads, q[2], total))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Follow ONNX's function body in float32 at least."""
        query, key, value = (required(inputs, index) for index in range(3))
        q, k, v = _to_heads(query, key, value, attributes)
        past_key, past_value = optional(inputs, 4), optional(inputs, 5)
        if past_key is not None and past_value is not None:
            k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
        repeat = q.shape[1] // k.shape[1]
        wide_k, wide_v = np.repeat(widen(k), repeat, axis=1), np.repeat(widen(v), repeat, axis=1)
        scale = attributes["scale"]
        root = np.sqrt(1 / np.sqrt(q.shape[3]) if scale is None else scale)
        wide_q = widen(q) * widen(q).dtype.type(root)
        scores = wide_q @ (wide_k * wide_k.dtype.type(root)).swapaxes(2, 3)
        raw, cap = scores, attributes["softcap"]
        if cap:
            scores = (np.tanh(scores / cap) * cap).astype(scores.dtype)
        past = 0 if past_key is None else past_key.shape[2]
        bias = attention_bias(optional(inputs, 3), optional(inputs, 6), scores, past, attributes)
        biased = scores + bias
        weights = masked_softmax(biased, bias)
        states = (raw, scores, biased, weights)
        state = states[attributes["qk_matmul_output_mode"]]
        out = weights @ wide_v
        if query.ndim == 3:
            out = merge_heads(out)
        return [narrow(out, query), narrow(k, key), narrow(v, value), narrow(state, query)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both layouts, masks, causality, grouped heads, softcap and the key-value cache."""
        return _attention_samples()

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count both matrix products and five operations a score."""
        query, key, value = node.present_inputs[:3]
        if query.shape is None or key.shape is None or value.shape is None:
            return Cost(0, bytes_of(node))
        query_heads, key_heads = _head_counts(node)
        q = _heads_first(query.shape, query_heads)
        k, v = _heads_first(key.shape, key_heads), _heads_first(value.shape, key_heads)
        past = node.input(4)
        total = k[2] if past is None else k[2] + past.known_shape[2]
        scores = product((q[0], q[1], q[2], total))
        return Cost(scores * (q[3] * 2 + v[3] * 2 + 5), bytes_of(node))


def _to_heads(
    query: Array, key: Array, value: Array, attributes: Attributes
) -> tuple[Array, Array, Array]:
    if query.ndim == 4:
        return query, key, value
    heads, shared = attributes["q_num_heads"], attributes["kv_num_heads"]
    return split_heads(query, heads), split_heads(key, shared), split_heads(value, shared)


def attention_bias(
    mask: Array | None, lengths: Array | None, scores: Array, past: int, attributes: Attributes
) -> Array:
    """Return what is added to `scores` [B,H,Q,K]: mask, causality, windows and padding (-inf)."""
    queries, keys = scores.shape[2:]
    minus, zero = scores.dtype.type(-np.inf), scores.dtype.type(0)
    bias = np.zeros((1, 1, queries, keys), dtype=scores.dtype)
    if mask is not None:
        fill: Any = False if mask.dtype == np.bool_ else -np.inf
        missing = keys - mask.shape[-1]
        full = widen(mask)
        if missing > 0:
            widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
            full = np.pad(full, widths, constant_values=fill)
        bias = bias + (np.where(full, zero, minus) if full.dtype == np.bool_ else full)
    offset = np.array([past]) if lengths is None or past else lengths.reshape(-1) - queries
    position = offset.reshape(-1, 1, 1, 1) + np.arange(queries).reshape(1, 1, -1, 1)
    ahead = np.arange(keys).reshape(1, 1, 1, -1) - position
    allowed = np.ones_like(ahead, dtype=np.bool_)
    if attributes["is_causal"]:
        allowed &= ahead <= 0
    if attributes["left_window_size"] >= 0:
        allowed &= -ahead <= attributes["left_window_size"]
    if attributes["right_window_size"] >= 0:
        allowed &= ahead <= attributes["right_window_size"]
    if lengths is not None:
        allowed = allowed & (np.arange(keys) < lengths.reshape(-1, 1, 1, 1))
    return np.asarray(bias + np.where(allowed, zero, minus))


def _attention_samples() -> list[Sample]:
    q, k, v = (random_array(seed, 2, 4, 3, 8) for seed in (1, 2, 3))
    long_k, long_v = random_array(4, 2, 4, 5, 8), random_array(5, 2, 4, 5, 6)
    shared_k, shared_v = random_array(6, 2, 2, 5, 8), random_array(7, 2, 2, 5, 8)
    mask = random_array(8, 3, 5)
    flags = random_array(9, 2, 1, 3, 5) > -0.5
    flags[..., 0] = True
    past = random_array(10, 2, 4, 2, 8)
    packed = tuple(random_array(seed, 2, 3, 32) for seed in (11, 12, 13))
    heads = {"q_num_heads": 4, "kv_num_heads": 4}
    return [
        Sample((q, k, v)),
        Sample((q, long_k, long_v), {"scale": 0.1}, name="cross"),
        Sample((q, long_k, long_v, mask), name="mask"),
        Sample((q, long_k, long_v, flags), {"softcap": 2.0}, name="boolean"),
        Sample((q, k, v), {"is_causal": 1}, name="causal"),
        Sample((q, shared_k, shared_v), name="grouped"),
        Sample(packed, heads, name="packed"),
        Sample(packed, {**heads, "is_causal": 1, "scale": 0.2}, name="packed_causal"),
        Sample((q, k, v, None, past, past), {"is_causal": 1}, outputs=3, name="cache"),
        Sample((q, k, v, mask, past, past), {}, outputs=3, name="cache_mask"),
    ]


# -- rotary embedding ----------------------------------------------------------------------------


class RotaryEmbedding(Op):
    """Rotate pairs of features by angles that depend on the position (RoPE).

    Inputs x ([B,H,S,D] or [B,S,H*D]), cos and sin caches ([P,R/2] with position_ids [B,S], else
    [B,S,R/2]); the first R = `rotary_embedding_dim` (0: all D) features are rotated.
    """

    name = "RotaryEmbedding"
    attributes: ClassVar[Mapping[str, Any]] = {
        "interleaved": 0,
        "num_heads": None,
        "rotary_embedding_dim": 0,
    }
    operations_per_element = 3

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the input's type."""
        x = node.present_inputs[0]
        if x.shape is not None and len(x.shape) == 3 and not node.attributes["num_heads"]:
            raise ShapeError("num_heads is needed for a 3-D input", where=str(node))
        return [Inferred(x.dtype, x.shape)]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Rotate in float32 at least."""
        x, cosine, sine = (required(inputs, index) for index in range(3))
        positions = optional(inputs, 3)
        heads = widen(x) if x.ndim == 4 else split_heads(widen(x), attributes["num_heads"])
        cosine, sine = widen(cosine), widen(sine)
        if positions is not None:
            cosine, sine = cosine[positions], sine[positions]
        size = attributes["rotary_embedding_dim"] or heads.shape[3]
        interleaved = bool(attributes["interleaved"])
        out = rotate(heads, cosine[:, None], sine[:, None], size, interleaved)
        return [narrow(out if x.ndim == 4 else merge_heads(out), x)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both layouts, interleaving, partial rotation and absent positions."""
        angles = np.random.default_rng(4).random((10, 4)) * 6
        cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        positions = np.array([[0, 3, 9], [1, 2, 5]], np.int64)
        x, packed = random_array(1, 2, 4, 3, 8), random_array(2, 2, 3, 32)
        caches = cosine[positions], sine[positions]
        wide = random_array(3, 2, 4, 3, 12)
        constant = (1, 2)
        return [
            Sample((x, cosine, sine, positions), {}, constant),
            Sample((x, cosine, sine, positions), {"interleaved": 1}, constant, name="interleaved"),
            Sample((packed, cosine, sine, positions), {"num_heads": 4}, constant, name="packed"),
            Sample((x, *caches), {}, name="no_positions"),
            Sample(
                (wide, cosine, sine, positions),
                {"rotary_embedding_dim": 8, "num_heads": 4},
                constant,
                name="partial",
            ),
        ]


def rotate(x: Array, cosine: Array, sine: Array, size: int, interleaved: bool) -> Array:
    """Return `x` [...,D] with its first `size` features rotated by angles [...,size/2].

    Feature i pairs with i + size/2, or with its neighbour when `interleaved`.
    """
    first, second = slice(0, size // 2), slice(size // 2, size)
    if interleaved:
        first, second = slice(0, size, 2), slice(1, size, 2)
    out = x.copy()
    out[..., first] = cosine * x[..., first] - sine * x[..., second]
    out[..., second] = sine * x[..., first] + cosine * x[..., second]
    return out
