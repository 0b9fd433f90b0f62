"""Prepares Loops so that their bodies can be planned like the graph around them.

A *native* Loop has a body whose values all have extents that the inputs' shapes decide. Its carried
values live in the memory of the Loop's outputs, its body's regions become steps that the driver
repeats, and the number of the iteration is a symbol like any extent: what a body reads or gives
at that number (the elements of a Scan's inputs and outputs) is a view at an offset with the symbol.

The pass

- turns every Scan into a Loop that gathers its elements;
- marks native Loops: the content of the body's first input becomes a fresh symbol, which gets a
  range in the outermost graph like all others;
- turns Gather at an index that is certain to be in range into planish.Element, a view.

Other Loops (data-dependent extents, strings) stay as they are and run as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from planish.errors import GraphError
from planish.ir.dtypes import BOOL, I64, STRING
from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import discard, replace_everywhere
from planish.ir.shape import Dim, Expression, evaluate, substitute, symbol, symbols_of
from planish.ops.content import bounds, contents
from planish.ops.infer import infer_node
from planish.passes.building import emit, emit_many, integers
from planish.passes.collect_requirements import open_requirements
from planish.passes.graph_pass import GraphPass
from planish.passes.inline_if import own_outputs
from planish.plan.plan import UNLIMITED

STEM = "iteration"
GUESS = 16  # iterations that a loop is tuned for when only the data ends it


def is_native_loop(node: Node) -> bool:
    """Whether `node` is a Loop that the planner sees through."""
    return node.op == "Loop" and node.body.inputs[0].content is not None


def loop_symbol(node: Node) -> str:
    """Return the symbol of a native Loop's iteration."""
    return str((node.body.inputs[0].content or ("",))[0])


class NativeLoops(GraphPass):
    """Marks the Loops that become native; see the module."""

    name = "native_loops"

    def __init__(self) -> None:
        super().__init__()
        self._inner: set[Graph] = set()

    def run(self, graph: Graph) -> bool:
        """Go over an outermost graph and everything inside it."""
        if graph in self._inner:
            return False
        before = frozenset(graph.ranges)
        return self._run(graph, graph, before)

    def _run(self, graph: Graph, root: Graph, known: frozenset[str]) -> bool:
        modified = False
        for node in graph:
            self._inner.update(node.subgraphs)
            if node.op == "Region" or not node.subgraphs:
                continue
            if node.op == "Scan":
                loop = scan_to_loop(node, graph)
                self._inner.update(loop.subgraphs)
                modified, node = True, loop
            if node.op == "Loop":
                modified |= self._visit_loop(node, root, known)
                continue
            for subgraph in node.subgraphs:
                modified |= self._run(subgraph, root, known)
        return modified

    def _visit_loop(self, node: Node, root: Graph, known: frozenset[str]) -> bool:
        if is_native_loop(node):
            return False
        if not is_plannable(node, known):
            self.count("loops that run as a whole")
            return self._run(node.body, root, known)
        _mark(node, root)
        self._run(node.body, root, known)
        if not is_plannable(node, known):  # an extent in the body depends on the iteration
            del root.ranges[loop_symbol(node)]
            node.body.inputs[0].content = None
            infer_node(node)
            self.count("loops that run as a whole")
            return True
        _view_elements(node, root)
        self.count("native loops")
        return True


