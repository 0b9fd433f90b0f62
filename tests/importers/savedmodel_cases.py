"""Graphs of one TensorFlow operation each, in the variants that their rules tell apart.

``python -m tests.importers.savedmodel_cases`` (with TensorFlow) records every graph and its
results in ``savedmodel_cases.npz``, from which the tests run without TensorFlow.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np

import tests.importers.savedmodel_image_cases  # noqa: F401 (adds its cases)
from tests.importers.savedmodel_case import CASES, Array, Case, case, floats, raw, whole

RECORDED = Path(__file__).with_name("savedmodel_cases.npz")


def _pointwise() -> None:
    x, positive = floats(2, 3), floats(2, 3, low=0.1)
    unit = floats(2, 3, low=-0.9, high=0.9)
    domains = {
        "abs": x, "acos": unit, "acosh": positive + 1, "asin": unit, "asinh": x, "atan": x,
        "atanh": unit, "ceil": x, "cos": x, "cosh": x, "erf": x, "erfc": x, "exp": x, "expm1": x,
        "floor": x, "log": positive, "log1p": positive, "negative": x, "reciprocal": positive,
        "rint": x, "round": x, "rsqrt": positive, "sigmoid": x, "sign": x, "sin": x, "sinh": x,
        "softplus": x, "softsign": x, "sqrt": positive, "square": x, "tan": unit, "tanh": x,
    }  # fmt: skip
    for name, array in domains.items():
        case(name, lambda tf, a, name=name: getattr(tf.math, name)(a), array)
    tiny = np.array([-1e-3, -1e-7, 0, 1e-7, 1e-3, 0.4, 3, 30, 80], np.float32)
    case("expm1_small", lambda tf, a: tf.math.expm1(a) * 1e3, tiny[:6])
    case("log1p_small", lambda tf, a: tf.math.log1p(a) * 1e3, tiny)
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    case("round_halves", lambda tf, a: tf.round(a), halves)
    case("round_integers", lambda tf, a: tf.round(a), whole(5))
    special = np.array([np.nan, np.inf, -np.inf, 1, 0], np.float32)
    for name in ("is_nan", "is_inf", "is_finite"):
        case(name, lambda tf, a, name=name: getattr(tf.math, name)(a), special)
    for name in ("relu", "relu6", "elu", "selu"):
        case(name, lambda tf, a, name=name: getattr(tf.nn, name)(a), x * 3)
    case("leaky_relu", lambda tf, a: tf.nn.leaky_relu(a, 0.3), x)
    case("gelu", lambda tf, a: tf.nn.gelu(a), x)
    case("gelu_tanh", lambda tf, a: tf.nn.gelu(a, approximate=True), x)
    case("swish", lambda tf, a: tf.nn.swish(a), x)
    y = floats(2, 3, seed=1)
    for name in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "squared_difference",
        "floordiv", "floormod", "equal", "not_equal", "less", "less_equal", "greater",
        "greater_equal", "atan2", "truncatemod",
    ):  # fmt: skip
        case(
            name,
            lambda tf, a, b, name=name: getattr(tf.math, name, getattr(tf, name, None))(a, b),
            x,
            y,
        )
    case("broadcast", lambda tf, a, b: a * b, floats(2, 3, 4), floats(3, 1))
    a, b = whole(4, 5), whole(4, 5, seed=1)
    b[b == 0] = 3
    for name in ("floordiv", "floormod", "truncatediv", "truncatemod", "equal", "add"):
        case(
            f"{name}_integers",
            lambda tf, a, b, name=name: getattr(tf, name, getattr(tf.math, name, None))(a, b),
            a,
            b,
        )
    case("pow", lambda tf, a, b: tf.pow(a, b), positive, y)
    zeros = np.where(np.abs(x) < 1.5, 0, x).astype(np.float32)
    for name in ("xdivy", "xlogy", "xlog1py"):
        case(name, lambda tf, a, b, name=name: getattr(tf.math, name)(a, b), zeros, positive)
    case("divide_no_nan", lambda tf, a, b: tf.math.divide_no_nan(a, b), x, zeros)
    case("multiply_no_nan", lambda tf, a, b: tf.math.multiply_no_nan(a, b), x, zeros)
    case("add_n", lambda tf, a, b: tf.add_n([a, b, a]), x, y)
    case("clip", lambda tf, a: tf.clip_by_value(a, -1.0, 1.5), x)
    case(
        "clip_tensors",
        lambda tf, a, b: raw("ClipByValue", names=("t", "clip_value_min", "clip_value_max"))(
            tf, a, b, b + 1.0
        ),
        x,
        y,
    )
    p, q = x > 0, y > 0
    for name in ("logical_and", "logical_or", "logical_xor"):
        case(name, lambda tf, a, b, name=name: getattr(tf.math, name)(a, b), p, q)
    case("logical_not", lambda tf, a: tf.logical_not(a), p)
    case("where", lambda tf, c, a, b: tf.where(c, a, b), p, x, y)
    case("where_broadcast", lambda tf, c, a: tf.where(c, a, 0.0), p[:, :1], x)
    case("select_rows", raw("Select", names=("condition", "x", "y")), p[:, 0], x, y)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        case(name, lambda tf, a, b, name=name: getattr(tf.bitwise, name)(a, b), a, b)
    case("invert", lambda tf, a: tf.bitwise.invert(a), a)
    case(
        "shifts",
        lambda tf, a, b: [tf.bitwise.left_shift(a, b), tf.bitwise.right_shift(a, b)],
        whole(5, low=0, high=99, dtype=np.uint32),
        whole(5, low=0, high=7, dtype=np.uint32),
    )
    types = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "uint8", "int8", "bool")
    for name in types:
        case(
            f"cast_{name}",
            lambda tf, a, name=name: tf.cast(tf.cast(a, name), tf.float32),
            positive * 9,
        )
    case("cast_negative", lambda tf, a: tf.cast(a, tf.int32), x)
    case("like", lambda tf, a: [tf.zeros_like(a), tf.ones_like(a)], x)
    case("like_dynamic", lambda tf, a: [tf.zeros_like(a), tf.ones_like(a)], x, shapes=[(None, 3)])
    case("half", lambda tf, a: tf.cast(tf.nn.relu(tf.cast(a, tf.float16)), tf.float32), x)
    case(
        "identities",
        lambda tf, a: tf.stop_gradient(tf.identity(tf.ensure_shape(a, (2, 3)))) + 1.0,
        x,
    )
    case("identity_n", lambda tf, a, b: [t + 1.0 for t in tf.identity_n([a, b])], x, y)
    case("checked", lambda tf, a: tf.debugging.check_numerics(a, "odd") * 2.0, x)


def _reduce() -> None:
    x = floats(2, 3, 4)
    for name, axis, keep in itertools.product(
        ("mean", "sum", "prod", "max", "min", "euclidean_norm"), (None, 1, (-1, 0)), (False, True)
    ):
        case(
            f"reduce_{name}_{axis}_{keep}",
            lambda tf, a, name=name, axis=axis, keep=keep: getattr(tf.math, f"reduce_{name}")(
                a, axis, keep
            ),
            x,
        )
    case(
        "reduce_nothing", lambda tf, a: tf.raw_ops.Sum(input=a, axis=np.zeros(0, np.int32)) + 1.0, x
    )
    case("reduce_integers", lambda tf, a: tf.reduce_sum(a, 0), whole(3, 4))
    case(
        "all_any",
        lambda tf, a: [tf.reduce_all(a, 1), tf.reduce_any(a, 0, keepdims=True)],
        x[0] > -2,
    )
    case("reduce_logsumexp", lambda tf, a: tf.reduce_logsumexp(a, 1), x)
    case("reduce_variance", lambda tf, a: tf.math.reduce_variance(a, 1), x)
    ties = np.array([[1, 5, 5, 2], [7, 7, 0, 1]], np.float32)
    for kind, output in itertools.product(("argmax", "argmin"), ("int32", "int64")):
        case(
            f"{kind}_{output}",
            lambda tf, a, k=kind, o=output: getattr(tf, k)(a, 1, output_type=getattr(tf, o)),
            ties,
        )
    for exclusive, reverse in itertools.product((False, True), repeat=2):
        case(
            f"cumsum_{exclusive}_{reverse}",
            lambda tf, a, e=exclusive, r=reverse: [
                tf.cumsum(a, 1, exclusive=e, reverse=r),
                tf.math.cumprod(a, -1, exclusive=e, reverse=r),
            ],
            x,
        )
    case("softmax", lambda tf, a: [tf.nn.softmax(a), tf.nn.log_softmax(a)], x)
    case("softmax_axis", lambda tf, a: tf.nn.softmax(a, axis=1), x)
    bins = np.array([[0, 2, 2, 9], [1, 1, 4, 3]], np.int32)
    for binary in (False, True):
        case(
            f"bincount_{binary}",
            raw(
                "DenseBincount",
                names=("input",),
                size=np.array(5, np.int32),
                weights=np.zeros(0, np.float32),
                binary_output=binary,
            ),
            bins,
        )
    case(
        "bincount_weights",
        raw("DenseBincount", names=("input", "weights"), size=np.array(5, np.int32)),
        bins,
        floats(2, 4),
    )
    case("l2_loss", lambda tf, a: tf.nn.l2_loss(a), x)
    case("l2_normalize", lambda tf, a: tf.math.l2_normalize(a, -1), x)
    case("top_k", lambda tf, a: list(tf.math.top_k(a, 3)), x)
    case("top_k_ties", lambda tf, a: list(tf.math.top_k(a, 3)), ties)
    ids = np.array([0, 0, 2, 1], np.int32)
    case("segment_sum", lambda tf, a: tf.math.segment_sum(a, np.array([0, 0, 1, 3])), floats(4, 3))
    case(
        "unsorted_segment_sum",
        lambda tf, a, s: tf.math.unsorted_segment_sum(a, s, 4),
        floats(4, 3),
        ids,
    )
    case(
        "in_top_k",
        lambda tf, a, t: tf.math.in_top_k(t, a, 2),
        floats(4, 5),
        whole(4, low=0, high=5),
    )
    case("moments", lambda tf, a: list(tf.nn.moments(a, [0, 2])), x)


def _linear() -> None:
    a, b = floats(2, 3, 4), floats(2, 4, 5)
    case("matmul", lambda tf, x: tf.matmul(x, b[0]), a[0])
    case(
        "matmul_transposed",
        lambda tf, x: tf.matmul(x, b[0], transpose_a=True, transpose_b=True),
        floats(4, 3).repeat(2, 0)[:5],
    )
    case("batch_matmul", lambda tf, x, y: tf.matmul(x, y), a, b)
    case(
        "batch_matmul_adjoint",
        lambda tf, x, y: tf.matmul(x, y, adjoint_a=True, adjoint_b=True),
        floats(2, 4, 3),
        floats(2, 5, 4),
    )
    case("batch_matmul_broadcast", lambda tf, x, y: tf.matmul(x, y), a, b[0])
    for index, equation in enumerate(
        (
            "abc,cd->abd",
            "bij,bjk->bik",
            "bthd,bshd->bhts",
            "bhts,bshd->bthd",
            "ab->ba",
            "abc->ac",
            "i,j->ij",
        )
    ):
        left = equation.split("->")[0].split(",")
        sizes = {letter: 2 + i for i, letter in enumerate(sorted(set("".join(left))))}
        arrays = [
            floats(*(sizes[letter] for letter in part), seed=i) for i, part in enumerate(left)
        ]
        case(f"einsum_{index}", lambda tf, *xs, e=equation: tf.einsum(e, *xs), *arrays)
    case("tensordot", lambda tf, x: tf.tensordot(x, b[0], 1), a, shapes=[(None, None, 4)])


def _shapes() -> None:
    x = floats(2, 3, 4)
    open_ = [(None, None, 4)]
    case("reshape", lambda tf, a: [tf.reshape(a, (4, -1)), tf.reshape(a, [-1])], x)
    case(
        "reshape_open",
        lambda tf, a: tf.reshape(a, (tf.shape(a)[0], tf.shape(a)[1] * 4)),
        x,
        shapes=open_,
    )
    case("reshape_scalar", lambda tf, a: tf.reshape(a, []) * 2.0, floats(1, 1))
    case(
        "squeeze",
        lambda tf, a: [tf.squeeze(a), tf.squeeze(a, [0]), tf.squeeze(a, -1)],
        floats(1, 3, 1),
    )
    case(
        "expand_dims",
        lambda tf, a: [tf.expand_dims(a, 0), tf.expand_dims(a, -1), tf.expand_dims(a, -3)],
        x,
    )
    case("transpose", lambda tf, a: [tf.transpose(a), tf.transpose(a, (1, 2, 0))], x)
    case("stack", lambda tf, a: [tf.stack([a, a + 1.0], axis) for axis in (0, 1, -1)], x)
    case(
        "unstack",
        lambda tf, a: [*tf.unstack(a, axis=1), *tf.unstack(a, axis=-1), *tf.unstack(a[:1])],
        x,
    )
    case("concat", lambda tf, a: [tf.concat([a, a * 2.0], axis) for axis in (0, 1, -1)], x)
    case(
        "split",
        lambda tf, a: [*tf.split(a, 2, -1), *tf.split(a, [1, 2], 1), *tf.split(a, [1, -1], 1)],
        x,
    )
    case("split_open", lambda tf, a: tf.split(a, [1, -1, 1], 1), floats(2, 5, 4), shapes=open_)
    case(
        "slice",
        lambda tf, a: [tf.slice(a, [0, 1, 2], [1, -1, 2]), tf.slice(a, [1, 0, 1], [1, 2, 2])],
        x,
    )
    case(
        "slice_by_data",
        lambda tf, a, n: tf.slice(a, n, [1, 2, 2]),
        x,
        np.array([1, 0, 1], np.int32),
    )
    case("tile", lambda tf, a: tf.tile(a, (1, 2, 3)), x)
    case("broadcast_to", lambda tf, a: tf.broadcast_to(a, (3, 2, 3, 4)), x)
    case(
        "broadcast_open",
        lambda tf, a: tf.broadcast_to(a[:, :1], tf.broadcast_dynamic_shape(tf.shape(a), [1, 1, 4])),
        x,
        shapes=open_,
    )
    case(
        "shape_size_rank",
        lambda tf, a: [tf.shape(a), tf.size(a), tf.rank(a), tf.shape(a, out_type=tf.int64)],
        x,
        shapes=open_,
    )
    case(
        "shape_n",
        lambda tf, a, b: tf.shape_n([a, b]),
        x,
        floats(2, 2),
        shapes=[(None, 3, 4), (None, 2)],
    )
    case("fill", lambda tf, a: tf.fill(tf.shape(a), 2.5), x, shapes=open_)
    case("fill_by_data", lambda tf, a: tf.fill((2, 3), a), floats())
    case("range", lambda tf, a: tf.range(tf.shape(a)[1] * 2) + 0, x, shapes=open_)
    case("range_float", lambda tf, a: tf.range(0.0, 3.0, 0.5) + a, floats(6))
    case("linspace", lambda tf, a: tf.linspace(a, 4.0, 7), floats())
    case("reverse", lambda tf, a: [tf.reverse(a, [1]), tf.reverse(a, [-1, 0])], x)
    case(
        "reverse_sequence",
        lambda tf, a, n: tf.reverse_sequence(a, n, seq_axis=1),
        x,
        np.array([2, 3], np.int64),
    )
    case("roll", lambda tf, a: [tf.roll(a, 1, 1), tf.roll(a, (-1, 2), (2, 1))], x)
    widths = [[1, 0], [0, 2], [1, 1]]
    case("pad", lambda tf, a: [tf.pad(a, widths), tf.pad(a, widths, constant_values=1.5)], x)
    case("pad_reflect", lambda tf, a: tf.pad(a, [[1, 0], [0, 2], [3, 1]], "REFLECT"), x)
    case("pad_symmetric", lambda tf, a: tf.pad(a, [[1, 2], [0, 3], [4, 1]], "SYMMETRIC"), x)
    case(
        "band_part",
        lambda tf, a: [
            tf.linalg.band_part(a, *n) for n in ((0, -1), (-1, 0), (1, 1), (-1, -1), (0, 2))
        ],
        floats(2, 4, 5),
    )
    case("where_positions", lambda tf, a: tf.where(a > 0), x)
    case(
        "data_format",
        lambda tf, a: [tf.raw_ops.DataFormatVecPermute(x=a), tf.raw_ops.DataFormatDimMap(x=a % 4)],
        whole(4, low=0),
    )
    case("bucketize", raw("Bucketize", names=("input",), boundaries=[-1.0, 0.5, 2.0]), x)
    case(
        "invert_permutation",
        lambda tf, a: tf.gather(a, tf.math.invert_permutation([2, 0, 1]), axis=1),
        x,
    )
    for index, build in enumerate((
        lambda a: a[:, 1], lambda a: a[..., -1], lambda a: a[1:, :2, ::2], lambda a: a[::-1, ::-2],
        lambda a: a[:, None, 1:, None], lambda a: a[0, ..., None], lambda a: a[-1, -2, -3],
        lambda a: a[:, -2:], lambda a: a[:, :-1, 1:-1], lambda a: a[..., 3:0:-1], lambda a: a[1:1],
        lambda a: a[None, ..., 1, None, :],
    )):  # fmt: skip
        case(f"strided_{index}", lambda tf, a, build=build: build(a), x)
        case(f"strided_open_{index}", lambda tf, a, build=build: build(a), x, shapes=open_)
    case(
        "strided_by_data", lambda tf, a, n: [a[n], a[:, n:, 1], a[:, :n]], x, np.array(1, np.int32)
    )
    case(
        "strided_by_shape",
        lambda tf, a: [a[:, tf.shape(a)[1] - 1], a[:, : tf.shape(a)[1] // 2]],
        x,
        shapes=open_,
    )


def _gathering() -> None:
    x, rows = floats(3, 4, 5), whole(2, 2, low=0, high=3)
    for axis in (0, 1, -1):
        case(f"gather_{axis}", lambda tf, a, i, axis=axis: tf.gather(a, i, axis=axis), x, rows)
    case(
        "gather_batch",
        lambda tf, a, i: tf.gather(a, i, batch_dims=1),
        x,
        whole(3, 2, low=0, high=4),
    )
    case(
        "gather_batch_axis",
        lambda tf, a, i: tf.gather(a, i, axis=2, batch_dims=1),
        x,
        whole(3, 2, low=0, high=5),
    )
    case(
        "gather_batch_two",
        lambda tf, a, i: tf.gather(a, i, batch_dims=2),
        x,
        whole(3, 4, 2, low=0, high=5),
    )
    case("embedding", lambda tf, i: tf.nn.embedding_lookup(x, i), rows)
    case("gather_nd", lambda tf, a, i: tf.gather_nd(a, i), x, whole(2, 2, low=0, high=3))
    case(
        "scatter_nd",
        lambda tf, i, u: tf.scatter_nd(i, u, (5, 3)),
        np.array([[1], [3], [1]], np.int32),
        floats(3, 3),
    )
    places = np.array([[0], [2]], np.int32)
    for name in ("update", "add", "sub", "max", "min"):
        case(
            f"tensor_scatter_{name}",
            lambda tf, a, u, n=name: getattr(tf, f"tensor_scatter_nd_{n}")(a, places, u),
            floats(3, 4),
            floats(2, 4),
        )
    indices = np.array([[0, 2], [-1, 5]], np.int32)
    case(
        "one_hot",
        lambda tf, i: [
            tf.one_hot(i, 4),
            tf.one_hot(i, 4, 2.0, -1.0, axis=0),
            tf.one_hot(i, 3, axis=1),
        ],
        indices,
    )
    case("diag_part", lambda tf, a: tf.linalg.diag_part(a), floats(2, 4, 4))
    case("diag", lambda tf, a: [tf.linalg.diag(a), tf.linalg.tensor_diag(a[0])], floats(2, 4))
    case("set_diag", lambda tf, a, d: tf.linalg.set_diag(a, d), floats(2, 4, 4), floats(2, 4))
    edges = np.sort(floats(2, 6), -1)
    for side in ("left", "right"):
        case(
            f"search_{side}",
            lambda tf, a, v, side=side: tf.searchsorted(a, v, side),
            edges,
            np.concatenate([floats(2, 3, seed=1), edges[:, 2:3]], -1),
        )
    case("unique", lambda tf, a: list(tf.unique(a)), np.array([3, 1, 3, 2, 1], np.int32))


for _family in (_pointwise, _reduce, _linear, _shapes, _gathering):
    _family()


def graph_of(each: Case, tf: Any) -> tuple[bytes, list[str]]:
    """Return the serialized GraphDef of a case and the names of its output tensors."""
    specs = [
        tf.TensorSpec(shape, array.dtype, name=name)
        for shape, array, name in zip(each.shapes, each.inputs, each.names, strict=True)
    ]
    function = tf.function(lambda *xs: each.build(tf, *xs), input_signature=specs, autograph=False)
    concrete = function.get_concrete_function()
    return concrete.graph.as_graph_def().SerializeToString(), [t.name for t in concrete.outputs]


def results_of(graph: bytes, outputs: list[str], each: Case, tf: Any) -> list[Array]:
    """Return what TensorFlow computes, operation by operation."""
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(graph)
    with tf.Graph().as_default() as built:
        tf.import_graph_def(definition, name="")
        feeds = {f"{name}:0": array for name, array in zip(each.names, each.inputs, strict=True)}
        with tf.compat.v1.Session(graph=built) as session:
            return [np.asarray(array) for array in session.run(outputs, feeds)]


def record(tf: Any) -> None:
    """Write graphs and results of all cases."""
    entries: dict[str, Array] = {}
    for each in CASES:
        graph, outputs = graph_of(each, tf)
        entries[f"{each.name}/graph"] = np.frombuffer(graph, np.uint8)
        entries[f"{each.name}/outputs"] = np.array(outputs)
        for index, array in enumerate(results_of(graph, outputs, each, tf)):
            entries[f"{each.name}/{index}"] = array
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **entries)
    RECORDED.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    import tensorflow

    record(tensorflow)
