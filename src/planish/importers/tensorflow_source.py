"""GraphDefs and FunctionDefs in one form: nodes by name, references as (node, output number)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planish.errors import ModelError
from planish.importers.tensorflow_graph import TfFunction, TfInput, TfShape
from planish.importers.tensorflow_types import attribute_of, element_type, shape_of

Port = tuple[str, int]  # a node's name and the number of one of its outputs

# Results of operations with several, by name, for models that carry no operation definitions.
_RESULTS = {
    "FusedBatchNorm": ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"),
    "FusedBatchNormV2": ("y", "batch_mean", "batch_variance", "reserve_space_1", "reserve_space_2"),
    "FusedBatchNormV3": ("y", "batch_mean", "batch_variance", "reserve_space_1",
                         "reserve_space_2", "reserve_space_3"),
    "BlockLSTM": ("i", "cs", "f", "o", "ci", "co", "h"),
    "BlockLSTMV2": ("i", "cs", "f", "o", "ci", "co", "h"),
    "CombinedNonMaxSuppression": ("nmsed_boxes", "nmsed_scores", "nmsed_classes",
                                  "valid_detections"),
    "CudnnRNNV3": ("output", "output_h", "output_c", "reserve_space", "host_reserved"),
    "GRUBlockCell": ("r", "u", "c", "h"),
    "ListDiff": ("out", "idx"),
    "LSTMBlockCell": ("i", "cs", "f", "o", "ci", "co", "h"),
    "MaxPoolWithArgmax": ("output", "argmax"),
    "Merge": ("output", "value_index"),
    "NonMaxSuppressionV4": ("selected_indices", "valid_outputs"),
    "NonMaxSuppressionV5": ("selected_indices", "selected_scores", "valid_outputs"),
    "QuantizeV2": ("output", "output_min", "output_max"),
    "Switch": ("output_false", "output_true"),
    "TensorArrayV3": ("handle", "flow"),
    "TensorListConcatV2": ("tensor", "lengths"),
    "TensorListPopBack": ("output_handle", "tensor"),
    "TopK": ("values", "indices"),
    "TopKV2": ("values", "indices"),
    "Unique": ("y", "idx"),
    "UniqueV2": ("y", "idx"),
    "UniqueWithCounts": ("y", "idx", "count"),
}  # fmt: skip
_HIDDEN = "_"  # attributes that begin so are TensorFlow's own notes


@dataclass(frozen=True)
class Bound:
    """An attribute whose value the call of the function gives, by its name there."""

    name: str


@dataclass(frozen=True, eq=False)
class SourceNode:
    """A node as the model has it; attributes are decoded, `Bound` where a call gives them."""

    name: str
    op: str
    inputs: tuple[Port, ...] = ()
    control: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""


@dataclass(frozen=True, eq=False)
class SourceBody:
    """A graph with arguments: a signature's part of the main graph, or a function.

    Attributes
    ----------
    name : str
    arguments : tuple of TfInput
        The port (argument's name, 0) stands for each.
    results : tuple of (str, Port)
    nodes : dict of str to SourceNode
        Those that results or effects need, in any order.
    effects : tuple of str
        Nodes that run although no result needs them.
    fed : dict of Port to str
        Outputs of nodes that are replaced by an argument.
    """

    name: str
    arguments: tuple[TfInput, ...]
    results: tuple[tuple[str, Port], ...]
    nodes: Mapping[str, SourceNode]
    effects: tuple[str, ...] = ()
    fed: Mapping[Port, str] = field(default_factory=dict)

    def ordered(self) -> list[SourceNode]:
        """Return the nodes so that operands come first; raise ModelError when there is a cycle."""
        wanted = [port[0] for _, port in self.results] + list(self.effects)
        order: list[SourceNode] = []
        state: dict[str, int] = {}  # 1: being visited, 2: done
        stack = [(name, False) for name in reversed(wanted)]
        while stack:
            name, finished = stack.pop()
            if finished:
                state[name] = 2
                order.append(self.nodes[name])
                continue
            if name not in self.nodes or state.get(name):
                continue
            state[name] = 1
            stack.append((name, True))
            for before in reversed(self._needed(self.nodes[name])):
                if state.get(before) == 1:
                    raise ModelError(
                        f"the nodes {before} and {name} depend on each other", where=self.name
                    )
                stack.append((before, False))
        return order

    def _needed(self, node: SourceNode) -> list[str]:
        ports = [port[0] for port in node.inputs if port not in self.fed]
        return [*ports, *node.control]


class SourceLibrary:
    """The main graph and the functions of a model.

    Parameters
    ----------
    graph : GraphDef
    op_defs : iterable of OpDef
        Definitions of the operations; empty for a GraphDef alone.
    label : str
        The file, for messages.
    """

    def __init__(self, graph: Any, op_defs: Iterable[Any], label: str) -> None:
        self.label = label
        self.protos = {node.name: node for node in graph.node}
        if len(self.protos) != len(graph.node):
            raise ModelError("two nodes of the graph have the same name", where=label)
        self._functions = {f.signature.name: f for f in graph.library.function}
        self._bodies: dict[str, SourceBody] = {}
        self._op_defs = {op.name: op for op in op_defs}
        self._defaults: dict[str, dict[str, Any]] = {}

    def has_function(self, name: str) -> bool:
        """Return whether there is a function of that name."""
        return name in self._functions or name in self._bodies

    def add(self, body: SourceBody) -> None:
        """Add a function."""
        self._bodies[body.name] = body

    def function(self, name: str) -> SourceBody:
        """Return a function; raise ModelError when the model has none of that name."""
        if name not in self._bodies:
            if name not in self._functions:
                raise ModelError(f"the function {name!r} is missing", where=self.label)
            self._bodies[name] = self._function_body(self._functions[name])
        return self._bodies[name]

    def main(
        self,
        arguments: Sequence[TfInput],
        results: Sequence[tuple[str, Port]],
        effects: Sequence[str] = (),
    ) -> SourceBody:
        """Return the part of the main graph that results and effects need.

        The tensors that the arguments' `source` names are taken from the arguments.
        """
        fed = {port_of(argument.source): argument.name for argument in arguments}
        nodes: dict[str, SourceNode] = {}
        todo = [port[0] for _, port in results if port not in fed] + list(effects)
        while todo:
            name = todo.pop()
            if name in nodes:
                continue
            if name not in self.protos:
                raise ModelError(f"the graph has no node {name!r}", where=self.label)
            node = self._node(self.protos[name], _main_port)
            nodes[name] = node
            todo += [port[0] for port in node.inputs if port not in fed]
            todo += node.control
        return SourceBody(self.label, tuple(arguments), tuple(results), nodes, tuple(effects), fed)

    # -- functions -------------------------------------------------------------------------------

    def _function_body(self, proto: Any) -> SourceBody:
        where = f"function {proto.signature.name} of {self.label}"
        arguments = []
        for position, argument in enumerate(proto.signature.input_arg):
            if argument.number_attr or argument.type_list_attr:
                raise ModelError(
                    f"the argument {argument.name!r} is a list of tensors", where=where
                )
            dtype = element_type(argument.type)
            shape = _argument_shape(proto, position)
            arguments.append(TfInput(argument.name, dtype, shape, argument.name))
        names = {argument.name for argument in arguments}
        protos = {node.name: node for node in proto.node_def}

        def port(text: str) -> Port:
            name, _, rest = text.partition(":")
            if name in names or name not in protos:
                return name, 0
            return name, self._result_number(protos[name], rest, where)

        nodes = {node.name: self._node(node, port) for node in proto.node_def}
        results = []
        for result in proto.signature.output_arg:
            if result.name not in proto.ret:
                raise ModelError(f"nothing returns the result {result.name!r}", where=where)
            results.append((result.name, port(proto.ret[result.name])))
        effects = tuple(name for _, name in sorted(proto.control_ret.items()) if name in nodes)
        body = SourceBody(proto.signature.name, tuple(arguments), tuple(results), nodes, effects)
        _check_references(body, where)
        return body

    def _result_number(self, proto: Any, text: str, where: str) -> int:
        """Return the number of the result that "name:position" means."""
        name, _, position = text.partition(":")
        number = int(position) if position.isdecimal() else 0
        if not name or name.isdecimal():  # "node:1", as in a main graph
            return int(name or 0)
        if proto.op in self._functions:
            outputs = [result.name for result in self._functions[proto.op].signature.output_arg]
            return outputs.index(name) if name in outputs else number
        definition = self._op_defs.get(proto.op)
        if definition is None:
            names = _RESULTS.get(proto.op, (name,))
            return number + (names.index(name) if name in names else 0)
        first = 0
        for result in definition.output_arg:
            if result.name == name:
                return first + number
            first += _result_count(result, proto)
        raise ModelError(f"{proto.op} has no result {name!r}", where=f"{proto.name} of {where}")

    # -- nodes -----------------------------------------------------------------------------------

    def _node(self, proto: Any, port: Any) -> SourceNode:
        where = f"node {proto.name} ({proto.op}) of {self.label}"
        attributes = dict(self._defaults_of(proto.op))
        for name in sorted(proto.attr):
            if not name.startswith(_HIDDEN):
                attributes[name] = self._attribute(proto.attr[name], where)
        inputs = tuple(port(text) for text in proto.input if not text.startswith("^"))
        control = tuple(text[1:] for text in proto.input if text.startswith("^"))
        return SourceNode(proto.name, proto.op, inputs, control, attributes, proto.device)

    def _attribute(self, proto: Any, where: str) -> Any:
        if proto.WhichOneof("kind") == "placeholder":
            return Bound(proto.placeholder)
        return attribute_of(proto, where, lambda value: self._function_value(value, where))

    def _function_value(self, proto: Any, where: str) -> TfFunction:
        attributes = {
            name: self._attribute(proto.attr[name], where)
            for name in sorted(proto.attr)
            if not name.startswith(_HIDDEN)
        }
        return TfFunction(proto.name, attributes)

    def _defaults_of(self, op: str) -> dict[str, Any]:
        if op not in self._defaults:
            definition = self._op_defs.get(op)
            where = f"definition of {op} in {self.label}"
            self._defaults[op] = {
                attr.name: self._attribute(attr.default_value, where)
                for attr in (definition.attr if definition else ())
                if attr.default_value.WhichOneof("kind") is not None
            }
        return self._defaults[op]


def port_of(text: str) -> Port:
    """Return the port that a tensor name of a main graph ("node:1", "node") means."""
    name, _, number = text.partition(":")
    return name, int(number) if number.isdecimal() else 0


def _main_port(text: str) -> Port:
    return port_of(text)


def _result_count(result: Any, proto: Any) -> int:
    if result.number_attr:
        return int(proto.attr[result.number_attr].i)
    if result.type_list_attr:
        return len(proto.attr[result.type_list_attr].list.type)
    return 1


def _argument_shape(proto: Any, position: int) -> TfShape:
    if position not in proto.arg_attr:
        return None
    attributes = proto.arg_attr[position].attr
    if "_output_shapes" not in attributes or not attributes["_output_shapes"].list.shape:
        return None
    return shape_of(attributes["_output_shapes"].list.shape[0])


def _check_references(body: SourceBody, where: str) -> None:
    known = {argument.name for argument in body.arguments} | set(body.nodes)
    for user, name in _references(body):
        if name not in known:
            raise ModelError(f"{user} refers to {name!r}, which is missing", where=where)


def _references(body: SourceBody) -> Iterator[tuple[str, str]]:
    for result, port in body.results:
        yield f"the result {result}", port[0]
    for node in body.nodes.values():
        for name in (*(port[0] for port in node.inputs), *node.control):
            yield f"node {node.name}", name