def scan_to_loop(node: Node, graph: Graph) -> Node:
    """Replace a Scan by a Loop that gathers one element of every scanned input; return it."""
    attributes, body = node.attributes, node.body
    scanned = int(attributes["num_scan_inputs"])
    states = len(node.inputs) - scanned
    sources = node.present_inputs[states:]
    axes = [
        axis % source.rank
        for axis, source in zip(
            attributes["scan_input_axes"] or (0,) * scanned, sources, strict=True
        )
    ]
    turned = attributes["scan_input_directions"] or (0,) * scanned
    count = _extent(graph, node, sources[0], axes[0])
    number = Value(body.fresh_name(STEM), I64, ())
    going = Value(body.fresh_name("going"), BOOL, ())
    elements = body.inputs[states:]
    body.inputs = [number, going, *body.inputs[:states]]
    body.input_names = [f"input_{index}" for index in range(len(body.inputs))]
    still = Value(body.fresh_name("still"), BOOL, ())
    anchor = Node("Identity", [going], [still])  # in front of the body's nodes
    first = next(iter(body), None)
    body.append(anchor) if first is None else body.insert_before(first, anchor)
    place = number
    if any(turned):
        one = graph.constant(np.array(1, np.int64))
        place = emit(body, anchor, "Sub", [emit(graph, node, "Sub", [count, one]), number])
    for element, source, axis, backward in zip(elements, sources, axes, turned, strict=True):
        index = place if backward else number
        value = emit(body, anchor, "Gather", [source, index], {"axis": axis})
        body.replace_value(element, value)
    body.outputs = [still, *body.outputs]
    body.output_names = [f"output_{index}" for index in range(len(body.outputs))]
    own_outputs(body)
    del node.attributes["body"]
    start = graph.constant(np.array(True))
    operands = [count, start, *node.inputs[:states]]
    results = emit_many(graph, node, "Loop", operands, len(node.outputs), {"body": body})
    _finish_scan(node, graph, results, states)
    loop = results[0].producer
    if loop is None:
        raise GraphError("a Loop was emitted without outputs", where=str(node))
    return loop


def is_counted(node: Node) -> bool:
    """Whether a Loop's number of iterations is M: its condition never ends it."""
    start, going = node.input(1), node.body.outputs[0]
    if start is not None and contents(start) != (1,):
        return False
    while going.producer is not None and going.producer.op == "Identity":
        going = going.producer.present_inputs[0]
    return going is node.body.inputs[1] or contents(going) == (1,)


# -- Scan to Loop --------------------------------------------------------------------------------


def _extent(graph: Graph, node: Node, source: Value, axis: int) -> Value:
    """Return the extent of one axis of `source` as an int64 scalar."""
    shape = emit(graph, node, "Shape", [source])
    return emit(graph, node, "Gather", [shape, graph.constant(np.array(axis, np.int64))])


def _finish_scan(node: Node, graph: Graph, results: Sequence[Value], states: int) -> None:
    """Let the readers of a Scan read the Loop's results, stacked elements moved to their axes."""
    stacks = len(node.outputs) - states
    axes = node.attributes["scan_output_axes"] or (0,) * stacks
    turned = node.attributes["scan_output_directions"] or (0,) * stacks
    values = list(results)
    for place, (axis, backward) in enumerate(zip(axes, turned, strict=True), start=states):
        value = values[place]
        if backward:
            ends = [integers(graph, number) for number in (-1, -(1 << 62), 0, -1)]
            value = emit(graph, node, "Slice", [value, *ends])
        if axis % value.rank:
            order = list(range(1, value.rank))
            order.insert(axis % value.rank, 0)
            value = emit(graph, node, "Transpose", [value], {"perm": tuple(order)})
        values[place] = value
    for old, new in zip(node.outputs, values, strict=True):
        replace_everywhere(graph, old, new)
    discard(node, graph)


# -- what can be planned -------------------------------------------------------------------------


def is_plannable(node: Node, known: frozenset[str] | None = None) -> bool:
    """Whether every value of a Loop's body has extents that the inputs' shapes decide.

    Those are extents over `known` symbols; by default over all but those that only data decides.
    What is carried keeps its shape.
    """
    if node.op != "Loop":
        return False
    body = node.body
    limit = node.input(0)
    if limit is None and is_counted(node):
        return False  # it never ends
    if limit is not None and limit.dtype is not I64:
        return False
    count = contents(limit)
    if count is not None and isinstance(count[0], int) and count[0] < 1:
        return False
    carried = node.inputs[2:]
    groups = zip(
        carried,
        body.inputs[2:],
        body.outputs[1 : 1 + len(carried)],
        node.outputs[: len(carried)],
        strict=True,
    )
    for initial, *others in groups:
        if initial is None or any(
            other.shape != initial.shape or other.dtype is not initial.dtype for other in others
        ):
            return False
    values = (*node.present_inputs, *node.outputs, *_values_inside(body))
    return all(_is_known(value, known) for value in values)


