"""Reductions of extents, unknown axes, and Resize's extents."""

from __future__ import annotations

import numpy as np
import pytest

from planish.ir.dtypes import F32, I64
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, dim_max, evaluate, symbol
from planish.ops.op import OPS, Inferred
from planish.ops.resize import scaled_extent

N, H = symbol("N"), symbol("H")


def infer(
    op: str, contents: tuple[Dim, ...] | None, axes: object = None, **attributes: int
) -> Inferred:
    graph = Graph()
    shape = (len(contents),) if contents else (N, H, 5)
    x = graph.add_input("x", I64 if contents else F32, shape)
    x.content = contents
    extra = [graph.constant(np.array(axes, np.int64))] if isinstance(axes, list) else []
    if axes == "dynamic":
        extra = [graph.add_input("axes", I64, (1,))]
    node = Node(op, [x, *extra], [Value("y", x.dtype, None)], {**OPS[op].attributes, **attributes})
    return OPS[op].infer(graph.append(node))[0]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("ReduceProd", N * H * 3),
        ("ReduceSum", N + H + 3),
        ("ReduceMax", dim_max(dim_max(N, H), 3)),
        ("ReduceMean", None),
    ],
)
def test_extents_are_reduced(op: str, expected: Dim | None) -> None:
    found = infer(op, (N, H, 3), keepdims=0)
    assert found.shape == ()
    assert found.content == (None if expected is None else (expected,))


def test_no_axes_keep_the_contents() -> None:
    assert infer("ReduceProd", (N, 3), [], noop_with_empty_axes=1).content == (N, 3)


def test_axes_from_both_ends() -> None:
    assert infer("ReduceSum", None, [-1, 0]).shape == (1, H, 1)
    assert infer("ReduceSum", None, [-1, 0], keepdims=0).shape == (H,)


def test_axes_that_only_data_knows() -> None:
    assert infer("ReduceSum", None, "dynamic", keepdims=0).shape is None
    shape = infer("ReduceSum", None, "dynamic").shape
    assert shape is not None
    assert len(shape) == 3


@pytest.mark.parametrize("scale", [0.5, 2.0, 1.0 / 3.0, 0.7, 1.7, 0.1])
def test_scaled_extent_of_a_symbol_is_that_of_its_value(scale: float) -> None:
    rounded = float(np.float32(scale))
    symbolic = scaled_extent(H, rounded)
    for extent in range(1, 200):
        assert evaluate(symbolic, {"H": extent}) == scaled_extent(extent, rounded)
