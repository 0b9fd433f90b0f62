"""The ONNX importer: ModelProto to Graph at Planish's opset.

The default rule is the identity: an operator keeps its name, and its attributes are filled up with
the defaults that its `Op` class declares. Older opsets go through `onnx_legacy`; functions are
expanded; constants become constant values. Types are inferred node by node with Planish's own
`infer`; what the model says about intermediate values is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from planish.config import Profile
from planish.errors import ModelError, ShapeError
from planish.importers.onnx_attributes import (
    AttributeReader,
    check_against_schema,
    constant_array,
    schema_of,
)
from planish.importers.onnx_branches import refuse_branches, taken_branch
from planish.importers.onnx_file import OnnxModel, open_model
from planish.importers.onnx_functions import (
    MAX_CALL_DEPTH,
    FunctionTable,
    check_call,
    function_opsets,
    graph_name,
    version_of,
)
from planish.importers.onnx_inputs import SymbolTable, input_type
from planish.importers.onnx_legacy import upgraded
from planish.importers.onnx_node import Emitter, OnnxNode
from planish.importers.onnx_order import names_read, node_name, ordered_nodes
from planish.importers.onnx_sequences import without_sequences
from planish.importers.onnx_tensor import element_type, has_nan
from planish.importers.profiles import apply_profiles, default_ranges
from planish.ir.dtypes import F32
from planish.ir.graph import OPSET, Graph, Value
from planish.ir.rewrite import discard
from planish.ir.shape import Shape
from planish.ir.source import Source
from planish.ops.op import OPS


def read_onnx(
    model: str | Path | bytes | onnx.ModelProto, profiles: Mapping[str, Profile] | None = None
) -> Graph:
    """Return the graph of an ONNX model; see `importer.read_model`."""
    opened = without_sequences(open_model(model))
    functions = FunctionTable(opened)
    functions.check_supported()
    return _Importer(opened, functions).graph(profiles)


class _Scope:
    """Values by their ONNX names: a graph's own, then those of the graphs around it."""

    def __init__(self, outer: _Scope | None = None) -> None:
        self._outer = outer
        self._values: dict[str, Value | None] = {}
        self.initializers: dict[str, onnx.TensorProto | onnx.SparseTensorProto] = {}

    def bind(self, name: str, value: Value | None) -> None:
        self._values[name] = value

    def holder(self, name: str) -> _Scope | None:
        """Return the nearest scope that knows `name`."""
        if name in self._values or name in self.initializers:
            return self
        return None if self._outer is None else self._outer.holder(name)

    def bound(self, name: str) -> Value | None:
        return self._values.get(name)

    def is_bound(self, name: str) -> bool:
        return name in self._values


@dataclass(frozen=True)
class _Context:
    """Where nodes are being built: the graph, the opsets, and the function calls around."""

    emitter: Emitter
    scope: _Scope
    opsets: dict[str, int]
    labels: set[str]  # names given out in the graph
    read: frozenset[str]  # names that anything reads
    prefix: str = ""
    bound: Mapping[str, Any] = field(default_factory=dict)  # attributes of the function call
    depth: int = 0

    def label(self, name: str) -> str:
        """Return a name for a value, new in this graph."""
        wanted = self.prefix + name
        if wanted in self.labels:
            wanted = self.emitter.graph.fresh_name(wanted)
        self.labels.add(wanted)
        return wanted


