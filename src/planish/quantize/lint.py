"""What keeps a quantized model from running on integers throughout, read off its fused graph.

Three things cost time in a quantized model: a layer that runs in floating point, a conversion that
is a pass over memory of its own, and rounding twice. Each finding names the user's layers, what
stands in the way, and what would help.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planish.ir.dtypes import F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import scalar_of
from planish.passes.graph_pass import graphs_of
from planish.passes.quantized import (
    DEQUANTIZE,
    EIGHT_BITS,
    PRODUCTS,
    QUANTIZE,
    is_quantized_product,
    product_reason,
)

CONVERSIONS = (QUANTIZE, DEQUANTIZE, "Cast")


@dataclass(frozen=True)
class Finding:
    """One thing that costs time.

    Attributes
    ----------
    layer : str
        The user's layers.
    problem : str
        What it is, and what causes it.
    fix : str
        What would help; empty where nothing in the model can.
    """

    layer: str
    problem: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.layer}: {self.problem}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class QuantizationReview:
    """The result of `review_quantization`.

    Attributes
    ----------
    integers, floats : int
        Convolutions and matrix products that run on integers, and in floating point.
    findings : tuple of Finding
        In the order of the graph.
    """

    integers: int
    floats: int
    findings: tuple[Finding, ...]

    @property
    def headline(self) -> str:
        """One line for the user."""
        total = self.integers + self.floats
        return f"{self.integers} of {total} convolutions and matrix products run on integers"


def review_quantization(graph: Graph) -> QuantizationReview:
    """Look at a graph after all passes; empty findings mean that integers flow throughout."""
    integers = floats = 0
    findings: list[Finding] = []
    for each in graphs_of(graph):
        for node in each:
            products = [] if node.op != "Region" else _products(node)
            integers += sum(map(is_quantized_product, products))
            floats += sum(not is_quantized_product(product) for product in products)
            findings += _findings(node, each)
    return QuantizationReview(integers, floats, tuple(findings))


def _products(node: Node) -> list[Node]:
    return [inner for inner in node.body if inner.op in PRODUCTS]


def _findings(node: Node, graph: Graph) -> Iterator[Finding]:
    if node.op == "Concat":
        yield from _joined(node)
        return
    if node.op != "Region":
        return
    for product in _products(node):
        if not is_quantized_product(product):
            yield _in_floats(node, product)
    if all(inner.op in CONVERSIONS for inner in node.body):
        yield from _own_pass(node, graph)
        return
    yield from _rounded_twice(node)


def _name(node: Node) -> str:
    """Return the user's name of the layer that a region is built around."""
    kind = node.attributes.get("kind")
    anchor = next((inner for inner in node.body if inner.op == kind), None)
    return str(node.source if anchor is None else anchor.source)


def _in_floats(node: Node, product: Node) -> Finding:
    reason = product_reason(product) or ""
    weight = product.inputs[1]
    if weight is not None and not weight.is_constant and weight in node.body.inputs:
        return Finding(_name(node), "multiplies two activations, in floating point")
    data = next((v for v in node.present_inputs if v.dtype is F32), None)
    origin = _origin(data)
    if reason.startswith("its data"):
        reason = f"its data come from {origin} as floats" if origin else "its data are floats"
        fix = "put a QuantizeLinear and a DequantizeLinear between them"
        return Finding(_name(node), f"runs in floating point: {reason}", fix)
    return Finding(_name(node), f"runs in floating point: {reason}")


def _origin(value: Value | None) -> str:
    """Return the user's layers that compute `value`, views aside."""
    while value is not None and value.producer is not None and value.producer.op != "Region":
        if not value.producer.present_inputs:
            break
        value = value.producer.present_inputs[0]
    if value is None:
        return ""
    if value.producer is None:
        return f"the input {value.name}"
    producer = value.producer
    return _name(producer) if producer.op == "Region" else str(producer.source)


def _own_pass(node: Node, graph: Graph) -> Iterator[Finding]:
    """Yield what a region that only converts is there for."""
    ops = [inner.op for inner in node.body if inner.op != "Cast"]
    if ops == [DEQUANTIZE, QUANTIZE]:
        pair = [inner for inner in node.body if inner.op != "Cast"]
        yield Finding(
            str(node.source),
            f"requantizes in a pass of its own, from a scale of {_scale(pair[0])} to one of "
            f"{_scale(pair[1])}",
            "with one scale on both sides nothing would have to be done",
        )
    elif ops == [DEQUANTIZE]:
        readers = ", ".join(_readers(node.outputs[0], graph))
        yield Finding(str(node.source), f"is dequantized in a pass of its own, for {readers}")
    elif ops == [QUANTIZE]:
        yield _quantized_alone(node)


def _quantized_alone(node: Node) -> Finding:
    value = node.present_inputs[0]
    origin = _origin(value)
    if origin.startswith("the input"):
        return Finding(str(node.source), f"quantizes {origin}, in a pass of its own")
    if len(value.users) > 1:
        others = [user for user in value.users if user is not node]
        names = ", ".join(map(_reader, others))
        return Finding(
            str(node.source),
            f"quantizes {origin} in a pass of its own, because {names} reads it as floats",
            f"let {names} read what is quantized",
        )
    return Finding(
        str(node.source),
        f"quantizes {origin} in a pass of its own: its kernel writes floats",
    )


def _readers(value: Value, graph: Graph) -> list[str]:
    names = [_reader(user) for user in value.users]
    return [*names, *(["the caller"] if graph.is_output(value) else [])]


def _reader(node: Node) -> str:
    if node.op != "Region":
        return f"{node.source} ({node.op})"
    return f"{_name(node)} ({node.attributes['kind']})"


def _computed_by(value: Value) -> Node | None:
    """Return the region that computes `value`, copies aside."""
    node = value.producer
    while node is not None and node.op == "Region":
        if any(inner.op != "Identity" for inner in node.body):
            return node
        node = node.present_inputs[0].producer if node.present_inputs else None
    return None


def _joined(node: Node) -> Iterator[Finding]:
    """Yield why a Concat of what were integers joins floats."""
    if node.outputs[0].dtype is not F32:
        return
    scales: dict[str, None] = {}
    for value in node.present_inputs:
        region = _computed_by(value)
        if region is None:
            continue
        last = region.body.outputs[0].producer
        if last is not None and last.op == DEQUANTIZE:
            scales[_scale(last)] = None
    if not scales:
        return
    if len(scales) > 1:
        problem = f"joins floats, because its operands have the scales {', '.join(scales)}"
        yield Finding(str(node.source), problem, "give all of them one scale")
        return
    problem = "joins floats, because not all of its operands are quantized"
    yield Finding(str(node.source), problem, "quantize the others with the same scale")


def _rounded_twice(node: Node) -> Iterator[Finding]:
    """Yield pairs inside a region that only round."""
    for inner in node.body:
        if inner.op != QUANTIZE or inner.output.dtype not in EIGHT_BITS:
            continue
        users = inner.output.users
        if len(users) != 1 or users[0].op != DEQUANTIZE or node.body.is_output(users[0].output):
            continue
        yield Finding(
            str(inner.source),
            f"rounds to eight bits between two operations of one kernel ({_name(node)})",
            "without that pair the result would be more exact and come sooner",
        )


def _scale(node: Node) -> str:
    number = scalar_of(node.input(1))
    return "several numbers" if number is None else f"{number:.6g}"
