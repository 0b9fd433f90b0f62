"""If, Loop and Scan: operators that run subgraphs.

`infer` combines what inference found for the subgraphs, which `ops/infer.py` types first. Extents
that differ between branches or iterations, and those that only exist inside a subgraph, become
unknown extents of the outer value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from planish.errors import GraphError, InputError, ShapeError
from planish.ir.declarations import REQUIRED
from planish.ir.dtypes import BOOL, F32, I64
from planish.ir.graph import Graph, Node, Value
from planish.ir.requirement import Requirement, equal
from planish.ir.shape import Dim, Shape, evaluate, symbols_of
from planish.ops.content import contents
from planish.ops.numeric import optional, random_array, required
from planish.ops.op import (
    Array,
    Attributes,
    Cost,
    Inferred,
    Inputs,
    Op,
    Sample,
    SubgraphRunner,
    bytes_of,
    normalize_axis,
    unknown_extent,
)


def outer_extent(node: Node, output: int, axis: int, dims: Sequence[Dim]) -> Dim:
    """Return the extent that all `dims` agree on, or an unknown one."""
    first = dims[0]
    hidden = any(name.startswith("?") for name in symbols_of(first))
    if hidden or any(dim != first for dim in dims):
        return unknown_extent(node, output, axis)
    return first


def common_shape(node: Node, output: int, shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the shape that covers all `shapes`; None when a rank is unknown or they differ."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or len({len(shape) for shape in known}) != 1:
        return None
    return tuple(
        outer_extent(node, output, axis, dims) for axis, dims in enumerate(zip(*known, strict=True))
    )


class _ControlFlow(Op):
    """Base: the reference needs a runner for subgraphs, so only `evaluate` exists."""

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Raise GraphError: subgraphs may read outer values, which arrays alone do not tell."""
        raise GraphError(
            f"{cls.name} runs through `evaluate`, which is given its subgraphs' runner"
        )

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Count the memory of inputs and outputs; the subgraphs' nodes have their own costs."""
        return Cost(0, bytes_of(node))


