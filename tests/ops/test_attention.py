"""Attention: masks that leave nothing, cache lengths, windows, and packed operands."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference.ops.op_attention import _compute_attention

from planish.errors import ShapeError
from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbol
from planish.ops.op import OPS, Array


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attend(*inputs: Array | None, **attributes: object) -> list[Array]:
    return OPS["Attention"].reference(inputs, {**OPS["Attention"].attributes, **attributes})


Q, K, V = draw(2, 4, 3, 8), draw(2, 2, 6, 8, seed=1), draw(2, 2, 6, 8, seed=2)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("window", [(-1, -1), (1, -1), (0, 2)])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("external_cache", [False, True])
def test_agrees_with_onnx_reference(
    causal: int, window: tuple[int, int], mode: int, external_cache: bool
) -> None:
    """ONNX Runtime lacks opset 25's windows and cache lengths: onnx's evaluator is the oracle."""
    lengths = np.array([2, 5], np.int64) if external_cache else None
    mask = draw(3, 6, seed=3)
    options = {
        "is_causal": causal,
        "left_window_size": window[0],
        "right_window_size": window[1],
        "softcap": 1.5,
        "qk_matmul_output_mode": mode,
    }
    with np.errstate(invalid="ignore"):
        expected = _compute_attention(Q, K, V, mask, None, None, lengths, **options)
    got = attend(Q, K, V, mask, None, None, lengths, **options)
    # onnx caps the scores of mode 0 as well, against its own text; the next test has that mode
    compared = (0, 1, 2, 3) if mode else (0, 1, 2)
    for index in compared:
        np.testing.assert_allclose(got[index], expected[index], rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(got[0]).reshape(-1))


def test_raw_scores_come_before_the_cap() -> None:
    raw = attend(Q * 3, K, V, softcap=1.5, qk_matmul_output_mode=0)[3]
    plain = attend(Q * 3, K, V, qk_matmul_output_mode=0)[3]
    np.testing.assert_array_equal(raw, plain)
    assert np.abs(raw).max() > 1.5


def test_query_without_keys_gives_zeros() -> None:
    mask = np.ones((3, 6), np.bool_)
    mask[1] = False
    out = attend(Q, K, V, mask)[0]
    assert not out[:, :, 1].any()
    assert out[:, :, 0].any()


def test_packed_operands_equal_heads() -> None:
    def packed(x: Array) -> Array:
        return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)

    out = attend(packed(Q), packed(K), packed(V), q_num_heads=4, kv_num_heads=2)[0]
    np.testing.assert_allclose(out, packed(attend(Q, K, V)[0]), rtol=1e-6)


def test_packed_multi_head_attention_equals_separate_operands() -> None:
    """ONNX Runtime's CPU kernel does not take packed operands."""
    op = OPS["com.microsoft.MultiHeadAttention"]
    attributes = {**op.attributes, "num_heads": 4}
    parts = [draw(2, 3, 4, 8, seed=seed) for seed in (1, 2, 3)]
    flat = [part.reshape(2, 3, 32) for part in parts]
    expected = op.reference(flat, attributes)[0]
    together = op.reference([np.stack(parts, axis=3)], attributes)[0]
    np.testing.assert_allclose(together, expected, rtol=1e-6)
    pair = op.reference([flat[0], np.stack(parts[1:], axis=3)], attributes)[0]
    np.testing.assert_allclose(pair, expected, rtol=1e-6)


def attention_node(shape: tuple[object, ...], **attributes: object) -> Node:
    graph = Graph()
    values = [graph.add_input(name, F32, shape) for name in "qkv"]
    past = graph.add_input("past", F32, (symbol("B"), 4, symbol("P"), 8))
    output = [Value(name, F32, None) for name in "yab"]
    inputs = [*values, None, past, past]
    return graph.append(
        Node("Attention", inputs, output, {**OPS["Attention"].attributes, **attributes})
    )


def test_symbolic_shapes_with_a_cache() -> None:
    batch, steps, past = symbol("B"), symbol("S"), symbol("P")
    node = attention_node((batch, steps, 32), q_num_heads=4, kv_num_heads=4)
    out, key, value, _ = (each.shape for each in OPS["Attention"].infer(node))
    assert out == (batch, steps, 32)
    assert key == value == (batch, 4, past + steps, 8)


def test_packed_operands_need_head_counts() -> None:
    with pytest.raises(ShapeError, match="q_num_heads"):
        OPS["Attention"].infer(attention_node((2, 3, 32)))
