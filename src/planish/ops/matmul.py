"""Matrix products: MatMul, Gemm, Einsum and ONNX Runtime's fused forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.graph import Node
from planish.ir.requirement import Requirement, broadcasts, equal
from planish.ir.shape import Dim, Shape, product
from planish.ops.numeric import narrow, optional, random_array, required, widen
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    broadcast,
    bytes_of,
)


def matmul_shape(a: Shape, b: Shape, where: str) -> Shape:
    """Return the shape of numpy's `a @ b`; raise ShapeError, naming `where`, if they do not fit."""
    if not a or not b:
        raise ShapeError("a matrix product needs operands of rank 1 or more", where=where)
    left: Shape = a if len(a) > 1 else (1, *a)
    right: Shape = b if len(b) > 1 else (*b, 1)
    inner, other = left[-1], right[-2]
    if isinstance(inner, int) and isinstance(other, int) and inner != other:
        raise ShapeError(
            f"cannot multiply {list(a)} with {list(b)}: {inner} != {other}", where=where
        )
    rows: Shape = left[-2:-1] if len(a) > 1 else ()
    columns: Shape = right[-1:] if len(b) > 1 else ()
    return (*broadcast([left[:-2], right[:-2]], where), *rows, *columns)


def product_requirements(a: Shape | None, b: Shape | None) -> list[Requirement]:
    """Return what numpy's `a @ b` requires of symbolic extents."""
    if not a or not b:
        return []
    inner = equal(a[-1], b[-2] if len(b) > 1 else b[0])
    left, right = a[:-2], b[:-2]
    return inner + broadcasts([left, right], broadcast([left, right], ""))


def _inner_extent(node: Node) -> Dim:
    """Return the extent that a MatMul-like node sums over (1 where unknown)."""
    a, b = node.present_inputs[:2]
    extents = [*(a.shape or ())[-1:], *(b.shape or ())[-2:][:1]]
    numbers = [extent for extent in extents if isinstance(extent, int)]
    return (numbers or extents or [1])[0]


def multiply(a: Array, b: Array) -> Array:
    """Return numpy's `a @ b`, as one large product where `b` is a matrix (much faster)."""
    if a.ndim <= 2 or b.ndim != 2:
        return np.asarray(np.matmul(a, b))
    rows = np.matmul(a.reshape(-1, a.shape[-1]), b)
    return np.asarray(rows.reshape(*a.shape[:-1], b.shape[1]))