class If(_ControlFlow):
    """Run `then_branch` or `else_branch`, which have no inputs and equally many outputs."""

    name = "If"
    attributes: ClassVar[Mapping[str, Any]] = {"else_branch": REQUIRED, "then_branch": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types that cover both branches'."""
        branches = (node.attributes["then_branch"], node.attributes["else_branch"])
        counts = [len(branch.outputs) for branch in branches]
        if counts[0] != counts[1]:
            raise ShapeError(f"branches have {counts[0]} and {counts[1]} outputs", where=str(node))
        _follow_other_branch(*branches)
        _follow_other_branch(*reversed(branches))
        found = []
        pairs = zip(branches[0].outputs, branches[1].outputs, strict=True)
        for index, (a, b) in enumerate(pairs):
            if a.dtype != b.dtype:
                raise ShapeError(f"branches give {a} and {b}", where=str(node))
            content = a.content if a.content == b.content else None
            found.append(Inferred(a.dtype, common_shape(node, index, [a.shape, b.shape]), content))
        return found

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Run the branch that the condition chooses."""
        taken = bool(required(inputs, 0).reshape(-1)[0])
        return run(node.attributes["then_branch" if taken else "else_branch"], [])

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover both branches, which differ in shape."""
        attributes = {
            "then_branch": _branch("then", random_array(1, 2, 3)),
            "else_branch": _branch("else", random_array(2, 4, 3)),
        }
        alike = _branch("then", random_array(3, 4, 3))
        return [
            Sample((np.array(True),), {**attributes, "then_branch": alike}, name="alike"),
            Sample((np.array(True),), attributes, name="then"),
            Sample((np.array(False),), attributes, name="else"),
        ]


class Refuse(Op):
    """Stand in for a branch that cannot run: raise InputError with `message` when it is reached.

    It has no inputs, and any number of outputs, which are never computed. Their types are those
    of the other branch's outputs, so that the If around them keeps its type.
    """

    name = "planish.Refuse"
    attributes: ClassVar[Mapping[str, Any]] = {"message": REQUIRED, "where": None}
    pure = False  # constant folding must not run it

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the types that the outputs have: the If around sets them."""
        return [Inferred(output.dtype, output.shape) for output in node.outputs]

    @classmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Raise InputError."""
        raise InputError(
            attributes["message"],
            where=attributes["where"],
            fix="build another engine with a profile that fits this branch, or give inputs that "
            "take the other one",
        )

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return nothing: it never computes."""
        return Cost(0, 0)

    @classmethod
    def samples(cls) -> list[Sample]:
        """Return no cases: there is no result to compare."""
        return []


def _follow_other_branch(branch: Graph, other: Graph) -> None:
    """Give the outputs of a `branch` that only refuses the types of the `other` branch's."""
    pairs = zip(branch.outputs, other.outputs, strict=True)
    for value, model in pairs:
        if value.producer is not None and value.producer.op == Refuse.name:
            value.dtype, value.shape = model.dtype, model.shape


def _branch(name: str, array: Array) -> Graph:
    """Return a graph without inputs that gives array + array."""
    graph = Graph(name)
    constant = graph.constant(array, f"{name}_constant")
    result = Value(f"{name}_result", F32, array.shape)
    graph.append(Node("Add", [constant, constant], [result]))
    graph.add_output(result)
    return graph


class Loop(_ControlFlow):
    """Run `body` at most M times, while its condition holds.

    Inputs M (or absent), condition (or absent), carried values. The body takes the iteration
    number, the condition and the carried values, and gives the condition, the carried values, and
    elements that are stacked into the outputs after the carried ones.
    """

    name = "Loop"
    attributes: ClassVar[Mapping[str, Any]] = {"body": REQUIRED}

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of carried and stacked values."""
        body: Graph = node.attributes["body"]
        initial = node.inputs[2:]
        if len(body.inputs) != len(initial) + 2:
            raise ShapeError(
                f"the body takes {len(body.inputs)} inputs, expected {len(initial) + 2}",
                where=str(node),
            )
        found = []
        for index, result in enumerate(body.outputs[1:]):
            if index < len(initial):
                before = initial[index]
                shapes = [result.shape] if before is None else [before.shape, result.shape]
                found.append(Inferred(result.dtype, common_shape(node, index, shapes)))
                continue
            shape = _stacked(node, index, result.shape, cls._trips(node, index), 0)
            found.append(Inferred(result.dtype, shape))
        return found

    @classmethod
    def _trips(cls, node: Node, output: int) -> Dim:
        """Return the number of iterations where M alone decides it, else an unknown extent."""
        body: Graph = node.attributes["body"]
        limit, condition = contents(node.input(0)), node.input(1)
        starts = condition is None or contents(condition) == (1,)
        going = body.outputs[0]
        while going.producer is not None and going.producer.op == "Identity":
            (going,) = going.producer.present_inputs
        goes_on = contents(going) == (1,) or going is body.inputs[1]
        if limit is None or not starts or not goes_on:
            return unknown_extent(node, output, 0)
        return max(limit[0], 0) if isinstance(limit[0], int) else limit[0]

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Iterate, then stack."""
        body: Graph = node.attributes["body"]
        limit, start = optional(inputs, 0), optional(inputs, 1)
        going = start is None or bool(start.reshape(-1)[0])
        trips = None if limit is None else int(limit.reshape(-1)[0])
        carried = [required(inputs, index) for index in range(2, len(inputs))]
        stacks: list[list[Array]] = [[] for _ in body.outputs[1 + len(carried) :]]
        iteration = 0
        while going and (trips is None or iteration < trips):
            results = run(body, [np.array(iteration, np.int64), np.array(going), *carried])
            going = bool(results[0].reshape(-1)[0])
            carried = results[1 : 1 + len(carried)]
            for stack, element in zip(stacks, results[1 + len(carried) :], strict=True):
                stack.append(element)
            iteration += 1
        values = body.outputs[1 + len(carried) :]
        known = known_symbols(node, inputs)
        pairs = zip(stacks, values, strict=True)
        stacked = [_stack(stack, value, 0, known) for stack, value in pairs]
        return [*carried, *stacked]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover a counted loop, one that ends itself, and one that never runs."""
        start, rise = random_array(1, 2, 3), np.array(3, np.int64)
        body = {"body": _summing_body()}
        yes, no = np.array(True), np.array(False)
        return [
            Sample((rise, yes, start), body, (0, 1), outputs=2, name="counted"),
            Sample((rise, None, start), body, outputs=2, name="no_condition"),
            Sample((rise, no, start), {"body": _counting_body()}, outputs=2, name="never"),
            Sample((None, yes, start), {"body": _counting_body()}, outputs=2, name="while"),
        ]


def _stacked(node: Node, output: int, element: Shape | None, count: Dim, axis: int) -> Shape | None:
    """Return the shape of `count` elements stacked along `axis`."""
    if element is None:
        return None
    place = normalize_axis(axis, len(element) + 1, node)
    rest = list(common_shape(node, output, [element]) or ())
    rest.insert(place, count)
    shape = tuple(rest)
    return tuple(
        unknown_extent(node, output, index)
        if index != place and any(name.startswith("?") for name in symbols_of(dim))
        else dim
        for index, dim in enumerate(shape)
    )


def known_symbols(node: Node, inputs: Inputs) -> dict[str, int]:
    """Return the extents of symbols that the shapes of `inputs` reveal."""
    known: dict[str, int] = {}
    for value, array in zip(node.inputs, inputs, strict=True):
        if value is None or array is None or value.shape is None:
            continue
        for dim, extent in zip(value.shape, array.shape, strict=True):
            names = symbols_of(dim)
            if len(names) == 1 and str(dim) in names:
                known[str(dim)] = extent
    return known


def _stack(elements: list[Array], value: Value, axis: int, known: Mapping[str, int]) -> Array:
    """Return `elements` stacked; none of them gives extent 0 there (and where unknown)."""
    if elements:
        return np.stack(elements, axis=axis)
    shape = [
        evaluate(dim, known) if symbols_of(dim) <= set(known) else 0 for dim in value.shape or ()
    ]
    place = axis % (len(shape) + 1)
    return np.zeros((*shape[:place], 0, *shape[place:]), dtype=value.dtype.numpy)


def _summing_body() -> Graph:
    """Return a body that adds the carried value to itself and stacks it."""
    graph = Graph("summing")
    graph.add_input("iteration", I64, ())
    going = graph.add_input("going", BOOL, ())
    carried = graph.add_input("carried", F32, (2, 3))
    still, total, kept = Value("still", BOOL, ()), Value("total", F32, (2, 3)), Value(
        "kept", F32, (2, 3)
    )  # fmt: skip
    graph.append(Node("Identity", [going], [still]))
    graph.append(Node("Add", [carried, carried], [total]))
    graph.append(Node("Identity", [total], [kept]))
    for value in (still, total, kept):
        graph.add_output(value)
    return graph


def _counting_body() -> Graph:
    """Return a body that adds 1 to the carried value and goes on for two iterations."""
    graph = Graph("counting")
    iteration = graph.add_input("iteration", I64, ())
    graph.add_input("going", BOOL, ())
    carried = graph.add_input("carried", F32, (2, 3))
    one = graph.constant(np.array(1, np.float32), "one")
    last = graph.constant(np.array(2, np.int64), "last")
    still, total = Value("still", BOOL, ()), Value("total", F32, (2, 3))
    number = Value("number", I64, ())
    graph.append(Node("Less", [iteration, last], [still]))
    graph.append(Node("Add", [carried, one], [total]))
    graph.append(Node("Identity", [iteration], [number]))
    for value in (still, total, number):
        graph.add_output(value)
    return graph


class Scan(_ControlFlow):
    """Run `body` once for every element of the scanned inputs, along one axis of each.

    Inputs: states, then `num_scan_inputs` scanned tensors. The body takes states and one slice of
    each scanned tensor; it gives states and slices, which are stacked into the last outputs.
    """

    name = "Scan"
    attributes: ClassVar[Mapping[str, Any]] = {
        "body": REQUIRED,
        "num_scan_inputs": REQUIRED,
        "scan_input_axes": None,
        "scan_input_directions": None,
        "scan_output_axes": None,
        "scan_output_directions": None,
    }

    @classmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return types of final states and stacked slices."""
        body: Graph = node.attributes["body"]
        scanned = node.attributes["num_scan_inputs"]
        states = len(node.inputs) - scanned
        if len(body.inputs) != len(node.inputs):
            raise ShapeError(
                f"the body takes {len(body.inputs)} inputs, expected {len(node.inputs)}",
                where=str(node),
            )
        count = cls._steps(node, states, scanned)
        axes = node.attributes["scan_output_axes"] or (0,) * (len(body.outputs) - states)
        found = []
        for index, result in enumerate(body.outputs):
            if index >= states:
                shape = _stacked(node, index, result.shape, count, axes[index - states])
            else:
                shape = common_shape(node, index, [node.present_inputs[index].shape, result.shape])
            found.append(Inferred(result.dtype, shape))
        return found

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return that all scanned inputs are equally long."""
        scanned = int(node.attributes["num_scan_inputs"])
        axes = node.attributes["scan_input_axes"] or (0,) * scanned
        values = node.present_inputs[len(node.inputs) - scanned :]
        lengths = [v.shape[axis] for v, axis in zip(values, axes, strict=True) if v.shape]
        return [each for length in lengths[1:] for each in equal(length, lengths[0])]

    @classmethod
    def _steps(cls, node: Node, states: int, scanned: int) -> Dim:
        axes = node.attributes["scan_input_axes"] or (0,) * scanned
        for value, axis in zip(node.present_inputs[states:], axes, strict=True):
            if value.shape is not None:
                return value.shape[normalize_axis(axis, len(value.shape), node)]
        return unknown_extent(node, states, 0)

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Step through the slices, then stack."""
        body: Graph = node.attributes["body"]
        scanned = node.attributes["num_scan_inputs"]
        count = len(inputs) - scanned
        states = [required(inputs, index) for index in range(count)]
        axes = node.attributes["scan_input_axes"] or (0,) * scanned
        turns = node.attributes["scan_input_directions"] or (0,) * scanned
        sources = []
        for index, (axis, turned) in enumerate(zip(axes, turns, strict=True)):
            source = np.moveaxis(required(inputs, count + index), axis, 0)
            sources.append(source[::-1] if turned else source)
        stacks: list[list[Array]] = [[] for _ in body.outputs[count:]]
        for slices in zip(*sources, strict=True):
            results = run(body, [*states, *(np.asarray(part, order="C") for part in slices)])
            states = results[:count]
            for stack, element in zip(stacks, results[count:], strict=True):
                stack.append(element)
        out_axes = node.attributes["scan_output_axes"] or (0,) * len(stacks)
        out_turns = node.attributes["scan_output_directions"] or (0,) * len(stacks)
        known = known_symbols(node, inputs)
        stacked = [
            _stack(stack[::-1] if turned else stack, value, axis, known)
            for stack, value, axis, turned in zip(
                stacks, body.outputs[count:], out_axes, out_turns, strict=True
            )
        ]
        return [*states, *stacked]

    @classmethod
    def samples(cls) -> list[Sample]:
        """Cover axes and directions on both sides."""
        state, forward = random_array(1, 3), random_array(2, 4, 3)
        body = {"body": _running_sum_body((3,)), "num_scan_inputs": 1}
        start, numbers = random_array(3), random_array(4, 5)
        scalar = {"body": _running_sum_body(()), "num_scan_inputs": 1}
        backward = {"scan_input_directions": (1,), "scan_output_directions": (1,)}
        sideways = {"scan_input_axes": (1,), "scan_output_axes": (1,)}
        return [
            Sample((state, forward), body, outputs=2, name="forward"),
            Sample((state, forward), {**body, **backward}, outputs=2, name="backward"),
            Sample((state, forward.T.copy()), {**body, **sideways}, outputs=2, name="sideways"),
            Sample((start, numbers), scalar, outputs=2, name="scalar"),
        ]


def _running_sum_body(shape: Shape) -> Graph:
    """Return a body that adds the slice to the state and gives the sum twice."""
    graph = Graph("running_sum")
    state, part = graph.add_input("state", F32, shape), graph.add_input("part", F32, shape)
    total, kept = Value("total", F32, shape), Value("kept", F32, shape)
    graph.append(Node("Add", [state, part], [total]))
    graph.append(Node("Identity", [total], [kept]))
    graph.add_output(total)
    graph.add_output(kept)
    return graph
