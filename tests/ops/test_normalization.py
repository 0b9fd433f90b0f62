"""What normalizations refuse, and their precision."""

from __future__ import annotations

import numpy as np
import pytest

from planish.errors import ShapeError, UnsupportedOperatorError
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import symbol
from planish.ops.op import OPS

N = symbol("N")


def batch_normalization(channels: int, **attributes: object) -> Node:
    op, graph = OPS["BatchNormalization"], Graph()
    x = graph.add_input("x", F32, (N, 4, 8, 8))
    vectors = [graph.constant(np.ones(channels, np.float32)) for _ in range(4)]
    output = Value("y", F32, None)
    return graph.append(Node(op.name, [x, *vectors], [output], {**op.attributes, **attributes}))


def test_training_mode_is_unsupported() -> None:
    with pytest.raises(UnsupportedOperatorError, match="inference mode"):
        OPS["BatchNormalization"].infer(batch_normalization(4, training_mode=1))


def test_vectors_must_have_one_number_a_channel() -> None:
    assert OPS["BatchNormalization"].infer(batch_normalization(4))[0].shape == (N, 4, 8, 8)
    with pytest.raises(ShapeError, match="one number for each"):
        OPS["BatchNormalization"].infer(batch_normalization(3))


def test_uneven_groups_are_refused() -> None:
    op, graph = OPS["GroupNormalization"], Graph()
    x = graph.add_input("x", F32, (N, 6, 8))
    vectors = [graph.constant(np.ones(6, np.float32)) for _ in range(2)]
    node = Node(op.name, [x, *vectors], [Value("y", F32, None)], {**op.attributes, "num_groups": 4})
    with pytest.raises(ShapeError, match="6 channels are not 4 equal groups"):
        op.infer(graph.append(node))


def test_variance_does_not_cancel() -> None:
    """E[x^2] - E[x]^2 loses every digit here in float32; two passes do not."""
    x = (np.arange(8, dtype=np.float32) / 8 + 4096).reshape(1, 8)
    op = OPS["LayerNormalization"]
    (out, *_) = op.reference((x, np.ones(8, np.float32)), {**op.attributes, "epsilon": 0.0})
    exact = x.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(out, expected, rtol=1e-4)


def test_statistics_of_bfloat16_are_float32() -> None:
    op, graph = OPS["LayerNormalization"], Graph()
    x = graph.add_input("x", BF16, (N, 8))
    scale = graph.constant(np.ones(8, BF16.numpy))
    outputs = [Value(name, F32, None) for name in ("y", "mean", "inverse")]
    types = op.infer(graph.append(Node(op.name, [x, scale], outputs, dict(op.attributes))))
    assert [each.dtype for each in types] == [BF16, F32, F32]
    arrays = op.reference((np.ones((2, 8), BF16.numpy), scale.array), op.attributes)
    assert [array.dtype for array in arrays] == [BF16.numpy, np.float32, np.float32]
