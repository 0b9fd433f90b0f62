"""Decide for every value whether it owns memory or lies inside another value's (tensor fusion).

Three things want a value in a place of their choosing: a concat its operands (slices of the
result), the graph its outputs (the caller's arrays), an If the outputs of its branches. Walking
backwards, each such *demand* is handed up through view operators to the Region that computes the
elements, which then simply writes there; a concat whose operands are a run of a larger concat's
becomes a slice of that. Where it cannot be done (the value is a graph input, wanted in two places,
read by someone who needs other strides, ...) one copy is inserted, of that operand only.

Walking forwards, everything else gets its own memory in its layout, and view operators alias.

Afterwards `value.storage` is set for every value that a kernel reads or writes, and `value.layout`
holds its axis order and the zeros that may be read around it. Values that only views read and
that plain strides cannot describe have neither.
"""

from __future__ import annotations

import numpy as np

from planish.errors import GraphError
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Halo, Layout, Storage
from planish.ir.shape import Dim
from planish.passes.concat_runs import find_runs
from planish.passes.copies import insert_copy
from planish.passes.graph_pass import GraphPass
from planish.passes.loop_memory import is_overwritable, is_private, viewed_source
from planish.passes.native_loops import is_counted
from planish.passes.opaque import OWNERS, is_settled
from planish.passes.operands import FOLLOW, REDUCTIONS, covers, requirement
from planish.passes.view_map import ViewMap
from planish.passes.views import (
    BIJECTIVE,
    Ranges,
    View,
    backward,
    follows,
    forward,
    no_halo,
    order_of,
    slice_axis,
    take_element,
    whole,
)


class AssignStorage(GraphPass):
    """Give every value its `storage`, inserting the copies that cannot be avoided."""

    name = "assign_storage"

    def __init__(self, halos: bool = True) -> None:
        super().__init__()
        self.halos = halos  # whether kernels read padding as zeros in memory

    def run(self, graph: Graph) -> bool:
        """Assign storage in `graph` and its subgraphs; do nothing where that has been done."""
        if is_settled(graph, _has_storage) and all(map(_has_storage, graph.outputs)):
            return False
        _Assignment(graph, self).assign()
        return True


