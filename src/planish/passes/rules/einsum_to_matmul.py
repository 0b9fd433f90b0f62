"""Einsum(a, b) => Transpose(MatMul(a', b')), a' and b' rearranged."""

from __future__ import annotations

from dataclasses import dataclass

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, remove_dead
from planish.ir.shape import Dim, Shape, product
from planish.ops.matmul import parse_einsum
from planish.passes.building import emit, finish, integers, reshape, transpose
from planish.passes.matching import reshape_target


@dataclass(frozen=True)
class Letters:
    """The axes of a product of two operands, in the order in which they are computed.

    Attributes
    ----------
    batch : str
        In both operands and the result.
    left, right : str
        In one operand and the result.
    summed : str
        In both operands only.
    """

    batch: str
    left: str
    right: str
    summed: str

    @property
    def result(self) -> str:
        """Axes of the product, matrices' rows and columns taken apart."""
        return self.batch + self.left + self.right


class EinsumToMatmul(Rule):
    """Every contraction of two tensors is a batch of matrix products, or a pointwise product.

    Letters sort themselves: those in both operands and the result are batches, those in both and
    not in the result are summed over, the others are rows and columns. The operand whose own
    letters come first in the result becomes the left one, so that attention as Keras spells it
    (``aecd,abcd->acbe``) is query times keys.
    """

    name = (
        "Einsum(a, b) => Transpose(MatMul(rearranged a, rearranged b)); Einsum(a) => Transpose(a)"
    )
    label = "canonical form"
    roots = ("Einsum",)
    example = """
    graph example(%x: f32[2,3,4,5], %y: f32[2,6,4,5]) {
      %1 = Einsum(%y, %x) {equation="bshd,bthd->bhts"}
      return %1
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        values = node.present_inputs
        if any(value.shape is None for value in values) or len(values) > 2:
            return False
        ranks = [value.rank for value in values]
        terms, output = parse_einsum(node.attributes["equation"], ranks, str(node))
        if any(len(set(term)) < len(term) for term in (*terms, output)):
            return False  # a diagonal
        extents: dict[str, Dim] = {}
        for term, value in zip(terms, values, strict=True):
            for letter, dim in zip(term, value.known_shape, strict=True):
                if extents.setdefault(letter, dim) != dim:
                    return False  # broadcast, or equal at run time only
        reduced = [
            _summed_alone(node, graph, value, term, output + "".join(terms[:i] + terms[i + 1 :]))
            for i, (value, term) in enumerate(zip(values, terms, strict=True))
        ]
        result: Value | None
        if len(reduced) == 1:
            result = _turned(node, graph, *reduced[0], output)
        else:
            result = _product(node, graph, reduced, output, extents)
        return result is not None and finish(node, graph, result)


def _summed_alone(
    node: Node, graph: Graph, value: Value, term: str, others: str
) -> tuple[Value, str]:
    """Sum over the letters that only this operand has."""
    alone = [axis for axis, letter in enumerate(term) if letter not in others]
    if not alone:
        return value, term
    inputs = [value, integers(graph, *alone)]
    total = emit(graph, node, "ReduceSum", inputs, {"keepdims": 0})
    return total, "".join(letter for letter in term if letter in others)


def _turned(node: Node, graph: Graph, value: Value, have: str, want: str) -> Value:
    """Return `value` with axes `have` in the order `want`."""
    if have == want:
        return value
    return transpose(graph, node, value, [have.index(letter) for letter in want])


def _product(
    node: Node,
    graph: Graph,
    operands: list[tuple[Value, str]],
    output: str,
    extents: dict[str, Dim],
) -> Value | None:
    (a, first), (b, second) = operands
    own = [letter for letter in output if (letter in first) != (letter in second)]
    if own and own[0] in second:
        a, first, b, second = b, second, a, first
    batch = "".join(letter for letter in output if letter in first and letter in second)
    letters = Letters(
        batch,
        "".join(letter for letter in output if letter in first and letter not in second),
        "".join(letter for letter in output if letter in second and letter not in first),
        "".join(letter for letter in first if letter in second and letter not in output),
    )
    result: Value | None
    if not letters.summed:
        result = _pointwise(node, graph, (a, first), (b, second), letters)
    else:
        result = _matrices(node, graph, (a, first), (b, second), letters, extents)
    return None if result is None else _turned(node, graph, result, letters.result, output)


def _pointwise(
    node: Node, graph: Graph, a: tuple[Value, str], b: tuple[Value, str], letters: Letters
) -> Value:
    """Multiply operands without a common summed letter, broadcast against each other."""
    left = _turned(node, graph, *a, letters.batch + letters.left)
    right = _turned(node, graph, *b, letters.batch + letters.right)
    start = len(letters.batch)
    middle, stop = start + len(letters.left), len(letters.result)
    left = _widened(node, graph, left, range(middle, stop))
    right = _widened(node, graph, right, range(start, middle))
    return emit(graph, node, "Mul", [left, right])


def _widened(node: Node, graph: Graph, value: Value, axes: range) -> Value:
    """Return `value` with axes of extent 1 at `axes` of the result."""
    if not axes:
        return value
    return emit(graph, node, "Unsqueeze", [value, integers(graph, *axes)])


def _matrices(
    node: Node,
    graph: Graph,
    a: tuple[Value, str],
    b: tuple[Value, str],
    letters: Letters,
    extents: dict[str, Dim],
) -> Value | None:
    """Multiply batches of matrices; rows stay axes of their own where there are no batches."""
    shapes = {
        name: [extents[letter] for letter in getattr(letters, name)]
        for name in ("batch", "left", "right", "summed")
    }
    rows = shapes["left"] if not letters.batch and letters.left else [product(shapes["left"])]
    depth, columns = product(shapes["summed"]), product(shapes["right"])
    left = _turned(node, graph, *a, letters.batch + letters.left + letters.summed)
    right = _turned(node, graph, *b, letters.batch + letters.summed + letters.right)
    left_shaped = _shaped(node, graph, left, (*shapes["batch"], *rows, depth))
    right_shaped = _shaped(node, graph, right, (*shapes["batch"], depth, columns))
    if left_shaped is None or right_shaped is None:
        for value in (left, right, left_shaped, right_shaped):
            if value is not None and value.producer is not None:
                remove_dead(value.producer, graph)
        return None
    result = emit(graph, node, "MatMul", [left_shaped, right_shaped])
    return _shaped(node, graph, result, tuple(extents[letter] for letter in letters.result))


def _shaped(node: Node, graph: Graph, value: Value, shape: Shape) -> Value | None:
    """Return `value` in `shape`, None where its extents cannot be written down."""
    if value.shape == shape:
        return value
    target = reshape_target(value.known_shape, shape)
    return None if target is None else reshape(graph, node, value, target)