class _Importer:
    """Builds the graphs of one model."""

    def __init__(self, model: OnnxModel, functions: FunctionTable) -> None:
        self._model = model
        self._functions = functions
        self._refusals: list[str] = []  # branches that the shapes do not fit, for the user

    # -- graphs ----------------------------------------------------------------------------------

    def graph(self, profiles: Mapping[str, Profile] | None) -> Graph:
        """Return the model's outermost graph."""
        proto = self._model.proto.graph
        context = self._context(proto, _Scope(), self._model.opsets)
        graph = context.emitter.graph
        self._inputs(proto, context, profiles or {})
        if profiles is None:
            graph.ranges = default_ranges(graph)
        else:
            apply_profiles(graph, profiles)
        self._body(proto, context)
        graph.notes += self._refusals
        return graph

    def _context(self, proto: onnx.GraphProto, scope: _Scope, opsets: dict[str, int]) -> _Context:
        graph = Graph(proto.name or "graph")
        for name in _names(proto):
            graph.reserve_name(name)
        for tensor in proto.initializer:
            scope.initializers[tensor.name] = tensor
        for sparse in proto.sparse_initializer:
            scope.initializers[sparse.values.name] = sparse
        read = frozenset(names_read(proto))
        return _Context(Emitter(graph), scope, opsets, set(), read)

    def _inputs(
        self, proto: onnx.GraphProto, context: _Context, profiles: Mapping[str, Profile]
    ) -> None:
        symbols, graph = SymbolTable(), context.emitter.graph
        for info in proto.input:
            if info.name in context.scope.initializers:
                if self._model.proto.ir_version >= 4:  # before, initializers had to be inputs
                    graph.notes.append(f"input {info.name} has a default: it became a constant")
                continue
            if not info.name or info.name in graph.input_names:
                raise ModelError(
                    f"the input name {info.name!r} is empty or occurs twice",
                    where=self._model.label,
                )
            rank = len(profiles[info.name].min) if info.name in profiles else None
            dtype, shape = input_type(info, symbols, self._model.label, rank)
            context.labels.add(info.name)
            context.scope.bind(info.name, graph.add_input(info.name, dtype, shape))

    def _body(self, proto: onnx.GraphProto, context: _Context) -> None:
        """Build the nodes and bind the outputs of the graph whose inputs are bound."""
        scope, label = context.scope, f"graph {proto.name} of {self._model.label}"
        for node in ordered_nodes(proto.node, lambda name: scope.holder(name) is not None, label):
            self._node(node, context)
        for info in proto.output:
            if scope.holder(info.name) is None:
                raise ModelError(
                    f"nothing produces the output {info.name!r}",
                    where=label,
                    fix="the model is incomplete: export it again",
                )
            value = self._value(info.name, context)
            if value is None:
                raise ModelError(f"the output {info.name!r} is absent", where=label)
            if info.name in context.emitter.graph.output_names:
                raise ModelError(f"two outputs are called {info.name!r}", where=label)
            context.emitter.graph.add_output(value, info.name)
            self._note_mismatch(info, value, context.emitter.graph)

    def _note_mismatch(self, info: onnx.ValueInfoProto, value: Value, graph: Graph) -> None:
        """Note where the model declares another type of an output than its nodes give."""
        tensor = info.type.tensor_type
        if value.shape is None or not tensor.HasField("shape"):
            return
        declared = [
            dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
        ]
        pairs = zip(declared, value.shape, strict=False)
        wrong = len(declared) != len(value.shape) or any(
            isinstance(have, int) and want is not None and want > 0 and want != have
            for want, have in pairs
        )
        if wrong or tensor.elem_type not in (0, value.dtype.onnx):
            shown = [str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim]
            graph.notes.append(
                f"output {info.name} is declared as [{', '.join(shown)}] but computed as {value}"
            )

    def _subgraph(
        self,
        proto: onnx.GraphProto,
        context: _Context,
        types: Sequence[tuple[Any, Shape | None] | None],
    ) -> Graph:
        """Return a graph attribute; `types` are what the node says about the graph's inputs."""
        inner = self._context(proto, _Scope(context.scope), context.opsets)
        inner = replace(inner, bound=context.bound, depth=context.depth, prefix=context.prefix)
        graph = inner.emitter.graph
        for index, info in enumerate(proto.input):
            given = types[index] if index < len(types) else None
            dtype, shape = given or (_declared_type(info), None)
            value = graph.add_input(inner.label(info.name), dtype, shape)
            inner.scope.bind(info.name, value)
        try:
            self._body(proto, inner)
        except ShapeError:
            for node in reversed(graph):
                discard(node, graph)  # what was built of it reads nothing
            raise
        return graph

    # -- values ----------------------------------------------------------------------------------

    def _value(self, name: str, context: _Context) -> Value | None:
        """Return the value called `name`, an initializer as a constant; it must be known."""
        holder = context.scope.holder(name)
        if holder is None:
            raise ModelError(f"nothing produces {name!r}", where=self._model.label)
        if not holder.is_bound(name):
            holder.bind(name, self._initializer(name, holder, context))
        return holder.bound(name)

    def _initializer(self, name: str, holder: _Scope, context: _Context) -> Value:
        proto, where = holder.initializers[name], f"initializer {name} of {self._model.label}"
        if isinstance(proto, onnx.SparseTensorProto):
            array = self._model.tensors.read_sparse(proto, where)
        else:
            array = self._model.tensors.read(proto, where)
        if has_nan(array):
            raise ModelError(
                "the weights hold NaN (not a number)",
                where=where,
                fix="the training diverged or the file is damaged: export a healthy checkpoint",
            )
        return context.emitter.graph.constant(array, context.label(name))

    # -- nodes -----------------------------------------------------------------------------------

    def _node(self, proto: onnx.NodeProto, context: _Context) -> None:
        name = context.prefix + node_name(proto)
        where = f"node {name} ({proto.op_type}) of {self._model.label}"
        values = [self._value(item, context) if item else None for item in proto.input]
        while values and values[-1] is None:
            values.pop()
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
            self._constant(proto, context, where)
            return
        branch = taken_branch(proto, values)
        if branch is not None:
            self._bind(proto, self._inlined(branch, context, name), context)
            return
        function = self._functions.local(proto)
        if function is not None:
            check_call(proto, function, where)
            self._bind(proto, self._call(proto, function, values, context, where), context)
            return
        schema = schema_of(proto.op_type, _domain(proto), version_of(proto, context.opsets))
        if schema is not None:
            check_against_schema(proto, schema, values, where)
        node = self._onnx_node(proto, values, context, where)
        result = upgraded(node, context.emitter)
        if isinstance(result, OnnxNode):
            if result.op not in OPS:
                body = self._functions.of_operator(proto, context.opsets, values, context.bound)
                result = self._call(proto, body, values, context, where)
            else:
                result = context.emitter.finish(result)
        self._bind(proto, result, context)

    def _onnx_node(
        self,
        proto: onnx.NodeProto,
        values: list[Value | None],
        context: _Context,
        where: str,
    ) -> OnnxNode:
        op = graph_name(proto.domain, proto.op_type)
        outputs = _needed_outputs(proto, context)
        source = Source("onnx", (context.prefix + node_name(proto),))
        refused: dict[Graph, ShapeError] = {}

        def subgraph(graph: onnx.GraphProto) -> Graph:
            before = len(self._refusals)
            try:
                return self._subgraph(graph, context, _body_types(proto, values))
            except ShapeError as error:
                if op != "If":
                    raise
                del self._refusals[before:]
                branch = Graph(graph.name)
                refused[branch] = error
                return branch

        reader = AttributeReader(self._model.tensors, context.bound, subgraph)
        attributes = reader.read(proto.attribute, where)
        if refused:
            condition = values[0] if values else None
            self._refusals += refuse_branches(attributes, refused, condition, source)
        if op == "Cast" and "to" in attributes:
            attributes["to"] = element_type(int(attributes["to"]), where)
        standard = "." not in op
        return OnnxNode(
            op=op,
            inputs=list(values),
            attributes=attributes,
            outputs=len(outputs),
            read=tuple(name in context.read for name in outputs),
            opset=context.opsets[""] if standard and not _domain(proto) else OPSET,
            source=source,
        )

    def _constant(self, proto: onnx.NodeProto, context: _Context, where: str) -> None:
        reader = AttributeReader(
            self._model.tensors, context.bound, lambda graph: self._subgraph(graph, context, ())
        )
        array = constant_array(reader.read(proto.attribute, where), where)
        if len(proto.output) != 1:
            raise ModelError(f"Constant has {len(proto.output)} outputs", where=where)
        name = proto.output[0]
        context.scope.bind(name, context.emitter.graph.constant(array, context.label(name)))

    def _call(
        self,
        proto: onnx.NodeProto,
        function: onnx.FunctionProto,
        values: Sequence[Value | None],
        context: _Context,
        where: str,
    ) -> list[Value]:
        """Build the nodes of a function's body in place of a call; return its outputs."""
        if context.depth >= MAX_CALL_DEPTH:
            raise ModelError(
                f"function {function.name} is called more than {MAX_CALL_DEPTH} levels deep",
                where=where,
                fix="a function must not call itself",
            )
        scope = _Scope()
        for index, name in enumerate(function.input):
            scope.bind(name, values[index] if index < len(values) else None)
        inner = replace(
            context,
            scope=scope,
            opsets=function_opsets(function, context.opsets, where),
            prefix=f"{context.prefix}{node_name(proto)}/",
            read=frozenset(n for node in function.node for n in _all_reads(node))
            | frozenset(function.output),
            bound=self._bound_attributes(proto, function, context, where),
            depth=context.depth + 1,
        )
        label = f"function {function.name} of {self._model.label}"
        for node in ordered_nodes(function.node, lambda n: scope.holder(n) is not None, label):
            self._node(node, inner)
        outputs = [self._value(name, inner) for name in function.output[: len(proto.output)]]
        return [value for value in outputs if value is not None]

    def _inlined(self, branch: onnx.GraphProto, context: _Context, name: str) -> list[Value]:
        """Build the nodes of an If's branch in place of the If; return the branch's outputs.

        The other branch is not looked at: with the shapes at hand it may not even be valid.
        """
        scope = _Scope(context.scope)
        scope.initializers.update({tensor.name: tensor for tensor in branch.initializer})
        scope.initializers.update({each.values.name: each for each in branch.sparse_initializer})
        read = context.read | frozenset(names_read(branch))
        inner = replace(context, scope=scope, read=read, prefix=f"{context.prefix}{name}/")
        label = f"branch {branch.name} of {self._model.label}"
        for node in ordered_nodes(branch.node, lambda n: scope.holder(n) is not None, label):
            self._node(node, inner)
        outputs = [self._value(info.name, inner) for info in branch.output]
        return [value for value in outputs if value is not None]

    def _bound_attributes(
        self,
        proto: onnx.NodeProto,
        function: onnx.FunctionProto,
        context: _Context,
        where: str,
    ) -> dict[str, Any]:
        reader = AttributeReader(
            self._model.tensors, context.bound, lambda graph: self._subgraph(graph, context, ())
        )
        defaults = reader.read(function.attribute_proto, where)
        schema = schema_of(proto.op_type, _domain(proto), version_of(proto, context.opsets))
        if schema is not None and self._functions.local(proto) is None:
            declared = [a.default_value for a in schema.attributes.values() if a.default_value.name]
            defaults = {**reader.read(declared, where), **defaults}
        return {**defaults, **reader.read(proto.attribute, where)}

    def _bind(self, proto: onnx.NodeProto, values: Sequence[Value], context: _Context) -> None:
        """Give the outputs of a node their ONNX names."""
        for name, value in zip(proto.output, values, strict=False):
            if not name:
                continue
            if value.producer is not None and value.producer.graph is context.emitter.graph:
                value.name = context.label(name)
            context.scope.bind(name, value)


