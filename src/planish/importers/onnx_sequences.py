"""Sequences of tensors in ONNX models become tensors before anything else sees them.

A sequence is known at import as a list of tensors, or as one tensor whose first axis counts the
elements (`SplitToSequence`, and a Loop that appends one element an iteration, which is how
TorchScript writes a list). What reads it (SequenceAt, ConcatFromSequence, SequenceLength) becomes
ordinary operators. Sequences that are neither stay, and are reported as unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_attribute, make_node

from planish.importers.onnx_file import OnnxModel

PREFIX = "planish_sequence"
OPERATORS = frozenset(
    {
        "ConcatFromSequence",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    }
)


@dataclass(frozen=True)
class _Listed:
    """A sequence whose elements are known by name."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class _Stacked:
    """A sequence whose elements lie along the first axis of a tensor."""

    tensor: str


_Known = _Listed | _Stacked


def has_sequences(graph: onnx.GraphProto) -> bool:
    """Whether a node of `graph`, or of a graph inside it, makes or reads a sequence."""
    return any(
        node.op_type in OPERATORS or any(map(has_sequences, _subgraphs(node)))
        for node in graph.node
    )


def without_sequences(model: OnnxModel) -> OnnxModel:
    """Return the model with its sequences replaced, itself where it has none."""
    if not has_sequences(model.proto.graph):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    _Rewriter().rewrite(copy.graph, {}, {})
    return replace(model, proto=copy)


@dataclass
class _Rewriter:
    """One rewriting; `count` numbers the names that it makes."""

    count: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def rewrite(
        self, graph: onnx.GraphProto, outer: dict[str, _Known], constants: dict[str, np.ndarray]
    ) -> None:
        """Rewrite the nodes of `graph` in order."""
        known, numbers = dict(outer), dict(constants)
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) <= 1:
                numbers[tensor.name] = numpy_helper.to_array(tensor)
        kept, self.nodes = self.nodes, []
        for node in graph.node:
            if not self._replace(node, known, numbers):
                self.nodes.append(node)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                numbers[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        made, self.nodes = self.nodes, kept
        del graph.node[:]
        graph.node.extend(made)

    def _replace(
        self, node: onnx.NodeProto, known: dict[str, _Known], numbers: dict[str, np.ndarray]
    ) -> bool:
        """Replace a node that has to do with sequences; return whether it is gone."""
        found = known.get(node.input[0]) if node.input else None
        match node.op_type:
            case "SequenceEmpty":
                known[node.output[0]] = _Listed(())
            case "SequenceConstruct":
                known[node.output[0]] = _Listed(tuple(node.input))
            case "SplitToSequence":
                return self._split(node, known)
            case "Identity" if found is not None:
                known[node.output[0]] = found
            case "SequenceInsert" | "SequenceErase" if isinstance(found, _Listed):
                return self._change(node, found, known, numbers)
            case "SequenceAt" if found is not None:
                return self._at(node, found, numbers)
            case "SequenceLength" if found is not None:
                self._length(node, found)
            case "ConcatFromSequence" if found is not None:
                return self._concat(node, found)
            case "Loop":
                self._loop(node, known, numbers)
                return False
            case _:
                for subgraph in _subgraphs(node):
                    self.rewrite(subgraph, known, numbers)
                return False
        return True

    # -- operators ------------------------------------------------------------------------------

    def _change(
        self,
        node: onnx.NodeProto,
        found: _Listed,
        known: dict[str, _Known],
        numbers: dict[str, np.ndarray],
    ) -> bool:
        position = 1 if node.op_type == "SequenceErase" else 2
        place = _number(node, position, numbers)
        given = len(node.input) > position and node.input[position] != ""
        if given and place is None:
            return False
        names = list(found.names)
        if node.op_type == "SequenceErase":
            del names[-1 if place is None else place]
        else:
            names.insert(len(names) if place is None else place, node.input[1])
        known[node.output[0]] = _Listed(tuple(names))
        return True

    def _at(self, node: onnx.NodeProto, found: _Known, numbers: dict[str, np.ndarray]) -> bool:
        if isinstance(found, _Stacked):
            self._emit("Gather", [found.tensor, node.input[1]], node, axis=0)
            return True
        place = _number(node, 1, numbers)
        if place is None or not -len(found.names) <= place < len(found.names):
            return False
        self._emit("Identity", [found.names[place]], node)
        return True

    def _length(self, node: onnx.NodeProto, found: _Known) -> None:
        if isinstance(found, _Listed):
            self._emit("Identity", [self._constant(len(found.names))], node)
            return
        shape = self._made("Shape", [found.tensor])
        self._emit("Gather", [shape, self._constant(0)], node, axis=0)

    def _concat(self, node: onnx.NodeProto, found: _Known) -> bool:
        attributes = {each.name: each.i for each in node.attribute}
        axis, new = attributes["axis"], attributes.get("new_axis", 0)
        if isinstance(found, _Listed):
            names = list(found.names)
            if new:
                where = self._constant([axis])
                names = [self._made("Unsqueeze", [name, where]) for name in names]
            if not names:
                return False
            self._emit("Concat", names, node, axis=axis)
            return True
        if axis != 0:
            return False
        if new:
            self._emit("Identity", [found.tensor], node)
            return True
        shape = self._made("Shape", [found.tensor])
        ends = [self._constant([number]) for number in (2, 1 << 62)]
        rest = self._made("Slice", [shape, *ends])
        merged = self._made("Concat", [self._constant([-1]), rest], axis=0)
        self._emit("Reshape", [found.tensor, merged], node)
        return True

    def _split(self, node: onnx.NodeProto, known: dict[str, _Known]) -> bool:
        attributes = {each.name: each.i for each in node.attribute}
        if len(node.input) > 1 or attributes.get("axis", 0) != 0:
            return False
        tensor = node.input[0]
        if attributes.get("keepdims", 1):
            tensor = self._made("Unsqueeze", [tensor, self._constant([1])])
        known[node.output[0]] = _Stacked(tensor)
        return True

    # -- loops ----------------------------------------------------------------------------------

    def _loop(
        self, node: onnx.NodeProto, known: dict[str, _Known], numbers: dict[str, np.ndarray]
    ) -> None:
        """Turn sequences that a loop only appends to into stacked outputs."""
        (body,) = _subgraphs(node)
        for place in reversed(range(2, len(node.input))):
            initial = known.get(node.input[place])
            element = None if initial is None else _appended(body, place)
            if initial != _Listed(()) or element is None:
                continue
            stacked, copy = self._name(), self._name()
            known[node.output[place - 2]] = _Stacked(stacked)
            _drop_carried(node, body, place)
            body.node.append(make_node("Identity", [element], [copy]))
            body.output.append(onnx.ValueInfoProto(name=copy))
            node.output.append(stacked)
        self.rewrite(body, known, numbers)

    # -- emitting -------------------------------------------------------------------------------

    def _name(self) -> str:
        self.count += 1
        return f"{PREFIX}_{self.count}"

    def _made(self, op: str, inputs: Sequence[str], **attributes: int) -> str:
        """Add a node and return the name of its result."""
        name = self._name()
        self.nodes.append(_node(op, inputs, [name], attributes))
        return name

    def _emit(
        self, op: str, inputs: Sequence[str], instead: onnx.NodeProto, **attributes: int
    ) -> None:
        """Add a node in the place of another, whose result it makes."""
        made = _node(op, inputs, instead.output, attributes)
        made.name = instead.name
        self.nodes.append(made)

    def _constant(self, numbers: int | Sequence[int]) -> str:
        name = self._name()
        tensor = numpy_helper.from_array(np.array(numbers, np.int64), name)
        self.nodes.append(make_node("Constant", [], [name], value=tensor))
        return name


def _node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int]
) -> onnx.NodeProto:
    node = make_node(op, list(inputs), list(outputs))
    node.attribute.extend(make_attribute(name, value) for name, value in attributes.items())
    return node


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [each.g for each in node.attribute if each.type == onnx.AttributeProto.GRAPH]