class _Assignment:
    """One run over an outermost graph."""

    def __init__(self, graph: Graph, owner: AssignStorage) -> None:
        self.graph = graph
        self.ranges: Ranges = graph.ranges
        self.owner = owner
        self.map = ViewMap(graph.ranges)
        # views that demands have given to values before the walk forwards reaches them
        self.placed: dict[Value, View] = {}

    def assign(self) -> None:
        """Decide demands backwards, place the rest forwards, and annotate."""
        self._separate_outputs()
        # first what a region computes, so that no view of it sinks there: views come after
        for value in sorted(self.graph.outputs, key=lambda value: not _is_computed(value)):
            self._demand_own(value)
        self._demands(self.graph)
        for value in self.graph.inputs:
            self.map.own(value, Layout.row_major(value.rank))
            self._annotate(value)
        self._place(self.graph)

    # -- graph outputs ---------------------------------------------------------------------------

    def _separate_outputs(self) -> None:
        """Give every graph output a value of its own that a region, concat or view makes."""
        seen: set[Value] = set()
        for index, value in enumerate(self.graph.outputs):
            foreign = value.is_constant or value.producer is None or value in seen
            if foreign or not _is_plain_row_major(value):
                value = self._copy_output(index, value)
            seen.add(value)

    def _copy_output(self, index: int, value: Value) -> Value:
        self.owner.count("copies to outputs")
        copy = insert_copy(self.graph, None, value, "output")
        copy.layout = Layout.row_major(copy.rank)
        outputs = list(self.graph.outputs)
        outputs[index] = copy
        self.graph.outputs = outputs
        return copy

    def _demand_own(self, value: Value) -> None:
        """Make an output the owner of its memory, written by the region behind its views."""
        target = whole(value, Layout.row_major(value.rank))
        if _is_computed(value):
            value.layout = Layout.row_major(value.rank)
            self.placed[value] = target
            return
        if self._sink(value, target, self.graph):
            return
        index = next(i for i, output in enumerate(self.graph.outputs) if output is value)
        copy = self._copy_output(index, value)
        self.placed[copy] = whole(copy, Layout.row_major(copy.rank))

    # -- demands, backwards ----------------------------------------------------------------------

    def _demands(self, graph: Graph) -> None:
        runs = find_runs(graph)
        for node in reversed(graph):
            if node.op == "Concat":
                self._demand_operands(graph, node, runs.get(node))
            elif node.op == "If":
                self._demand_branches(node)
            elif node.op == "Loop":
                self._demand_loop(graph, node)

    def _demand_operands(self, graph: Graph, node: Node, run: tuple[Node, int] | None) -> None:
        output = node.outputs[0]
        axis = int(node.attributes["axis"]) % output.rank
        if run is not None and output not in self.placed and self._join_run(node, *run):
            self.owner.count("concats inside larger concats")
            return
        target = self.placed.get(output)
        if target is None:
            target = whole(output, _layout(output))
            self.placed[output] = target
        start: Dim = 0
        for index, value in enumerate(node.present_inputs):
            extent = value.known_shape[axis]
            part = _part(target, axis, start, extent)
            start = start + extent
            if self._sink(value, part, graph):
                self.owner.count("concat operands written in place")
                continue
            self.owner.count("copies into concats")
            copy = insert_copy(graph, node, value, "operand")
            copy.layout = Layout(_layout(output).order, no_halo(copy.rank))
            node.replace_input(index, copy)
            self.placed[copy] = part

    def _join_run(self, node: Node, larger: Node, first: int) -> bool:
        """Make a concat a slice of a larger one that holds the same operands in a run."""
        whole_view = self.placed.get(larger.outputs[0])
        output = node.outputs[0]
        axis = int(node.attributes["axis"]) % output.rank
        run = larger.present_inputs[first : first + len(node.inputs)]
        if whole_view is None or run != node.present_inputs:
            return False  # an operand is copied into the larger one, later than it is read here
        start: Dim = 0
        for value in larger.present_inputs[:first]:
            start = start + value.known_shape[axis]
        part = _part(whole_view, axis, start, output.known_shape[axis])
        if not self._accepts(output, part):
            return False
        self.placed[output] = part
        return True

    def _demand_branches(self, node: Node) -> None:
        for output in node.outputs:
            if output not in self.placed:
                self.placed[output] = whole(output, Layout.row_major(output.rank))
        for subgraph in node.subgraphs:
            for index, value in enumerate(subgraph.outputs):
                target = self.placed[node.outputs[index]]
                if self._sink(value, target, subgraph):
                    continue
                self.owner.count("copies to outputs")
                self._copy_to_end(subgraph, index, value, target)
            self._demands(subgraph)

    def _copy_to_end(self, subgraph: Graph, index: int, value: Value, target: View) -> None:
        """Let output `index` of a subgraph be a copy of `value` that lies at `target`."""
        copy = insert_copy(subgraph, None, value, "branch")
        copy.layout = Layout.row_major(copy.rank)
        subgraph.outputs = [
            copy if i == index else other for i, other in enumerate(subgraph.outputs)
        ]
        self.placed[copy] = target

    def _demand_loop(self, graph: Graph, node: Node) -> None:
        """Place what a loop carries in its outputs, and stacked elements in slices of them."""
        body, states = node.body, len(node.body.inputs) - 2
        for output in node.outputs:
            if output not in self.placed:
                self.placed[output] = whole(output, Layout.row_major(output.rank))
        going = whole(body.inputs[1], Layout.row_major(0))
        self.placed[body.inputs[1]] = going
        carried = [going, *(self.placed[output] for output in node.outputs[:states])]
        for inner, target in zip(body.inputs[2:], carried[1:], strict=True):
            self.placed[inner] = target
        (number,) = body.inputs[0].content or (0,)
        elements = [_element(self.placed[output], number) for output in node.outputs[states:]]
        counted = is_counted(node)
        self._demand_results(body, [*carried, *elements], 1 if counted else 0)
        for index, target in enumerate(carried):
            if index > 0 or not counted:
                self._demand_initial(graph, node, index + 1, target)
        self._demands(body)

    def _demand_results(self, body: Graph, targets: list[View], first: int) -> None:
        """Let the regions of a loop's body write its outputs, from `first` on, to their places.

        A copy at the end of the body reads before any other copy overwrites what it reads: where
        an output is a carried value of this iteration, it goes through memory of its own.
        """
        order = {inner: index for index, inner in enumerate(body)}
        late = []
        for index in range(first, len(targets)):
            value, target = body.outputs[index], targets[index]
            inner = body.inputs[1 + index] if 1 + index < len(body.inputs) else None
            if is_overwritable(inner, value, order) and self._sink(value, target, body):
                self.owner.count("loop results written in place")
                continue
            late.append(index)
        for index in late:
            value = body.outputs[index]
            if viewed_source(value) in body.inputs:
                value = insert_copy(body, None, value, "kept")
                value.layout = Layout.row_major(value.rank)
                body.outputs[index] = value
        for index in late:
            self.owner.count("copies of loop results")
            self._copy_to_end(body, index, body.outputs[index], targets[index])

    def _demand_initial(self, graph: Graph, node: Node, index: int, target: View) -> None:
        """Let the initial value of something carried be written where the loop keeps it."""
        value = node.inputs[index]
        if value is None:  # the condition, which is true at first
            value = graph.constant(np.array(True))
        if is_private(value, graph) and self._sink(value, target, graph):
            return
        self.owner.count("copies of initial values")
        copy = insert_copy(graph, node, value, "initial")
        copy.layout = Layout.row_major(copy.rank)
        node.replace_input(index, copy)
        self.placed[copy] = target

    # -- sinking a value into a place ------------------------------------------------------------

    def _sink(self, value: Value, target: View, graph: Graph) -> bool:
        """Let the region behind `value` write to `target`; return whether that is possible."""
        view: View | None = target
        while value.producer is not None and value.producer.op in BIJECTIVE:
            node = value.producer
            view = None if view is None else backward(node, view)
            source = node.inputs[0]
            if view is None or source is None or node.graph is not graph:
                return False
            value = source
        producer = value.producer
        if producer is None or producer.graph is not graph or value in self.placed:
            return False
        if producer.op not in OWNERS or view is None:
            return False
        if not self._accepts(value, view):
            return False
        self.placed[value] = view
        return True

    def _accepts(self, value: Value, view: View) -> bool:
        """Whether `value` may lie at `view`: its writer's order, its readers' needs."""
        storage = view.storage()
        if storage is None or not covers(view.halo, _layout(value).halo):
            return False
        if _has_zero_stride(storage, value):
            return False
        if not self._writable(value, storage):
            return False
        return self._readers_agree(value, view)

    def _writable(self, value: Value, storage: Storage) -> bool:
        """Whether the writer of `value`, which works in its layout's order, can write there."""
        shape = value.known_shape
        order = _layout(value).order
        if follows(storage.strides, shape, order, self.ranges):
            return True
        producer = value.producer
        if producer is None:
            return False
        kind = producer.attributes.get("kind")
        return producer.op == "Concat" or kind in FOLLOW or kind in REDUCTIONS

    def _readers_agree(self, value: Value, view: View) -> bool:
        """Whether every reader can still read its operand when `value` lies at `view`."""
        storage = view.storage()
        if storage is None and any(output is value for output in self.graph.outputs):
            return False  # it may have to be copied
        for node, index in value.uses:
            if node.op not in OWNERS:
                agrees = index > 0 or self._view_readers_agree(node, view)
            elif storage is None:
                agrees = False
            else:
                agrees = node.op != "Region" or requirement(node, index, self.owner.halos).met_by(
                    storage, view.halo, value.known_shape, self.ranges
                )
            if not agrees:
                return False
        return True

    def _view_readers_agree(self, node: Node, view: View) -> bool:
        for index, output in enumerate(node.outputs):
            result = forward(node, index, view, self.ranges)
            if result is None or not self._readers_agree(output, result):
                return False
        return True

    # -- everything else, forwards ---------------------------------------------------------------

    def _place(self, graph: Graph) -> None:
        for node in graph:
            if node.op in ("Region", "Concat"):
                self._place_outputs(node)
            elif node.op == "If":
                self._place_outputs(node)
                for subgraph in node.subgraphs:
                    self._place(subgraph)
            elif node.op == "Loop":
                self._place_outputs(node)
                for value in node.body.inputs:
                    layout = Layout.row_major(value.rank)
                    self.map.put(value, self.placed.get(value) or whole(value, layout))
                    self._annotate(value)
                self._place(node.body)
            else:
                self._alias(node)

    def _place_outputs(self, node: Node) -> None:
        if node.op == "Concat":
            self.owner.count("concats")
        for output in node.outputs:
            self.map.put(output, self.placed.get(output) or whole(output, _layout(output)))
            self._annotate(output)
        for value in node.present_inputs if node.op == "Region" else ():
            if value.storage is None:
                raise GraphError(f"%{value.name} has no address", where=str(node))

    def _alias(self, node: Node) -> None:
        if not self.map.follow(node):
            raise GraphError(f"the result of {node.op} has no address", where=str(node))
        self.owner.count("splits" if node.op == "Split" else "views")
        for output in node.outputs:
            self._annotate(output)

    def _annotate(self, value: Value) -> None:
        view = self.map.get(value)
        storage = None if view is None else view.storage()
        value.storage = storage
        if view is None or storage is None:
            value.layout = None
            return
        if storage.root is value:
            value.storage = Storage(
                value, storage.offset, _layout(value).strides(value.known_shape)
            )
            return
        value.layout = Layout(
            order_of(storage.strides, value.known_shape, self.ranges), _readable(view, value)
        )


