"""What the body of a recurrent loop computes, as expressions over gates.

A gate is an *affine* function of the loop's element and states: sum of v @ M over vectors v, plus a
bias. Splits and slices of columns, biases that are added in parts, products with weights that are
joined (Concat of the vectors) or apart: all give the same `Affine`. Everything else that a cell
does with gates is an activation, a product, a sum, or 1 - x. What is none of these is opaque.

Frameworks spell cells in many ways; rules match these expressions, not the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import integers_of, scalar_of

Array = np.ndarray[Any, Any]

# operators that recurrent layers know as activations, with the attributes that they take there
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "Sigmoid": (),
    "Tanh": (),
    "Relu": (),
    "Softsign": (),
    "Softplus": (),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "Elu": ("alpha",),
}
TRANSPARENT = frozenset({"Identity"})


@dataclass(frozen=True, eq=False)
class Vector:
    """A value that is not looked into: a state, an element, or something opaque."""

    value: Value


@dataclass(frozen=True, eq=False)
class Affine:
    """sum(v @ matrix) + bias; `terms` maps each vector's expression to its matrix [in,out]."""

    terms: Mapping[Expression, Array]
    bias: Array

    def columns(self, start: int, stop: int) -> Affine:
        """Return some of the columns."""
        terms = {vector: matrix[:, start:stop] for vector, matrix in self.terms.items()}
        return Affine(terms, self.bias[start:stop])

    def scaled(self, factor: float) -> Affine:
        """Return it times a number."""
        number = self.bias.dtype.type(factor)
        terms = {vector: matrix * number for vector, matrix in self.terms.items()}
        return Affine(terms, self.bias * number)


@dataclass(frozen=True, eq=False)
class Activation:
    """name(argument), with its alpha and beta."""

    name: str
    parameters: tuple[float, ...]
    argument: Expression

    @property
    def kind(self) -> tuple[str, tuple[float, ...]]:
        """Return what has to agree between gates."""
        return self.name, self.parameters


