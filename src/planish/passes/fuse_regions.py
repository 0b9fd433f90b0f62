"""Vertical fusion: anchors with their pointwise neighbours, and groups of pointwise nodes.

A region is placed as a whole at one position of the execution order, so it must be *convex*: no
path may leave it and come back. Both ways of growing keep that by construction, in linear time:

- An anchor's region stands where the anchor stands. A pointwise node behind it joins only if all
  its other operands are computed at earlier positions, so nothing can depend on the region and
  feed it. (Of two anchors whose results are added, the later one therefore takes the addition.)
- A prologue or a pointwise region stands where its last node stands. A node joins only if all
  readers of its result are in the region, so moving it down disturbs nobody.

A region has one output: a second reader of an intermediate result keeps what is behind it out.
All results inside a region have the shape of its output; smaller operands are broadcast. Views,
concats and control flow stay outside (the storage pass makes most views disappear).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from planish.ir.dtypes import F8E5M2, I4, STRING, U4
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Shape
from planish.ir.source import merge_sources
from planish.ops.op import OPS
from planish.passes.compressed import is_compressed_product
from planish.passes.gates import gate_of
from planish.passes.graph_pass import GraphPass
from planish.passes.images import image_cast
from planish.passes.quantized import is_quantized_product, widening_of

VIEWS = frozenset(
    {
        "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity", "Slice", "Split",
        "Concat", "Expand", "planish.Element",
    }
)  # fmt: skip
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
REDUCTIONS = frozenset(
    {
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    }
)  # fmt: skip
# anchors whose kernels write their result element by element through the epilogue
EPILOGUE = REDUCTIONS | {
    "AveragePool", "Conv", "ConvTranspose", "MatMul", "MaxPool",
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    "Softmax", "LogSoftmax", "Resize", "Gather", "Pad",
}  # fmt: skip
# anchors whose kernels read their first operand element by element through the prologue
PROLOGUE = REDUCTIONS | {"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"}
# anchors whose kernels can dequantize their first operand, element by element, again for each tap
DEQUANTIZING = ("AveragePool",)
UNUSUAL = (STRING, F8E5M2, I4, U4)  # elements that no generated code computes with
QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
LIMIT = 40  # nodes in a region
VIEW_CHAIN = 8  # views in a row that are looked through
MANY_READERS = 16  # an anchor's result with more readers than this gets no epilogue


@dataclass(eq=False)
class _Group:
    """Nodes that become a region; `place` is the position where it stands."""

    kind: str
    place: int
    anchor: Node
    members: list[Node] = field(default_factory=list)


class FuseRegions(GraphPass):
    """Turns every computing node of a graph into a member of a Region node.

    Parameters
    ----------
    prints : callable, optional
        Whether the device has code for a pointwise node. One that it has no code for stands alone,
        so that it does not take a whole region to the numpy reference with it.
    gates : bool
        Whether the device's convolutions multiply their data by a gate, and lower images.
    """

    name = "fuse_regions"

    def __init__(
        self, prints: Callable[[Node], bool] = lambda node: True, gates: bool = False
    ) -> None:
        super().__init__()
        self.prints, self.gates = prints, gates

    def run(self, graph: Graph) -> bool:
        """Group the nodes, then build the regions."""
        grouping = _Grouping(graph, self.prints, self.gates)
        groups = grouping.groups()
        for group in groups:
            _build(graph, group, grouping)
            fused = len(group.members) - 1
            self.count(f"{group.kind} regions")
            if fused:
                self.count(f"operations fused into {group.kind}", fused)
        return bool(groups)


def fused_results(graph: Graph, prints: Callable[[Node], bool] = lambda node: True) -> list[Value]:
    """Return the values of `graph` that its regions would store, if it were fused as it stands."""
    grouping = _Grouping(graph, prints)
    found: list[Value] = []
    for group in grouping.groups():
        inside = set(group.members)
        values = [output for node in group.members for output in node.outputs]
        found += [value for value in values if grouping.escapes(value, inside)]
    return found


def integer_regions(
    graph: Graph, prints: Callable[[Node], bool] = lambda node: True
) -> tuple[set[Node], list[Value]]:
    """Return the nodes that quantized products would be fused with, and what they would store."""
    grouping = _Grouping(graph, prints)
    nodes: set[Node] = set()
    results: list[Value] = []
    for group in grouping.groups():
        if not is_quantized_product(group.anchor):
            continue
        nodes.update(group.members)
        values = [output for node in group.members for output in node.outputs]
        results += [value for value in values if grouping.escapes(value, group.members)]
    return nodes, results


class _Grouping:
    """Decides which node goes into which region of one graph."""

    def __init__(self, graph: Graph, prints: Callable[[Node], bool], gates: bool = False) -> None:
        self._graph = graph
        self._prints, self._gates = prints, gates
        self.order = {node: index for index, node in enumerate(graph)}
        self.outputs = set(graph.outputs)
        self._group: dict[Node, _Group] = {}

    def _may_join(self, node: Node) -> bool:
        return is_pointwise(node) and self._prints(node)

    def groups(self) -> list[_Group]:
        """Return the regions in the order of their places."""
        nodes = [node for node in self.order if _computes(node)]
        for node in nodes:
            if not self._may_join(node):
                self._start(node, node.op)
        anchored = list(dict.fromkeys(self._group.values()))
        for group in anchored:
            if is_quantized_product(group.anchor):
                self._absorb(group, group.anchor.inputs[:2])
                if self._gates:
                    self._gate(group)
            elif is_compressed_product(group.anchor):
                self._decode(group, group.anchor.inputs[1])
            elif group.kind in DEQUANTIZING:
                self._absorb(group, group.anchor.inputs[:1])
            elif group.kind == "Conv" and self._gates:
                self._gate(group)
        for group in anchored:
            if group.kind in EPILOGUE:
                self._grow_down(group)
        for group in anchored:
            if group.kind in PROLOGUE:
                self._grow_up(group, group.anchor.inputs[:1])
        for node in reversed(nodes):
            if node not in self._group:
                group = self._start(node, "pointwise")
                self._grow_up(group, node.inputs)
        return sorted(dict.fromkeys(self._group.values()), key=lambda group: group.place)

    def _start(self, node: Node, kind: str) -> _Group:
        group = _Group(kind, self.order[node], node, [node])
        self._group[node] = group
        return group

    def _grow_down(self, group: _Group) -> None:
        """Add the epilogue: the longest run of joins that leaves one output."""
        read = [output for output in group.anchor.outputs if self.escapes(output, ())]
        if len(read) != 1 or len(read[0].uses) > MANY_READERS:
            return
        members = [group.anchor]
        best = 1
        while len(members) < LIMIT:
            candidate = self._next_epilogue(members, group.place, read[0])
            if candidate is None:
                break
            members.append(candidate)
            if self._live_outputs(members) == 1 and not self._is_readers_own(candidate):
                best = len(members)
        for node in members[1:best]:
            group.members.append(node)
            self._group[node] = group
            self._absorb(group, node.inputs, node.output.shape)

    def _absorb(
        self, group: _Group, operands: Iterable[Value | None], shape: Shape | None = None
    ) -> None:
        """Add what widens each operand (of a given shape) if only `group` reads it."""
        for value in operands:
            node = widening_of(value)
            if node is None or value is None or not self._is_private(node):
                continue
            if shape is not None and value.shape != shape:
                continue
            group.members.append(node)
            self._group[node] = group

    def _decode(self, group: _Group, weights: Value | None) -> None:
        """Let `group` decode its weights itself, if nobody else reads them as floats."""
        node = None if weights is None else weights.producer
        if node is None or node.graph is not self._graph or len(node.output.users) != 1:
            return
        group.members.append(node)
        self._group[node] = group

    def _gate(self, group: _Group) -> None:
        """Let a convolution do what is before it, a gate or rounding, if nobody else reads it."""
        gate = gate_of(group.anchor)
        node = image_cast(group.anchor) if gate is None else gate[0]
        if node is not None and self._is_private(node):
            group.members.append(node)
            self._group[node] = group

    def _is_readers_own(self, node: Node) -> bool:
        """Whether `node` widens a stored tensor, which its reader's region will do.

        Then the tensor between the two regions is the narrow one.
        """
        if widening_of(node.outputs[0]) is None or not self._is_private(node):
            return False
        reader, index = next(iter(node.output.uses))
        if reader.graph is not self._graph:
            return False
        return takes_narrow(reader, index)

    def _is_private(self, node: Node) -> bool:
        """Whether `node` may go where its only reader is."""
        if node.graph is not self._graph or node in self._group or not self._may_join(node):
            return False
        return len(node.output.users) == 1 and node.output not in self.outputs

    def _next_epilogue(self, members: Sequence[Node], place: int, result: Value) -> Node | None:
        """Return the first pointwise reader of the region's values that may join it."""
        values = [result, *(node.output for node in members[1:])]
        inside = set(values)
        readers = {
            user
            for value in values
            for user, _ in value.uses
            if user.graph is self._graph and user not in members
        }
        for node in sorted(readers, key=self.order.__getitem__):
            if node in self._group or not self._may_join(node):
                continue
            if node.output.shape is None or node.output.shape != result.shape:
                continue
            operands = [v for v in node.present_inputs if v not in inside]
            if all(self._place(self._source(v, result)) < place for v in operands):
                return node
        return None

    def _grow_up(self, group: _Group, operands: Iterable[Value | None]) -> None:
        """Add pointwise producers whose results only the region reads."""
        pending = [value for value in operands if value is not None]
        shape = pending[0].shape if group.kind in PROLOGUE else group.anchor.output.shape
        while pending and len(group.members) < LIMIT:
            value = pending.pop(0)
            node = value.producer
            if node is None or node.graph is not self._graph or node in self._group:
                continue
            if not self._may_join(node) or value.shape is None or value.shape != shape:
                continue
            if self.escapes(value, group.members):
                continue
            group.members.append(node)
            self._group[node] = group
            pending += node.present_inputs

    def _live_outputs(self, members: Sequence[Node]) -> int:
        values = [output for node in members for output in node.outputs]
        return sum(self.escapes(value, members) for value in values)

    def escapes(self, value: Value, members: Collection[Node]) -> bool:
        """Whether `value` is an output or is read by a node that is not in `members`."""
        return value in self.outputs or any(user not in members for user, _ in value.uses)

    def _place(self, value: Value) -> int:
        """Return the position from which on `value` can be read (-1 for inputs and constants).

        A view is as early as what it views: it moves up with the region that reads it.
        """
        node = value.producer
        for _ in range(VIEW_CHAIN):
            if node is None or node.graph is not self._graph or not _is_free(node):
                break
            # the other operands of a free view are constants
            viewed = node.inputs[0]
            node = None if viewed is None else viewed.producer
        if node is None or node.graph is not self._graph:
            return -1
        group = self._group.get(node)
        return self.order[node] if group is None else group.place

    def _source(self, value: Value, result: Value) -> Value:
        """Return what `value` is widened from, where the region would do that itself."""
        node = widening_of(value)
        if node is None or value.shape != result.shape or not self._is_private(node):
            return value
        is_known = all(parameter.is_constant for parameter in node.present_inputs[1:])
        return node.present_inputs[0] if is_known else value