def _body_types(
    proto: onnx.NodeProto, values: Sequence[Value | None]
) -> list[tuple[Any, Shape | None] | None]:
    """Return what a Loop or Scan node says about the types of its body's inputs."""
    types = [None if value is None else (value.dtype, value.shape) for value in values]
    if proto.op_type == "Loop":
        return [None, None, *types[2:]]
    if proto.op_type != "Scan":
        return []
    count = next((a.i for a in proto.attribute if a.name == "num_scan_inputs"), 0)
    axes = next((tuple(a.ints) for a in proto.attribute if a.name == "scan_input_axes"), ())
    for position in range(max(0, len(types) - count), len(types)):
        entry = types[position]
        if entry is None or not entry[1]:
            continue
        index = position - (len(types) - count)
        axis = (axes[index] if index < len(axes) else 0) % len(entry[1])
        types[position] = (entry[0], (*entry[1][:axis], *entry[1][axis + 1 :]))
    return types


def _declared_type(info: onnx.ValueInfoProto) -> Any:
    if info.type.WhichOneof("value") != "tensor_type":
        return F32
    return element_type(info.type.tensor_type.elem_type, f"input {info.name}")


def _needed_outputs(proto: onnx.NodeProto, context: _Context) -> list[str]:
    """Return the output names without optional ones at the end that nothing reads."""
    schema = schema_of(proto.op_type, _domain(proto), version_of(proto, context.opsets))
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    outputs = list(proto.output)
    while len(outputs) > 1 and outputs[-1] not in context.read:
        formal = min(len(outputs), len(schema.outputs)) - 1 if schema else 0
        if outputs[-1] and schema and schema.outputs[formal].option != optional:
            break
        outputs.pop()
    return outputs


def _domain(proto: onnx.NodeProto) -> str:
    return "" if proto.domain == "ai.onnx" else proto.domain


def _names(proto: onnx.GraphProto) -> list[str]:
    names = [info.name for info in proto.input]
    names += [tensor.name for tensor in proto.initializer]
    return names + [name for node in proto.node for name in node.output]


def _all_reads(node: onnx.NodeProto) -> list[str]:
    names = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names += names_read(attribute.g)
    return names