def _part(target: View, axis: int, start: Dim, extent: Dim) -> View:
    """Return a slice of a concat's place along its axis."""
    part = slice_axis(target, axis, start, extent, 1)
    if part is None:
        raise GraphError(f"%{target.root.name} cannot be cut along axis {axis}")
    return part


def _element(target: View, number: Dim) -> View:
    """Return the element of a loop's stacked output that one iteration gives."""
    part = take_element(target, 0, number)
    if part is None:
        raise GraphError(f"%{target.root.name} cannot be cut along its first axis")
    return part


def _same_memory(value: Value) -> list[Value]:
    """Return the body's name for a value that a loop carries, if `value` is a loop's output."""
    node = value.producer
    if node is None or node.op != "Loop":
        return []
    carried = zip(node.outputs, node.body.inputs[2:], strict=False)
    return [inner for output, inner in carried if output is value]


def _readable(view: View, value: Value) -> Halo:
    return view.halo if len(view.halo) == value.rank else no_halo(value.rank)


def _has_storage(value: Value) -> bool:
    return value.storage is not None


def _layout(value: Value) -> Layout:
    return value.layout or Layout.row_major(value.rank)


def _is_computed(value: Value) -> bool:
    """Whether a node that owns memory writes `value`, so that it is no view of another."""
    return value.producer is not None and value.producer.op in OWNERS


def _is_plain_row_major(value: Value) -> bool:
    """Whether a region's own output, if `value` is one, was laid out as the caller's array."""
    if value.producer is not None and value.producer.op not in OWNERS:
        return True  # a view; whether its region can write in place is decided later
    layout = _layout(value)
    shape = value.known_shape
    wide = [axis for axis in layout.order if shape[axis] != 1]
    return not layout.has_halo and wide == sorted(wide)


def _has_zero_stride(storage: Storage, value: Value) -> bool:
    pairs = zip(storage.strides, value.known_shape, strict=True)
    return any(stride == 0 and extent != 1 for stride, extent in pairs)