def takes_narrow(node: Node, index: int) -> bool:
    """Whether the region of `node` widens operand `index` itself where it is stored narrow."""
    if is_pointwise(node):
        value = node.inputs[index]
        return value is not None and value.shape == node.output.shape
    if is_quantized_product(node):
        return index < 2
    return index == 0 and (node.op in PROLOGUE or node.op in DEQUANTIZING)


def is_pointwise(node: Node) -> bool:
    """Whether `node` may stand in a prologue, an epilogue or a pointwise region."""
    if not OPS[node.op].pointwise or len(node.outputs) != 1 or node.op in VIEWS:
        return False
    if any(value.dtype in UNUSUAL for value in (*node.present_inputs, *node.outputs)):
        return False
    return node.op not in QUANTIZATION or _is_plain_quantization(node)


def _is_plain_quantization(node: Node) -> bool:
    """Whether scale and zero point are one number, or constants along one axis."""
    if node.attributes.get("block_size"):
        return False
    parameters = [value for value in node.inputs[1:] if value is not None]
    return all(value.is_constant or value.shape in ((), (1,)) for value in parameters)


def _is_free(node: Node) -> bool:
    """Whether `node` is a view of its first operand by constants."""
    return (
        node.op in VIEWS
        and node.op != "Concat"
        and all(v.is_constant for v in node.present_inputs[1:])
    )