def _values_inside(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.present_inputs
        yield from node.outputs
        for subgraph in () if node.op == "Region" else node.subgraphs:
            yield from _values_inside(subgraph)
    yield from graph.outputs


def _is_known(value: Value, known: frozenset[str] | None) -> bool:
    if value.dtype is STRING or value.shape is None:
        return False
    symbols = frozenset[str]().union(*map(symbols_of, value.shape))
    if known is None:
        return not any(name.startswith("?") for name in symbols)
    return symbols <= known


# -- marking -------------------------------------------------------------------------------------


def _mark(node: Node, root: Graph) -> None:
    """Give the iteration of `node` a symbol with a range, and type the body anew."""
    index = 0
    while f"{STEM}_{index}" in root.ranges:
        index += 1
    name = f"{STEM}_{index}"
    count = contents(node.input(0))
    if count is None:
        root.ranges[name] = (0, GUESS, UNLIMITED - 1)
    else:
        optimum = {each: opt for each, (_, opt, _) in root.ranges.items()}
        best, most = evaluate(count[0], optimum), bounds(count[0], root.ranges)[1]
        root.ranges[name] = (0, max(best - 1, 0), max(int(min(most, UNLIMITED)) - 1, 0))
    number, going = node.body.inputs[:2]
    number.content = (symbol(name),)
    counted = is_counted(node)
    if going.uses:  # the body runs only while it holds
        node.body.replace_value(going, node.body.constant(np.array(True)))
    if counted:
        node.replace_input(1, None)
        node.body.outputs[0] = going
    own_outputs(node.body)
    infer_node(node)
    found = {str(each): each for each in root.requirements}
    for inner in _nodes_inside(node.body):
        for requirement in open_requirements(inner, root):
            found.setdefault(str(requirement), replace(requirement, in_branch=True))
    root.requirements = list(found.values())


def _nodes_inside(graph: Graph) -> Iterator[Node]:
    for node in graph:
        yield node
        for subgraph in () if node.op == "Region" else node.subgraphs:
            yield from _nodes_inside(subgraph)


def _view_elements(node: Node, root: Graph) -> None:
    """Turn every Gather in the body at an index that is in range into a view."""
    count = contents(node.input(0))
    if count is None:
        return
    last = {loop_symbol(node): count[0] - 1}
    for inner in list(_nodes_inside(node.body)):
        if inner.op != "Gather" or inner.graph is None:
            continue
        x, index = inner.present_inputs
        place = contents(index)
        if place is None or index.shape != () or x.is_constant or x.shape is None:
            continue
        axis = int(inner.attributes["axis"]) % x.rank
        if _in_range(place[0], x.known_shape[axis], last, root):
            view = emit(inner.graph, inner, "planish.Element", [x, index], {"axis": axis})
            replace_everywhere(inner.graph, inner.output, view)
            inner.graph.remove(inner)


def _in_range(index: Dim, extent: Dim, last: Mapping[str, Dim], root: Graph) -> bool:
    """Whether 0 <= index < extent in the first and the last iteration of a loop.

    That is all iterations where the index is linear in the symbol of the loop.
    """
    (name,) = last
    if isinstance(index, int) or not _is_linear(index, name):
        return False
    for ends in ({name: 0}, last):
        place = substitute(index, ends)
        if bounds(place, root.ranges)[0] < 0 or bounds(extent - 1 - place, root.ranges)[0] < 0:
            return False
    return True


def _is_linear(dim: Dim, name: str) -> bool:
    if isinstance(dim, int):
        return True
    for monomial, _ in dim.terms:
        if any(
            atom.arguments and name in symbols_of(Expression({(atom,): 1})) for atom in monomial
        ):
            return False
        if sum(atom.name == name and not atom.arguments for atom in monomial) > 1:
            return False
    return True
