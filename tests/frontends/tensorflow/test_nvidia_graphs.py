"""Graphs after NVIDIA's tests of TF-TRT: how many engines each becomes, and what they compute.

The list is that of tensorflow/python/compiler/tensorrt/test. Where Planish converts more than
TF-TRT did, the count here is ours. Engines are built for a few; the rest run natively, which
tests segmentation and the rewritten graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from planish.frontends.tensorflow import trt_convert as trt  # noqa: E402
from tests.frontends.tensorflow.saved_models import save, weights  # noqa: E402


def outside(x: Any) -> Any:
    """An operation that stays TensorFlow's; TF-TRT's tests take erfc, which Planish converts."""
    return tf.math.lgamma(x)


def single_engine(x):
    conv = tf.nn.conv2d(x, weights(1, 1, 2, 6), [1, 2, 2, 1], "SAME")
    pooled = tf.nn.max_pool2d(
        tf.identity(tf.nn.relu(tf.nn.bias_add(conv, weights(6)))), 2, 2, "VALID"
    )
    return tf.squeeze(pooled)


def multiple_engines(x):
    conv = tf.nn.conv2d(x, weights(1, 1, 2, 6), [1, 2, 2, 1], "SAME")
    p, q = conv * weights(12, 12, 6), conv / (2 + abs(weights(12, 12, 6)))
    edge = outside(q + 3.0)
    edge = edge / (abs(edge) + 1)
    return tf.squeeze((p - edge) + q * edge - (edge + edge))


def weight_broadcasts(x):
    for shape in ((1,), (4, 1, 1), (4, 4, 3), (3,), (1, 4, 1, 1), (1, 4, 4, 1), (1, 4, 4, 3)):
        x = outside(tf.abs(x) + abs(weights(*shape)))
        x = outside(abs(weights(*shape)) + tf.abs(x))
    return tf.reshape(x, [-1, 48])


def bias_and_matmul(x):
    w = weights(12, 10)
    parts = [tf.matmul(x, w), tf.matmul(x, w.T.copy(), transpose_b=True)]
    parts += [tf.nn.bias_add(part, weights(10)) for part in parts]
    return tf.concat(parts, -1)


def logical(x):
    above, below = x > 0.5, x < -0.5
    return tf.where(tf.logical_or(above, tf.logical_not(below)), x, -x)


def cast(x):
    return tf.cast(tf.cast(x, tf.float16) * tf.constant(2.0, tf.float16), tf.float32) + x


def concatenations(x):
    a, b = weights(3, 1, 1) + 4, weights(1, 3, 1) + 4
    first = tf.concat([x / a, a / (abs(x) + 1), b + x, x * b], -1)
    second = tf.concat([tf.minimum(a, x), tf.maximum(x, b), x - a], 3)
    return tf.reshape(tf.concat([first, second], -1), [-1, 63])


def const_broadcast(x):
    for _ in range(3):
        x = tf.nn.relu(tf.nn.conv2d(x, tf.fill([3, 3, 2, 2], 0.5), 1, "SAME"))
    return x


def identity_outputs(x):
    y = tf.exp(x) + x
    return {"a": tf.identity(y), "b": tf.identity(y), "c": tf.identity(tf.identity(y))}


def integer_product(x):
    return tf.matmul(x, np.arange(20, dtype=np.int32).reshape(4, 5))


def neighbours(x):
    conv = tf.nn.conv2d(x, weights(3, 2, 3, 4), 1, "VALID")
    branch = conv * weights(1, 1, 4) - weights(4)
    return branch - outside(abs(conv) + 1)


def many_connections(x):
    conv = tf.nn.conv2d(x, weights(3, 2, 3, 4) / 9, 1, "VALID")
    t = conv + weights(1, 1, 4)
    side = outside(abs(conv) + 1)
    return (t - weights(4)) * 2.0 + (conv - side) * t


def ranks(x):
    flat = tf.reduce_mean(abs(x), [1, 2]) + 1.0
    return outside(x * 1.0 + 5.0) * tf.reshape(flat, [-1, 1, 1, 3]) + 1.0


def reshapes_and_transposes(x):
    y = tf.transpose(tf.reshape(x, [-1, 12, 4]), [0, 2, 1])
    return tf.transpose(tf.reshape(y + 1.0, [-1, 4, 4, 3]), [0, 3, 1, 2]) * 2.0


def top_k(x):
    values, indices = tf.math.top_k(x, 5)
    return {"values": values, "indices": indices}


def unary(x):
    x = tf.exp(-abs(x)) + 0.5
    return tf.math.reciprocal(tf.sqrt(tf.math.log(x + 2.0)) + tf.math.rsqrt(x))


def vgg_block(x):
    ones = np.ones(2, np.float32)
    x, _, _ = tf.compat.v1.nn.fused_batch_norm(
        x, ones, ones * 0, mean=ones * 0.5, variance=ones, is_training=False
    )
    conv = tf.nn.bias_add(tf.nn.conv2d(x, weights(1, 1, 2, 6), 2, "SAME"), weights(6))
    return tf.squeeze(tf.nn.max_pool2d(tf.identity(tf.nn.relu(conv)), 2, 2, "VALID"))


def shape_arithmetic(x):
    shape = tf.cast(tf.shape(2.0 * x + 1.0), tf.float32)
    lifted = outside(shape + 1.0)
    return lifted * 2.0 + lifted * lifted


def control_edges(x):
    first = tf.nn.relu(x * 2.0 + 1.0)
    with tf.control_dependencies([tf.print(tf.shape(first), summarize=0)]):
        return tf.nn.relu(first * 3.0 - 1.0) + 2.0


def data_dependent(x):
    values, _ = tf.unique(tf.reshape(x, [-1]))
    return tf.nn.relu(values * 2.0 + 1.0) * 3.0


@dataclass(frozen=True)
class Case:
    graph: Callable[..., Any]
    shape: tuple[int, ...]
    engines: int
    dtype: str = "float32"
    build: bool = False
    tolerance: float = 1e-5
    optimize: bool = True


CASES = [
    Case(single_engine, (10, 24, 24, 2), 1, build=True),
    Case(multiple_engines, (10, 24, 24, 2), 2),
    Case(weight_broadcasts, (2, 4, 4, 3), 14),
    Case(bias_and_matmul, (4, 12), 1, build=True),
    Case(logical, (2, 3, 3), 1),
    Case(cast, (1, 10), 1, tolerance=5e-3),
    Case(concatenations, (2, 3, 3, 1), 1),
    Case(const_broadcast, (2, 6, 6, 2), 1),
    Case(identity_outputs, (10, 32), 1),
    Case(integer_product, (5, 4), 0, dtype="int32"),
    Case(neighbours, (2, 7, 8, 3), 2),
    Case(many_connections, (2, 7, 8, 3), 2),
    Case(ranks, (5, 4, 4, 3), 2),
    Case(reshapes_and_transposes, (2, 4, 12), 1),
    Case(top_k, (10, 100), 1),
    Case(unary, (3, 7), 1),
    Case(vgg_block, (5, 8, 8, 2), 1),
    Case(shape_arithmetic, (2, 5, 3), 2),
    Case(control_edges, (3, 4), 2, build=True, optimize=False),
    Case(data_dependent, (3, 4), 1),
]


QUICK = (single_engine, bias_and_matmul, logical, integer_product, control_edges, data_dependent)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.graph.__name__,
            marks=[] if case.graph in QUICK else pytest.mark.slow,
        )
        for case in CASES
    ],
)
def test_engines_and_results(case, tmp_path):
    spec = tf.TensorSpec([None, *case.shape[1:]], tf.dtypes.as_dtype(case.dtype), "x")
    folder = save(tmp_path / "in", case.graph, spec)
    converter = trt.TrtGraphConverterV2(
        str(folder), minimum_segment_size=2, allow_build_at_runtime=case.build,
        time_budget=2.0 if case.build else 0,
    )  # fmt: skip
    converter._test_only_disable_non_trt_optimizers = not case.optimize
    function = converter.convert()
    nodes = [node.op for node in converter._converted_graph_def.node]
    assert nodes.count("TRTEngineOp") == case.engines, nodes
    x = tf.constant(
        (weights(*case.shape) * (10 if case.dtype == "int32" else 1)).astype(case.dtype)
    )
    expected = tf.saved_model.load(str(folder)).signatures["serving_default"](x)
    got = function(x)
    for name, value in expected.items():
        np.testing.assert_allclose(
            got[name].numpy(), value.numpy(), rtol=case.tolerance, atol=case.tolerance
        )