def _computes(node: Node) -> bool:
    if node.op == "Region" or node.op in VIEWS or node.op in CONTROL_FLOW:
        return False
    # without a rank there are no strides: such a node is run as a whole, by the reference
    return all(value.shape is not None for value in (*node.present_inputs, *node.outputs))


def _build(graph: Graph, group: _Group, grouping: _Grouping) -> None:
    """Replace the members of `group` by one Region node at its place."""
    members = sorted(group.members, key=grouping.order.__getitem__)
    inside = set(members)
    body = Graph(group.kind.lower())
    mapping: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in members:
        for value in node.present_inputs:
            if value in mapping or (value.producer is not None and value.producer in inside):
                continue
            mapping[value] = _operand(body, value, operands)
        _copy(body, node, mapping)
    results = [
        output
        for node in members
        for output in node.outputs
        if output in grouping.outputs or any(user not in inside for user, _ in output.uses)
    ]
    for value in results:
        body.add_output(mapping[value])
    outputs = [_like(value) for value in results]
    source = merge_sources(node.source for node in members)
    region = Node("Region", operands, outputs, {"kind": group.kind, "body": body}, source)
    graph.insert_before(group.anchor, region)
    for value in operands:
        _raise_views(graph, value, region, group.place, grouping.order)
    for old, new in zip(results, outputs, strict=True):
        graph.replace_value(old, new)
        if old in grouping.outputs:
            grouping.outputs.add(new)
    for node in reversed(members):
        graph.remove(node)