@dataclass(frozen=True, eq=False)
class Product:
    """The product of two or more factors."""

    factors: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """The sum of two or more parts."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Complement:
    """1 - argument."""

    argument: Expression


@dataclass(frozen=True, eq=False)
class Difference:
    """left - right."""

    left: Expression
    right: Expression


@dataclass(frozen=True, eq=False)
class Bounded:
    """min(max(argument, low), high), one of the bounds infinite."""

    argument: Expression
    low: float
    high: float


Expression = Vector | Affine | Activation | Product | Sum | Complement | Difference | Bounded


class CellReader:
    """Expressions of the values in the body of a loop; equal values are the same object."""

    def __init__(self, body: Graph) -> None:
        self._body = body
        self._known: dict[Value, Expression] = {}

    def read(self, value: Value) -> Expression:
        """Return what `value` is; never fails."""
        order: list[tuple[Value, bool]] = [(value, False)]
        while order:  # not recursive: bodies can be deep
            each, ready = order.pop()
            if each in self._known:
                continue
            node = each.producer
            if node is None or node.graph is not self._body or node.subgraphs:
                self._known[each] = Vector(each)
                continue
            if ready:
                self._evaluate(node)
                continue
            order.append((each, True))
            inputs = [v for v in node.present_inputs if v not in self._known and not v.is_constant]
            order.extend((operand, False) for operand in inputs)
        return self._known[value]

    def _evaluate(self, node: Node) -> None:
        if node.op == "Split":
            self._split(node)
            return
        found = None
        if len(node.outputs) == 1:
            found = self._expression(node)
        for output in node.outputs:
            self._known[output] = found or Vector(output)

    def _expression(self, node: Node) -> Expression | None:
        if node.op in TRANSPARENT:
            return self._of(node.inputs[0])
        if node.op in ACTIVATIONS:
            argument = self._of(node.inputs[0])
            names = ACTIVATIONS[node.op]
            parameters = tuple(float(node.attributes[name]) for name in names)
            return None if argument is None else Activation(node.op, parameters, argument)
        match node.op:
            case "MatMul":
                return self._product_with_matrix(node.inputs[0], node.inputs[1], False)
            case "Gemm":
                return self._gemm(node)
            case "Add":
                return self._add(node)
            case "Mul":
                return self._multiply(node)
            case "Sub":
                return self._subtract(node)
            case "Slice":
                return self._slice(node)
            case "Min" | "Max" | "Clip":
                return self._bounded(node)
        return None

    def _of(self, value: Value | None) -> Expression | None:
        """Return the expression of an operand; None for constants."""
        return None if value is None or value.is_constant else self._known[value]

    def _product_with_matrix(
        self, vector: Value | None, matrix: Value | None, transposed: bool
    ) -> Expression | None:
        if vector is None or matrix is None or matrix.constant is None or vector.is_constant:
            return None
        if matrix.rank != 2 or vector.shape is None or vector.rank != 2:
            return None
        array = matrix.array.T if transposed else matrix.array
        return Affine(self._joined(vector, array), np.zeros(array.shape[1], array.dtype))

    def _joined(self, vector: Value, matrix: Array) -> dict[Expression, Array]:
        """Return the matrix of each part of a vector: joined vectors have one below the other."""
        node = vector.producer
        if node is None or node.op != "Concat" or node.graph is not self._body:
            return {self._known[vector]: matrix}
        widths = [value.known_shape[-1] for value in node.present_inputs]
        if node.attributes["axis"] % 2 != 1 or not all(isinstance(w, int) for w in widths):
            return {self._known[vector]: matrix}
        terms: dict[Expression, Array] = {}
        start = 0
        for value, width in zip(node.present_inputs, widths, strict=True):
            if value.is_constant or not isinstance(width, int):
                return {self._known[vector]: matrix}
            part = matrix[start : start + width]
            key = self.read(value)
            terms[key] = terms[key] + part if key in terms else part
            start += width
        return terms

    def _gemm(self, node: Node) -> Expression | None:
        attributes = node.attributes
        if attributes["transA"] or attributes["alpha"] != 1 or attributes["beta"] != 1:
            return None
        product = self._product_with_matrix(
            node.inputs[0], node.inputs[1], bool(attributes["transB"])
        )
        bias = node.input(2)
        if bias is None or not isinstance(product, Affine):
            return product
        return self._with_bias(product, bias)

    def _with_bias(self, affine: Affine, bias: Value) -> Expression | None:
        if bias.constant is None:
            return None
        width = affine.bias.shape[0]
        array = bias.array.reshape(-1)
        if array.size not in (1, width) or bias.known_shape[-1:] not in ((width,), (1,), ()):
            return None
        return Affine(affine.terms, affine.bias + np.broadcast_to(array, (width,)))

    def _add(self, node: Node) -> Expression | None:
        a, b = node.inputs
        left, right = self._of(a), self._of(b)
        if left is None and right is not None:
            a, b, left, right = b, a, right, left
        if left is None:
            return None
        if right is None:
            return self._with_bias(left, b) if isinstance(left, Affine) and b is not None else None
        if isinstance(left, Affine) and isinstance(right, Affine):
            terms = dict(left.terms)
            for vector, matrix in right.terms.items():
                terms[vector] = terms[vector] + matrix if vector in terms else matrix
            return Affine(terms, left.bias + right.bias)
        parts = [
            p for each in (left, right) for p in (each.parts if isinstance(each, Sum) else (each,))
        ]
        return Sum(tuple(parts))

    def _multiply(self, node: Node) -> Expression | None:
        found = [self._of(value) for value in node.inputs]
        for each, other in (found, found[::-1]):
            factor = scalar_of(node.inputs[found.index(other)]) if other is None else None
            if isinstance(each, Affine) and factor is not None:
                return each.scaled(factor)
        factors: list[Expression] = []
        for each in found:
            if each is None:
                return None
            factors += each.factors if isinstance(each, Product) else (each,)
        return Product(tuple(factors))

    def _bounded(self, node: Node) -> Expression | None:
        """Return clip(a, 0, 1), however it is written, as HardSigmoid with slope 1."""
        argument = self._of(node.inputs[0])
        numbers = [scalar_of(value) for value in node.inputs[1:]]
        if node.op != "Clip" and argument is None and len(node.inputs) == 2:
            argument, numbers = self._of(node.inputs[1]), [scalar_of(node.inputs[0])]
        if argument is None or None in numbers or len(numbers) != 1 + (node.op == "Clip"):
            return None
        low = numbers[0] if node.op != "Min" else None
        high = numbers[-1] if node.op != "Max" else None
        if isinstance(argument, Bounded):
            low = argument.low if low is None else low
            high = argument.high if high is None else high
            argument = argument.argument
        low = -math.inf if low is None else low
        high = math.inf if high is None else high
        if (low, high) == (0, 1):
            return Activation("HardSigmoid", (1.0, 0.0), argument)
        return Bounded(argument, low, high) if math.inf in (-low, high) else None

    def _subtract(self, node: Node) -> Expression | None:
        left, right = self._of(node.inputs[0]), self._of(node.inputs[1])
        if right is None:
            return None
        if left is None:
            return Complement(right) if scalar_of(node.inputs[0]) == 1 else None
        return Difference(left, right)

    def _slice(self, node: Node) -> Expression | None:
        affine = self._of(node.inputs[0])
        starts, ends, axes, steps = (integers_of(node.input(k)) for k in (1, 2, 3, 4))
        whole = node.output.rank == 2 and axes in ((1,), (-1,)) and steps in (None, (1,))
        if not isinstance(affine, Affine) or not whole or starts is None or ends is None:
            return None
        start, stop, _ = slice(starts[0], ends[0]).indices(affine.bias.shape[0])
        return affine.columns(start, stop)

    def _split(self, node: Node) -> None:
        affine = self._of(node.inputs[0])
        widths = [output.known_shape[-1] for output in node.outputs if output.shape]
        last = node.outputs[0].shape is not None and node.attributes["axis"] in (1, -1)
        known = all(isinstance(width, int) for width in widths) and len(widths) == len(node.outputs)
        if not isinstance(affine, Affine) or not known or not last or node.outputs[0].rank != 2:
            for output in node.outputs:
                self._known[output] = Vector(output)
            return
        start = 0
        for output, width in zip(node.outputs, widths, strict=True):
            stop = start + width if isinstance(width, int) else start
            self._known[output] = affine.columns(start, stop)
            start = stop
