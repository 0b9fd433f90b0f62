"""Leaves in a loop only what changes from one iteration to the next and is read.

- A Scan becomes a Loop that gathers its elements, the one form that other passes know.
- What the body returns as it got it is read from outside instead of being carried.
- What is carried, or stacked, for nobody is dropped; what is stacked twice is stacked once.
- What is stacked only for its last element, and carried anyway, is not stacked.
- What a body computes from values outside alone moves in front of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from planish.ir.graph import Graph, Node, Value
from planish.ir.rewrite import discard, replace_everywhere
from planish.ops.content import contents
from planish.ops.op import OPS
from planish.passes.building import emit, integers
from planish.passes.dead_code import DeadCode
from planish.passes.graph_pass import GraphPass
from planish.passes.inline_if import own_outputs
from planish.passes.native_loops import is_counted, is_native_loop, scan_to_loop


class TidyLoops(GraphPass):
    """Makes the loops of a graph carry little; see the module."""

    name = "tidy_loops"

    def run(self, graph: Graph) -> bool:
        """Go over the loops of one graph."""
        modified = False
        for node in list(graph):
            if node.op == "Scan" and _is_typed(node):
                node = scan_to_loop(node, graph)
                modified = True
            if node.op != "Loop" or is_native_loop(node):
                continue
            modified |= own_outputs(node.body)
            modified |= self._read_last(node, graph)
            # each of the first two puts another node in the place of this one
            modified |= (
                self._drop_unchanged(node, graph)
                or self._drop_unread(node, graph)
                or self._move_out(node, graph)
            )
        return modified

    def _drop_unchanged(self, node: Node, graph: Graph) -> bool:
        body = node.body
        kept = []
        for place, value in enumerate(body.inputs[2:]):
            initial = node.inputs[2 + place]
            if initial is None or _source(body.outputs[1 + place]) is not value:
                kept.append(place)
                continue
            body.replace_value(value, initial)
            own_outputs(body)
            replace_everywhere(body, value, initial)
            _replace_result(graph, node.outputs[place], initial, node)
            self.count("loop invariants")
        if len(kept) == len(body.inputs) - 2:
            return False
        _keep(node, graph, kept, list(range(len(body.inputs) - 2, len(node.outputs))))
        return True

    def _drop_unread(self, node: Node, graph: Graph) -> bool:
        """Drop carried and stacked values that nothing needs, and stack equal values once."""
        body, states = node.body, len(node.body.inputs) - 2
        stacked: dict[Value, int] = {}
        kept_stacks = []
        for place in range(states, len(node.outputs)):
            output, value = node.outputs[place], _source(body.outputs[1 + place])
            if not _is_read(output, graph):
                continue
            if value in stacked:
                _replace_result(graph, output, node.outputs[stacked[value]], node)
                continue
            stacked[value] = place
            kept_stacks.append(place)
        live = self._live_states(node, graph, kept_stacks)
        if len(live) + len(kept_stacks) == len(node.outputs):
            return False
        self.count("unread loop values", len(node.outputs) - len(live) - len(kept_stacks))
        _keep(node, graph, live, kept_stacks)
        return True

    def _read_last(self, node: Node, graph: Graph) -> bool:
        """Let readers of the last element of a stack read the same value as it is carried out."""
        states = len(node.body.inputs) - 2
        if not _runs(node):
            return False
        results = node.body.outputs[1:]
        carried = {_source(value): place for place, value in enumerate(results[:states])}
        modified = False
        for place in range(states, len(node.outputs)):
            state = carried.get(_source(results[place]))
            if state is None:
                continue
            for reader in node.outputs[place].users:
                if reader.graph is graph and _is_last(reader, node.outputs[place]):
                    _read_state(reader, node.outputs[state], graph)
                    self.count("last elements of stacks")
                    modified = True
        return modified

    def _live_states(self, node: Node, graph: Graph, stacks: Sequence[int]) -> list[int]:
        body, states = node.body, len(node.body.inputs) - 2
        live = {place for place in range(states) if _is_read(node.outputs[place], graph)}
        while True:
            wanted = [body.outputs[0], *(body.outputs[1 + place] for place in (*live, *stacks))]
            needed = _needed(body, wanted)
            found = live | {p for p in range(states) if body.inputs[2 + p] in needed}
            if found == live:
                return sorted(live)
            live = found

    def _move_out(self, node: Node, graph: Graph) -> bool:
        """Move nodes in front of the loop whose operands all lie outside."""
        body = node.body
        inside = set(body.inputs)
        moved = 0
        for inner in list(body):
            fixed = not any(value in inside for value in inner.present_inputs)
            variable = any(not value.is_constant for value in inner.present_inputs)
            returned = any(body.is_output(output) for output in inner.outputs)
            pure = OPS[inner.op].pure and not inner.subgraphs
            if not (fixed and variable and pure) or returned or not _runs(node):
                inside.update(inner.outputs)
                continue
            for output in inner.outputs:
                output.name = graph.fresh_name(output.name)
            body.detach(inner)
            graph.insert_before(node, inner)
            moved += 1
        if moved:
            self.count("loop-invariant nodes", moved)
        return moved > 0


def _is_typed(node: Node) -> bool:
    return all(value is not None and value.shape is not None for value in node.inputs)


def _runs(node: Node) -> bool:
    """Whether a loop runs at least once, so that what moves out of it is not computed in vain."""
    count = contents(node.input(0))
    known = count is not None and (not isinstance(count[0], int) or count[0] > 0)
    return known and is_counted(node)


def _source(value: Value) -> Value:
    while value.producer is not None and value.producer.op == "Identity":
        (value,) = value.producer.present_inputs
    return value


def _is_read(value: Value, graph: Graph) -> bool:
    return bool(value.uses) or graph.is_output(value)


def _is_last(reader: Node, stack: Value) -> bool:
    """Whether a node takes only the last element along the first axis."""
    if reader.inputs[0] is not stack or stack.shape is None:
        return False
    count = stack.known_shape[0]
    if reader.op == "Gather":
        index = contents(reader.input(1))
        first = int(reader.attributes["axis"]) % stack.rank == 0
        return first and index is not None and len(index) == 1 and index[0] in (-1, count - 1)
    if reader.op != "Slice" or contents(reader.input(3)) != (0,):
        return False
    starts, steps = contents(reader.input(1)), contents(reader.input(4))
    last = starts is not None and starts[0] in (-1, count - 1)
    return last and reader.output.known_shape[0] == 1 and steps in (None, (1,))


def _read_state(reader: Node, state: Value, graph: Graph) -> None:
    """Let the readers of the last element read the carried value."""
    value = state
    if reader.output.known_shape != state.known_shape:
        value = emit(graph, reader, "Unsqueeze", [state, integers(graph, 0)])
    elif graph.is_output(reader.output):
        value = emit(graph, reader, "Identity", [state])
    replace_everywhere(graph, reader.output, value)
    graph.remove(reader)


def _needed(body: Graph, wanted: Sequence[Value]) -> set[Value]:
    """Return the values of `body` that `wanted` depend on."""
    needed = set(wanted)
    for node in reversed(body):
        if needed.intersection(node.outputs) or not OPS[node.op].pure:
            needed.update(_reads(node))
    return needed


def _reads(node: Node) -> list[Value]:
    values = list(node.present_inputs)
    for subgraph in node.subgraphs:
        values += subgraph.outputs
        for inner in subgraph:
            values += _reads(inner)
    return values


def _replace_result(graph: Graph, old: Value, new: Value, node: Node) -> None:
    """Let the readers of a loop's output read `new`."""
    if graph.is_output(old):
        copy = Value(graph.fresh_name(old.name), old.dtype, new.shape)
        graph.insert_after(node, Node("Identity", [new], [copy], {}, node.source))
        new = copy
    replace_everywhere(graph, old, new)


def _keep(node: Node, graph: Graph, states: Sequence[int], stacks: Sequence[int]) -> None:
    """Put a Loop in the place of `node` that carries and stacks only the given outputs."""
    if not states and not stacks:
        discard(node, graph)
        return
    body = node.attributes.pop("body")
    places = [*states, *stacks]
    body.inputs = [*body.inputs[:2], *(body.inputs[2 + place] for place in states)]
    body.input_names = [f"input_{index}" for index in range(len(body.inputs))]
    body.outputs = [body.outputs[0], *(body.outputs[1 + place] for place in places)]
    body.output_names = [f"output_{index}" for index in range(len(body.outputs))]
    DeadCode().run(body)  # what read inputs that are gone
    kept = [node.outputs[place] for place in places]
    outputs = [Value(graph.fresh_name(old.name), old.dtype, old.shape) for old in kept]
    inputs = [*node.inputs[:2], *(node.inputs[2 + place] for place in states)]
    while len(inputs) < 2:
        inputs.append(None)
    loop = Node("Loop", inputs, outputs, {**node.attributes, "body": body}, node.source)
    graph.insert_before(node, loop)
    for old, new in zip(kept, outputs, strict=True):
        replace_everywhere(graph, old, new)
    graph.remove(node)