def _raise_views(
    graph: Graph, value: Value, region: Node, place: int, order: dict[Node, int]
) -> None:
    """Move the views that lead to an operand in front of `region` if they stand behind it."""
    behind: list[Node] = []
    node = value.producer
    while node is not None and node.graph is graph and node.op in VIEWS and _is_free(node):
        if order[node] > place:
            behind.append(node)
        viewed = node.inputs[0]
        node = None if viewed is None else viewed.producer
    for view in reversed(behind):
        graph.move_before(region, view)
        order[view] = place


def _operand(body: Graph, value: Value, operands: list[Value]) -> Value:
    """Return the body's own value for something that the region reads."""
    if value.constant is not None:
        inner = Value(value.name, value.dtype, value.shape)
        inner.constant = value.constant
    else:
        inner = body.add_input(value.name, value.dtype, value.shape)
        operands.append(value)
    inner.content = value.content
    return inner


def _copy(body: Graph, node: Node, mapping: dict[Value, Value]) -> None:
    inputs = [None if value is None else mapping[value] for value in node.inputs]
    outputs = [_like(value) for value in node.outputs]
    mapping.update(zip(node.outputs, outputs, strict=True))
    body.append(Node(node.op, inputs, outputs, node.attributes, node.source))


def _like(value: Value) -> Value:
    copy = Value(value.name, value.dtype, value.shape)
    copy.content = value.content
    return copy