class MatMul(Op):
    """Matrix product with numpy's semantics: vectors, and batches that broadcast."""

    name = "MatMul"

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the product's type."""
        a, b = node.present_inputs
        if a.shape is None or b.shape is None:
            return [Inferred(a.dtype, None)]
        return [Inferred(a.dtype, matmul_shape(a.shape, b.shape, str(node)))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and batches broadcast."""
        a, b = node.present_inputs[:2]
        return product_requirements(a.shape, b.shape)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Multiply in float32 at least."""
        a, b = required(inputs, 0), required(inputs, 1)
        return [narrow(multiply(widen(a), widen(b)), a)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover matrices, vectors, batches and broadcast batches."""
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((4, 7), (7, 5)),
            ((2, 3, 4, 7), (7, 5)),
            ((4, 7), (2, 7, 5)),
            ((2, 1, 4, 7), (3, 7, 5)),
            ((2, 3, 1, 7), (2, 3, 7, 1)),
            ((7,), (2, 7, 5)),
            ((2, 4, 7), (7,)),
            ((7,), (7,)),
            ((33, 65), (65, 17)),
        ]
        cases = [
            Sample((random_array(1, *a), random_array(2, *b)), name=f"{a}x{b}") for a, b in shapes
        ]
        weights = Sample((random_array(1, 3, 8), random_array(2, 8, 6)), {}, (1,), name="weight")
        integers = np.arange(-6, 6, dtype=np.int32)
        whole = Sample((integers.reshape(3, 4), integers.reshape(4, 3)), name="int32")
        return [*cases, weights, whole]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a product."""
        elements = product(node.outputs[0].shape or ())
        return Cost(elements * _inner_extent(node) * 2, bytes_of(node))


class FusedMatMul(Op):
    """alpha * op(A) @ op(B): `transA`/`transB` swap the last two axes.

    `transBatchA`/`transBatchB` move axis 0 before the last axis first, as ONNX Runtime does.
    """

    name = "com.microsoft.FusedMatMul"
    attributes: ClassVar[Mapping[str, Any]] = {
        "alpha": 1.0,
        "transA": 0,
        "transB": 0,
        "transBatchA": 0,
        "transBatchB": 0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the product's type."""
        a, b = node.present_inputs[:2]
        if a.shape is None or b.shape is None:
            return [Inferred(a.dtype, None)]
        left = [a.shape[axis] for axis in _fused_order(len(a.shape), node.attributes, "A")]
        right = [b.shape[axis] for axis in _fused_order(len(b.shape), node.attributes, "B")]
        return [Inferred(a.dtype, matmul_shape(tuple(left), tuple(right), str(node)))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and batches broadcast."""
        a, b = node.present_inputs[:2]
        if a.shape is None or b.shape is None:
            return []
        left = [a.shape[axis] for axis in _fused_order(len(a.shape), node.attributes, "A")]
        right = [b.shape[axis] for axis in _fused_order(len(b.shape), node.attributes, "B")]
        return product_requirements(tuple(left), tuple(right))

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Transpose, multiply, scale."""
        a, b = required(inputs, 0), required(inputs, 1)
        left = widen(a).transpose(_fused_order(a.ndim, attributes, "A"))
        right = widen(b).transpose(_fused_order(b.ndim, attributes, "B"))
        return [narrow(multiply(left, right) * left.dtype.type(attributes["alpha"]), a)]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover every transposition."""
        a, b = random_array(1, 2, 3, 4, 5), random_array(2, 2, 3, 5, 6)
        transposed_a, transposed_b = a.swapaxes(2, 3).copy(), b.swapaxes(2, 3).copy()
        batch_b = b.transpose(2, 0, 1, 3).copy()
        return [
            Sample((a, b), {"alpha": 0.5}, name="alpha"),
            Sample((transposed_a, b), {"transA": 1}, name="transA"),
            Sample((a, transposed_b), {"transB": 1, "alpha": 2.0}, name="transB"),
            Sample((a, batch_b), {"transBatchB": 1}, name="transBatchB"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a product."""
        a = node.present_inputs[0]
        elements = product(node.outputs[0].shape or ())
        axes = _fused_order(len(a.shape or ()), node.attributes, "A")
        inner = (a.shape or (1,))[axes[-1] if axes else 0]
        return Cost(elements * inner * 2, bytes_of(node))


def _fused_order(rank: int, attributes: Attributes, operand: str) -> tuple[int, ...]:
    """Return the axis order that the transposition attributes of `operand` ask for."""
    order = list(range(rank))
    if rank < 2:
        return tuple(order)
    if attributes[f"transBatch{operand}"]:
        order = [*order[1:-1], order[0], order[-1]]
    if attributes[f"trans{operand}"]:
        order[-2:] = order[:-3:-1]
    return tuple(order)


def _gemm_shape(node: Node) -> Shape | None:
    a, b = node.present_inputs[:2]
    if a.shape is None or b.shape is None:
        return None
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ShapeError(f"Gemm multiplies two matrices, got {a} and {b}", where=str(node))
    left = a.shape[::-1] if node.attributes["transA"] else a.shape
    right = b.shape[::-1] if node.attributes["transB"] else b.shape
    shape = matmul_shape(left, right, str(node))
    addend = node.input(2)
    if addend is not None and addend.shape is not None:
        broadcast([shape, addend.shape], str(node))
    return shape


def _gemm_requirements(node: Node) -> list[Requirement]:
    a, b = node.present_inputs[:2]
    result = node.outputs[0].shape
    if not a.shape or not b.shape or result is None:
        return []
    left = a.shape[::-1] if node.attributes["transA"] else a.shape
    right = b.shape[::-1] if node.attributes["transB"] else b.shape
    addend = node.input(2)
    shapes = [] if addend is None or addend.shape is None else [addend.shape]
    return product_requirements(left, right) + broadcasts(shapes, result)


def gemm(inputs: Inputs, attributes: Attributes) -> Array:
    """Return alpha * op(A) @ op(B) + beta * C in float32 at least (integers stay integers)."""
    a, b, c = widen(required(inputs, 0)), widen(required(inputs, 1)), optional(inputs, 2)
    left = a.T if attributes["transA"] else a
    right = b.T if attributes["transB"] else b
    out: Array = np.matmul(left, right)
    if attributes["alpha"] != 1:
        out = (out * attributes["alpha"]).astype(out.dtype)
    if c is None or attributes["beta"] == 0:
        return out
    scaled = widen(c) if attributes["beta"] == 1 else widen(c) * attributes["beta"]
    return (out + scaled).astype(out.dtype)


def _gemm_cost(node: Node) -> Cost:
    a = node.present_inputs[0].shape or (1, 1)
    inner = a[0] if node.attributes["transA"] else a[-1]
    return Cost(product(node.outputs[0].shape or ()) * inner * 2, bytes_of(node))


class Gemm(Op):
    """alpha * op(A) @ op(B) + beta * C for matrices A, B and an optional C that broadcasts."""

    name = "Gemm"
    attributes: ClassVar[Mapping[str, Any]] = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the matrix type."""
        return [Inferred(node.present_inputs[0].dtype, _gemm_shape(node))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and C broadcasts."""
        return _gemm_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Multiply in float32 at least."""
        return [narrow(gemm(inputs, attributes), required(inputs, 0))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover transpositions, scales and every broadcast of C."""
        a, b = random_array(1, 4, 7), random_array(2, 7, 5)

        def case(name: str, c: Array | None = None, **attributes: object) -> Sample:
            left = a.T.copy() if attributes.get("transA") else a
            right = b.T.copy() if attributes.get("transB") else b
            extra = () if c is None else (c,)
            return Sample((left, right, *extra), attributes, (1, 2)[: 1 + len(extra)], name=name)

        return [
            case("plain"),
            case("bias", random_array(3, 5)),
            case("bias_transB", random_array(3, 5), transB=1),
            case("transA", random_array(3, 4, 5), transA=1, alpha=0.5, beta=2.0),
            case("column", random_array(3, 4, 1), transA=1, transB=1, beta=-1.0),
            case("row", random_array(3, 1, 5), alpha=1.5),
            case("scalar", random_array(3), beta=0.25),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a product."""
        return _gemm_cost(node)


class FusedGemm(Op):
    """Gemm followed by an activation with parameters activation_alpha, _beta and _gamma."""

    name = "com.microsoft.FusedGemm"
    attributes: ClassVar[Mapping[str, Any]] = {
        **Gemm.attributes,
        "activation": "",
        "activation_alpha": 0.0,
        "activation_beta": 0.0,
        "activation_gamma": 0.0,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the matrix type."""
        return [Inferred(node.present_inputs[0].dtype, _gemm_shape(node))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that inner extents are equal and C broadcasts."""
        return _gemm_requirements(node)

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Compose Gemm and the activation in float32."""
        out = gemm(inputs, attributes)
        alpha, beta = attributes["activation_alpha"], attributes["activation_beta"]
        return [narrow(gemm_activation(out, attributes["activation"], alpha, beta),
                       required(inputs, 0))]  # fmt: skip

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover every activation."""
        inputs = (random_array(1, 4, 7), random_array(2, 7, 5), random_array(3, 5))
        cases = [
            Sample(inputs, {"activation": name}, (1, 2), name=name.lower())
            for name in ("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign")
        ]
        leaky = {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5}
        return [*cases, Sample(inputs, leaky, (1, 2), name="leakyrelu")]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations a product."""
        return _gemm_cost(node)


def gemm_activation(x: Array, name: str, alpha: float, beta: float) -> Array:
    """Return activation `name` of `x`; raise ShapeError for one that ONNX Runtime does not fuse."""
    match name:
        case "":
            return x
        case "Relu":
            return np.asarray(np.maximum(x, 0))
        case "Tanh":
            return np.asarray(np.tanh(x))
        case "Sigmoid":
            return np.asarray(1 / (1 + np.exp(-x)))
        case "Softplus":
            return np.asarray(np.logaddexp(x, x.dtype.type(0)))
        case "Softsign":
            return np.asarray(x / (1 + np.abs(x)))
        case "LeakyRelu":
            return np.where(x < 0, x * x.dtype.type(alpha), x)
        case "HardSigmoid":
            scaled = x * x.dtype.type(alpha) + x.dtype.type(beta)
            return np.asarray(np.clip(scaled, 0, 1))
        case "Elu":
            return np.where(x < 0, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)), x)
    raise ShapeError(f"unknown fused activation {name!r}")


# -- Einsum --------------------------------------------------------------------------------------


def parse_einsum(equation: str, ranks: Sequence[int], where: str) -> tuple[list[str], str]:
    """Return each operand's and the output's labels, one character an axis.

    An ellipsis becomes upper-case-free private labels ("0", "1", ... counted from the right), and
    an absent output lists the labels that occur once, sorted, after the ellipsis.

    Raises
    ------
    ShapeError
        When the equation is malformed or an operand's rank does not fit its term.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ShapeError(
            f"equation {equation!r} has {len(terms)} terms for {len(ranks)} operands", where=where
        )
    operands: list[str] = []
    longest = 0
    for term, rank in zip(terms, ranks, strict=True):
        hidden = rank - len(term.replace("...", ""))
        if hidden < 0 or (hidden and "..." not in term):
            raise ShapeError(f"term {term!r} of {equation!r} does not fit rank {rank}", where=where)
        operands.append(term.replace("...", _ellipsis(hidden)))
        longest = max(longest, hidden if "..." in term else 0)
    if arrow:
        return operands, right.replace("...", _ellipsis(longest))
    letters = sorted(set(left) - set(".,"))
    once = "".join(letter for letter in letters if left.count(letter) == 1)
    return operands, _ellipsis(longest) + once


def _ellipsis(count: int) -> str:
    return "".join(chr(ord("0") + index) for index in reversed(range(count)))


def _einsum_extents(node: Node) -> tuple[str, dict[str, Dim]] | None:
    """Return the output's labels and every label's extent; None when a rank is unknown."""
    shapes = [value.shape for value in node.present_inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    where = str(node)
    ranks = [len(shape) for shape in known]
    operands, output = parse_einsum(node.attributes["equation"], ranks, where)
    extents: dict[str, Dim] = {}
    for labels, shape in zip(operands, known, strict=True):
        for label, dim in zip(labels, shape, strict=True):
            (extents[label],) = broadcast([(extents.get(label, 1),), (dim,)], where)
    missing = [label for label in output if label not in extents]
    if missing:
        raise ShapeError(f"output labels {missing} occur in no operand", where=where)
    return output, extents


class Einsum(Op):
    """Einstein summation over any number of operands, ellipsis and implicit output included."""

    name = "Einsum"
    attributes: ClassVar[Mapping[str, Any]] = {"equation": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the output's type from the equation's labels."""
        dtype, found = node.present_inputs[0].dtype, _einsum_extents(node)
        if found is None:
            return [Inferred(dtype, None)]
        output, extents = found
        return [Inferred(dtype, tuple(extents[label] for label in output))]

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that extents of one letter are equal."""
        found = _einsum_extents(node)
        shapes = [value.known_shape for value in node.present_inputs] if found else []
        ranks = [len(shape) for shape in shapes]
        terms = parse_einsum(node.attributes["equation"], ranks, str(node))[0] if found else []
        extents = found[1] if found else {}
        return [
            each
            for letters, shape in zip(terms, shapes, strict=True)
            for each in broadcasts([shape], [extents[letter] for letter in letters])
        ]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Call numpy's einsum in float32 at least."""
        operands = [widen(required(inputs, index)) for index in range(len(inputs))]
        equation = attributes["equation"].replace(" ", "")
        return [narrow(np.einsum(equation, *operands, optimize=True), required(inputs, 0))]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover products, diagonals, sums, ellipsis, implicit output and three operands."""
        a, b, c = random_array(1, 2, 3, 4), random_array(2, 2, 4, 5), random_array(3, 5, 3)
        square = random_array(4, 3, 3)
        return [
            Sample((a, b), {"equation": "bij, bjk -> bik"}),
            Sample((a, b), {"equation": "bij,bjk"}, name="implicit"),
            Sample((a, b), {"equation": "...ij,...jk->...ik"}, name="ellipsis"),
            Sample((a,), {"equation": "bij->jb"}, name="sum_transpose"),
            Sample((square,), {"equation": "ii->i"}, name="diagonal"),
            Sample((a, b, c), {"equation": "bij,bjk,ki->b"}, name="three"),
            Sample((a, a), {"equation": "bij,bij->"}, name="inner"),
        ]

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count two operations for every combination of labels."""
        found = _einsum_extents(node)
        combinations = product(found[1].values()) if found else 1
        return Cost(combinations * 2, bytes_of(node))
