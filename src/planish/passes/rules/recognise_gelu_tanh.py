"""0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) => Gelu(x, tanh)."""

from __future__ import annotations

import math

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import Rule, is_scalar, private_producer, split_constant
from planish.passes.building import emit, finish
from planish.passes.matching import close, factors, strip_scale

CUBIC = 0.044715


class RecogniseGeluTanh(Rule):
    """The tanh form; the cube may be Pow(x, 3) or products, the polynomial may be factored."""

    name = "0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) => Gelu(x)"
    label = "GELU"
    roots = ("Mul", "Div")
    stage = "recognise"
    example = """
    graph example(%x: f32[2,3]) {
      @three: f32[] = 3.0
      @cubic: f32[] = 0.044715
      @root: f32[] = 0.7978846
      @one: f32[] = 1.0
      @half: f32[] = 0.5
      %1 = Pow(%x, @three)
      %2 = Mul(%1, @cubic)
      %3 = Add(%x, %2)
      %4 = Mul(%3, @root)
      %5 = Tanh(%4)
      %6 = Add(%5, @one)
      %7 = Mul(%x, @half)
      %8 = Mul(%7, %6)
      return %8
    }"""

    @classmethod
    def rewrite(cls, node: Node, graph: Graph) -> bool:
        """See the class."""
        for gate in factors(node.output, graph)[0]:
            x = _gated(gate, graph)
            if x is None:
                continue
            rest, number = factors(node.output, graph, stop=x)
            if sorted(map(id, rest)) == sorted((id(x), id(gate))) and close(number, 0.5):
                return finish(node, graph, emit(graph, node, "Gelu", [x], {"approximate": "tanh"}))
        return False


def _gated(gate: Value, graph: Graph) -> Value | None:
    """Return x where gate = 1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))."""
    add = private_producer(gate, graph, "Add")
    pair = None if add is None else split_constant(add)
    if pair is None or not is_scalar(pair[1], 1.0):
        return None
    tanh = private_producer(pair[0], graph, "Tanh")
    if tanh is None or tanh.inputs[0] is None:
        return None
    inner, scale = strip_scale(tanh.inputs[0], graph)
    polynomial = private_producer(inner, graph, "Add")
    if polynomial is not None and close(scale, math.sqrt(2 / math.pi)):
        return _sum_form(polynomial, graph)
    variables, number = factors(tanh.inputs[0], graph)
    if close(number, math.sqrt(2 / math.pi)) and len(variables) == 2:
        return _factored_form(variables, graph)
    return None


def _sum_form(polynomial: Node, graph: Graph) -> Value | None:
    """Return x where polynomial = x + 0.044715 * x ** 3."""
    left, right = polynomial.inputs
    for x, cubic in ((left, right), (right, left)):
        if x is None or cubic is None:
            continue
        if _power(cubic, x, graph) == (3, True):
            return x
    return None


def _factored_form(variables: list[Value], graph: Graph) -> Value | None:
    """Return x where the product is x * (1 + 0.044715 * x * x)."""
    for x, other in (variables, variables[::-1]):
        add = private_producer(other, graph, "Add")
        pair = None if add is None else split_constant(add)
        if pair is None or not is_scalar(pair[1], 1.0):
            continue
        if _power(pair[0], x, graph) == (2, True):
            return x
    return None


def _power(value: Value, x: Value, graph: Graph) -> tuple[int, bool]:
    """Return (n, whether value = 0.044715 * x ** n)."""
    variables, number = factors(value, graph, stop=x)
    exponent = 0
    for each in variables:
        if each is x:
            exponent += 1
            continue
        pow_node = private_producer(each, graph, "Pow")
        if pow_node is None or pow_node.inputs[0] is not x:
            return 0, False
        for power in (2, 3):
            exponent += power if is_scalar(pow_node.inputs[1], power) else 0
    return exponent, close(number, CUBIC, 1e-3)
