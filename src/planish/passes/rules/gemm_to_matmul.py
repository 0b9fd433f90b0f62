"""Gemm(a, b, c) => MatMul(a, b) + c."""

from __future__ import annotations

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule
from planish.passes.building import constant, emit, finish, transpose


class GemmToMatmul(Rule):
    """Kernels see one matrix product; scales and transposes of constants are folded."""

    name = "Gemm(a, b, c) => MatMul(a', alpha * b') + beta * c"
    label = "canonical form"
    roots = ("Gemm",)
    example = """
    graph example(%x: f32[2,3]) {
      @w: f32[4,3]
      @b: f32[4]
      %1 = Gemm(%x, @w, @b) {alpha=0.5, beta=2.0, transB=1}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        a, b = node.inputs[0], node.inputs[1]
        c = node.input(2)
        if a is None or b is None or not node.output.dtype.is_float:
            return False
        alpha, beta = float(node.attributes["alpha"]), float(node.attributes["beta"])
        left = _transposed(graph, node, a, bool(node.attributes["transA"]))
        if b.is_constant:
            right, alpha = _weights(graph, node, b, alpha), 1.0
        else:
            right = _transposed(graph, node, b, bool(node.attributes["transB"]))
        result = _scaled(graph, node, emit(graph, node, "MatMul", [left, right]), alpha)
        if c is not None and beta != 0:
            result = emit(graph, node, "Add", [result, _scaled(graph, node, c, beta)])
        return finish(node, graph, result)


def _weights(graph: Graph, node: Node, b: Value, alpha: float) -> Value:
    if not node.attributes["transB"] and alpha == 1.0:
        return b
    array = b.array.T if node.attributes["transB"] else b.array
    return constant(graph, array if alpha == 1.0 else array * array.dtype.type(alpha), b)


def _transposed(graph: Graph, node: Node, value: Value, wanted: bool) -> Value:
    if not wanted:
        return value
    if value.is_constant:
        return constant(graph, value.array.T, value)
    return transpose(graph, node, value, (1, 0))


def _scaled(graph: Graph, node: Node, value: Value, factor: float) -> Value:
    if factor == 1.0:
        return value
    if value.is_constant:
        return constant(graph, value.array * value.array.dtype.type(factor), value)
    return emit(graph, node, "Mul", [value, constant(graph, np.array(factor), value)])
