"""Type inference over nodes and graphs: dtype, symbolic shape, and contents made of extents."""

from __future__ import annotations

import re

from planish.errors import PlanishError, ShapeError, UnsupportedOperatorError
from planish.ir.dtypes import BOOL, I64
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim, Shape, symbol
from planish.ir.text import parse_text
from planish.ops.op import OPS, op_of

CONTENT_LIMIT = 256  # integer constants up to this many elements are kept as contents
LOOP_ROUNDS = 8  # shapes of loop-carried values settle in two rounds unless ranks change

# What an operator raises when it is handed operands that it never expects from a valid model.
OPERAND_ERRORS = (
    ValueError, IndexError, TypeError, AttributeError, KeyError, ArithmeticError, StopIteration,
)  # fmt: skip


def infer_graph(graph: Graph) -> None:
    """Set dtype, shape and content of every value that a node of `graph` computes.

    Subgraphs are typed as well. The types of graph inputs are taken as they stand.

    Raises
    ------
    ShapeError
        When the operands of a node do not fit; the message names the user's node.
    UnsupportedOperatorError
        When nodes have operators that Planish does not know; all of them are listed.
    """
    unknown = [str(node) for node in graph if node.op not in OPS]
    if unknown:
        raise UnsupportedOperatorError(unknown, where=f"graph {graph.name}")
    for value in (*graph.inputs, *graph.outputs):
        _set_constant_content(value)
    for node in graph:
        infer_node(node)


def infer_node(node: Node) -> None:
    """Set dtype, shape and content of the outputs of `node`, its subgraphs first."""
    for value in node.present_inputs:
        _set_constant_content(value)
    _infer_subgraphs(node)
    try:
        inferred = op_of(node).infer(node)
    except PlanishError as error:
        raise _with_node(error, node) from error
    except OPERAND_ERRORS as error:
        raise ShapeError(
            f"the operands of {node.op} do not fit: {type(error).__name__}: {error}",
            where=_describe(node),
        ) from error
    if len(inferred) < len(node.outputs):
        raise ShapeError(
            f"{node.op} has at most {len(inferred)} outputs, got {len(node.outputs)}",
            where=_describe(node),
        )
    for output, result in zip(node.outputs, inferred, strict=False):
        output.dtype, output.shape, output.content = result.dtype, result.shape, result.content
    _check_requirements(node)


def _check_requirements(node: Node) -> None:
    """Raise ShapeError where extents that are numbers do not fit."""
    for requirement in op_of(node).requirements(node):
        left, right = requirement.left, requirement.right
        if isinstance(left, int) and isinstance(right, int) and not requirement.holds({}):
            raise ShapeError(
                f"the operands of {node.op} do not fit: {requirement} is not true",
                where=_describe(node),
            )


def graph_from_text(text: str) -> Graph:
    """Return the graph that `text` describes, its omitted types inferred (see ir/text.py)."""
    graph = parse_text(text)
    infer_graph(graph)
    return graph


def _set_constant_content(value: Value) -> None:
    if value.constant is None or value.content is not None:
        return
    array = value.constant.array
    if value.dtype.is_integer and array.size <= CONTENT_LIMIT:
        value.content = tuple(int(element) for element in array.reshape(-1))


def _infer_subgraphs(node: Node) -> None:
    if node.op == "Loop":
        _infer_loop(node)
        return
    if node.op == "Scan":
        _infer_scan(node)
        return
    if node.op == "Region":
        for inner, outer in zip(node.body.inputs, node.present_inputs, strict=False):
            _copy_type(inner, outer)
    for graph in node.subgraphs:
        infer_graph(graph)


def _infer_loop(node: Node) -> None:
    """Type a Loop's body; extents of carried values that change become unknown extents."""
    body = node.body
    carried, initial = body.inputs[2:], node.inputs[2:]
    for value, dtype in zip(body.inputs[:2], (I64, BOOL), strict=False):
        value.dtype, value.shape = dtype, ()  # a native loop's iteration is a symbol: it stays
    for inner, outer in zip(carried, initial, strict=False):
        if outer is not None:
            _copy_type(inner, outer)
            inner.content = None  # another value in every iteration
    _settle_carried(body, carried, body.outputs[1 : 1 + len(carried)])


def _infer_scan(node: Node) -> None:
    """Type a Scan's body: carried values as for Loop, the others one slice of the input."""
    body = node.body
    scanned = int(node.attributes["num_scan_inputs"])
    states = len(node.inputs) - scanned
    axes = tuple(node.attributes.get("scan_input_axes") or (0,) * scanned)
    for position, (inner, outer) in enumerate(zip(body.inputs, node.inputs, strict=False)):
        if outer is None:
            continue
        _copy_type(inner, outer)
        inner.content = None
        if position >= states and outer.shape is not None:
            inner.shape = _without_axis(node, outer.shape, axes[position - states])
    _settle_carried(body, body.inputs[:states], body.outputs[:states])


def _settle_carried(body: Graph, carried: list[Value], results: list[Value]) -> None:
    for _ in range(LOOP_ROUNDS):
        infer_graph(body)
        changed = False
        for value, result in zip(carried, results, strict=False):
            widened = _widen(value, result.shape)
            changed = changed or widened != value.shape
            value.shape = widened
        if not changed:
            return


def _widen(value: Value, result: Shape | None) -> Shape | None:
    """Return the shape of a carried value that covers both its own and `result`."""
    if value.shape is None or result is None or len(value.shape) != len(result):
        return None
    dims: list[Dim] = []
    for axis, (have, got) in enumerate(zip(value.shape, result, strict=True)):
        name = f"?{re.sub('[^0-9A-Za-z_]', '_', value.name)}_{axis}"
        dims.append(have if have == got else symbol(name))
    return tuple(dims)


def _without_axis(node: Node, shape: Shape, axis: int) -> Shape:
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"scan axis {axis} is out of range for {shape}", where=_describe(node))
    axis %= len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _copy_type(inner: Value, outer: Value) -> None:
    inner.dtype, inner.shape, inner.content = outer.dtype, outer.shape, outer.content


def _with_node(error: PlanishError, node: Node) -> PlanishError:
    """Return `error` with the user's node in its `where`, once."""
    source = str(node.source)
    if isinstance(error, UnsupportedOperatorError) or (error.where and source in error.where):
        return error
    where = _describe(node) if error.where is None else f"{error.where} in {_describe(node)}"
    return type(error)(error.what, where=where, fix=error.fix)


def _describe(node: Node) -> str:
    shapes = ", ".join("_" if value is None else str(value) for value in node.inputs)
    return f"node {node.source} ({node.op} on {shapes})"