def _number(node: onnx.NodeProto, position: int, numbers: dict[str, np.ndarray]) -> int | None:
    """Return the constant in one of a node's inputs, None where it is none."""
    if len(node.input) <= position or node.input[position] not in numbers:
        return None
    array = numbers[node.input[position]]
    return int(array.reshape(-1)[0]) if array.size == 1 else None


def _appended(body: onnx.GraphProto, place: int) -> str | None:
    """Return what a loop's body appends to the sequence it takes as input `place`, if that is all.

    Input k of a body is carried to output k - 1.
    """
    given, result = body.input[place].name, body.output[place - 1].name
    writers = {name: node for node in body.node for name in node.output}
    while (node := writers.get(result)) is not None and node.op_type == "Identity":
        result = node.input[0]
    if node is None or node.op_type != "SequenceInsert" or len(node.input) > 2:
        return None
    readers = [each for each in body.node if given in each.input or _reads_inside(each, given)]
    return node.input[1] if node.input[0] == given and readers == [node] else None


def _reads_inside(node: onnx.NodeProto, name: str) -> bool:
    return any(
        name in each.input or _reads_inside(each, name)
        for graph in _subgraphs(node)
        for each in graph.node
    )


def _drop_carried(node: onnx.NodeProto, body: onnx.GraphProto, place: int) -> None:
    """Take a carried value out of a Loop and out of its body."""
    name = body.output[place - 1].name
    while (
        writer := next((each for each in body.node if name in each.output), None)
    ) is not None and writer.op_type in ("Identity", "SequenceInsert"):
        body.node.remove(writer)
        name = writer.input[0]
    del body.input[place]
    del body.output[place - 1]
    del node.input[place]
    del node.output[place - 2]
