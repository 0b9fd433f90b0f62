"""What a rule for a TensorFlow operation works with: its operands, and nodes to emit.

A rule turns one `TfNode` into values of the graph under construction::

    @rule("Add", "AddV2")
    def add(node: TfNode, builder: Builder) -> Value:
        return builder.emit("Add", *builder.inputs)

It returns one value for each output of the node, or the only one. What it cannot convert exactly
it refuses with a reason (`Builder.refuse`). Operations on constants are computed at once, so axes,
permutations and shapes that a model spells out in nodes reach the rules as constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from planish.errors import GraphError, ModelError, UnsupportedOperatorError
from planish.importers.tensorflow_graph import TfGraph, TfNode, TfShape, TfType
from planish.ir.declarations import DECLARED, REQUIRED
from planish.ir.dtypes import I64, STRING, DType, dtype_of
from planish.ir.graph import Graph, Node, Value
from planish.ir.shape import Dim
from planish.ir.source import Source
from planish.ops.content import contents, integers
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_node
from planish.ops.op import OPS

Array = np.ndarray[Any, Any]
Operand = Any  # a Value, or what another rule made that is no tensor (a TensorList)
Rule = Callable[[TfNode, "Builder"], "Operand | Sequence[Operand]"]

MISSING: Operand = object()  # an output of a node that could not be converted

RULES: dict[str, Rule] = {}  # TensorFlow's operation to the rule that converts it

FOLD_LIMIT = 1 << 16  # bytes of a result that is computed while the graph is read


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for TensorFlow's operations `ops`."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise TypeError(f"two rules for {op}: {RULES[op].__name__}, {function.__name__}")
            RULES[op] = function
        return function

    return register


class Refusal(UnsupportedOperatorError):  # noqa: N818 (one line of an error that lists all)
    """One node that a rule cannot convert; `reason` says why."""

    def __init__(self, node: TfNode, reason: str) -> None:
        self.reason = reason
        super().__init__([f"{node.name} ({node.op}): {reason}"])


class Skipped(Exception):  # noqa: N818 (not an error: the reasons have been collected)
    """A function's body holds nodes that cannot be converted; they have been noted already."""


class Builder:
    """Emits nodes into one graph; the importer points it at one TensorFlow node after another.

    Parameters
    ----------
    graph : Graph
        Receives the nodes.
    functions : dict of str to TfGraph
        Bodies of functional control flow.
    convert : callable
        ``convert(body, graph, operands)`` appends the nodes of a `TfGraph` to a graph and returns
        its outputs; see `inline` and `subgraph`.

    Attributes
    ----------
    node : TfNode
        The node being converted.
    operands : tuple
        What its inputs are: values, or objects of other rules' making.
    notes : dict of Value to object
        What rules remember about values for rules that come later.
    """

    def __init__(
        self,
        graph: Graph,
        functions: Mapping[str, TfGraph],
        convert: Callable[[TfGraph, Graph, Sequence[Operand]], list[Operand]],
    ) -> None:
        self.graph = graph
        self.functions = functions
        self._convert = convert
        self.node = TfNode("", "")
        self.operands: tuple[Operand, ...] = ()
        self.notes: dict[Value, object] = {}

    def at(self, node: TfNode, operands: Sequence[Operand]) -> None:
        """Turn to `node`."""
        self.node, self.operands = node, tuple(operands)

    # -- the node's operands ---------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The operands, all of them tensors; refuses anything else."""
        for operand in self.operands:
            if not isinstance(operand, Value):
                self.refuse(f"an operand is a {type(operand).__name__}, not a tensor")
        return self.operands

    def input(self, index: int = 0) -> Value:
        """Return operand `index`; refuse where it is absent or no tensor."""
        if index >= len(self.operands):
            self.refuse(f"input {index} is missing")
        operand = self.operands[index]
        if not isinstance(operand, Value):
            self.refuse(f"input {index} is a {type(operand).__name__}, not a tensor")
        return operand

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node."""
        return self.node.attributes.get(name, default)

    def integers(self, index: int, what: str) -> tuple[int, ...]:
        """Return the numbers in integer operand `index`; refuse where they are not known."""
        found = integers(self.input(index))
        if found is None:
            self.refuse(f"{what} has to be known when the model is read")
        return found

    def integer(self, index: int, what: str) -> int:
        """Return the only number in operand `index`; refuse where it is not known."""
        return self.integers(index, what)[0]

    def dims(self, value: Value) -> tuple[Dim, ...] | None:
        """Return the extents that an integer tensor holds, or None where data decides them."""
        return contents(value)

    def rank(self, value: Value) -> int:
        """Return the rank of `value`; refuse where it is not known."""
        if value.shape is None:
            self.refuse("the rank of an operand is not known")
        return value.rank

    def dtype(self, tf_type: TfType, what: str = "the type") -> DType:
        """Return the element type that TensorFlow calls `tf_type`; refuse one without tensors."""
        found = dtype_from(tf_type)
        if found is None:
            self.refuse(f"{what} is {tf_type}")
        return found

    def refuse(self, reason: str) -> NoReturn:
        """Say why this node cannot be converted."""
        raise Refusal(self.node, reason)

    # -- making values ---------------------------------------------------------------------------

    def constant(self, array: Any, dtype: DType | None = None) -> Value:
        """Return a constant; Python integers are int64 unless `dtype` says otherwise."""
        return self.graph.constant(np.asarray(array, dtype.numpy if dtype else None))

    def scalar(self, number: float, like: Value) -> Value:
        """Return a constant of rank 0 in the type of `like`."""
        return self.graph.constant(np.asarray(number).astype(like.dtype.numpy))

    def emit(self, op: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Append a node with one output and return it; of constants, return the result."""
        return self.emit_many(op, 1, *inputs, **attributes)[0]

    def emit_many(
        self, op: str, outputs: int, *inputs: Value | None, **attributes: Any
    ) -> tuple[Value, ...]:
        """Append a node with several outputs and return them; see `emit`."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        given = {name: tuple(v) if isinstance(v, list) else v for name, v in attributes.items()}
        filled = {**DECLARED[op], **given}
        unknown = [name for name in attributes if name not in DECLARED[op]]
        missing = [name for name, value in filled.items() if value is REQUIRED]
        if unknown or missing:
            raise GraphError(f"attributes of {op}: unknown {unknown}, missing {missing}")
        results = [self.graph.new_value(I64, None, self.node.name) for _ in range(outputs)]
        node = Node(op, operands, results, filled, Source("tensorflow", (self.node.name,)))
        self.graph.append(node)
        infer_node(node)
        return self._folded(node)

    def _folded(self, node: Node) -> tuple[Value, ...]:
        """Return the outputs of `node`, computed where all operands are constants and small."""
        if not OPS[node.op].pure or node.subgraphs:
            return node.outputs
        if not all(
            value.is_constant and value.dtype is not STRING for value in node.present_inputs
        ):
            return node.outputs
        if sum(value.array.nbytes for value in node.present_inputs) > FOLD_LIMIT:
            return node.outputs
        sizes = [_bytes(value) for value in node.outputs]
        if any(size is not None and size > FOLD_LIMIT for size in sizes):
            return node.outputs
        inputs = [None if value is None else value.array for value in node.inputs]
        with np.errstate(all="ignore"):
            arrays = run_node(node, inputs)
        made = [
            self.graph.constant(np.asarray(array).astype(value.dtype.numpy, copy=False))
            for value, array in zip(node.outputs, arrays, strict=False)
        ]
        self.graph.remove(node)
        return tuple(made)

    def i64(self, value: Value) -> Value:
        """Return an integer tensor as int64, as shape operands have to be."""
        if value.dtype is I64:
            return value
        known = integers(value)
        if known is not None and value.shape is not None and len(value.shape) <= 1:
            return self.constant(np.array(known, np.int64).reshape([len(known)][: value.rank]))
        return self.cast(value, I64)

    def cast(self, value: Value, dtype: DType) -> Value:
        """Return `value` with elements of type `dtype`."""
        return value if value.dtype is dtype else self.emit("Cast", value, to=dtype.onnx)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Return `value` with its axes in `order`; a constant is rearranged at once."""
        if tuple(order) == tuple(range(len(order))):
            return value
        if value.is_constant:
            return self.constant(np.ascontiguousarray(value.array.transpose(order)))
        return self.emit("Transpose", value, perm=tuple(order))

    def reshape(self, value: Value, *shape: int) -> Value:
        """Return `value` in `shape` (0 copies an extent, -1 is inferred)."""
        if value.is_constant and 0 not in shape:
            return self.constant(value.array.reshape(shape))
        return self.emit("Reshape", value, self.constant(np.array(shape, np.int64)))

    def squeeze(self, value: Value, *axes: int) -> Value:
        """Return `value` without `axes`, whose extents are 1."""
        return self.emit("Squeeze", value, self.constant(np.array(axes, np.int64)))

    def unsqueeze(self, value: Value, *axes: int) -> Value:
        """Return `value` with axes of extent 1 at positions `axes` of the result."""
        return self.emit("Unsqueeze", value, self.constant(np.array(axes, np.int64)))

    def concat(self, values: Sequence[Value], axis: int = 0) -> Value:
        """Return `values` joined along `axis`; one alone stays as it is."""
        return values[0] if len(values) == 1 else self.emit("Concat", *values, axis=axis)

    def shape_of(self, value: Value) -> Value:
        """Return the shape of `value` as an int64 vector, a constant where it is known."""
        shape = value.shape
        if shape is not None and all(isinstance(dim, int) for dim in shape):
            return self.constant(np.array(shape, np.int64))
        return self.emit("Shape", value)

    # -- functions -------------------------------------------------------------------------------

    def function(self, name: str) -> TfGraph:
        """Return the body of a function attribute."""
        if name not in self.functions:
            raise ModelError(f"the model lacks the function {name}", where=f"node {self.node.name}")
        return self.functions[name]

    def inline(self, name: str, operands: Sequence[Operand]) -> list[Operand]:
        """Append the nodes of a function to this graph; return its outputs for `operands`."""
        node, own = self.node, self.operands
        outputs = self._convert(self.function(name), self.graph, operands)
        self.at(node, own)
        return self._complete(outputs)

    def inside(self, graph: Graph) -> Builder:
        """Return a builder for the same node that appends to a subgraph."""
        inner = Builder(graph, self.functions, self._convert)
        inner.at(self.node, self.operands)
        return inner

    def append(self, name: str, graph: Graph, operands: Sequence[Operand]) -> list[Operand]:
        """Append the nodes of a function to another graph, which may read this one's values."""
        return self._complete(self._convert(self.function(name), graph, operands))

    def _complete(self, outputs: list[Operand]) -> list[Operand]:
        if any(output is MISSING for output in outputs):
            raise Skipped
        return outputs

    def subgraph(self, name: str, types: Sequence[tuple[DType, Any]]) -> Graph:
        """Return a function as a graph of its own, for Loop, Scan and If.

        Parameters
        ----------
        name : str
            A key of `functions`.
        types : sequence of (DType, Shape or None)
            What each of its inputs is.
        """
        body = self.function(name)
        graph = Graph(name)
        values = [
            graph.add_input(graph.fresh_name(given.name), dtype, shape)
            for given, (dtype, shape) in zip(body.inputs, types, strict=True)
        ]
        for index, value in enumerate(self._complete(self._convert(body, graph, values))):
            if not isinstance(value, Value):
                self.refuse(f"output {index} of {name} is a {type(value).__name__}, not a tensor")
            graph.add_output(value)
        return graph


def dtype_from(tf_type: TfType) -> DType | None:
    """Return the element type for TensorFlow's, None where Planish has none."""
    if isinstance(tf_type, str):
        return STRING if tf_type == "string" else None
    try:
        return dtype_of(np.empty(0, tf_type))
    except KeyError:
        return None


def known_rank(shape: TfShape) -> int | None:
    """Return the number of axes, None where it is not known."""
    return None if shape is None else len(shape)


def _bytes(value: Value) -> int | None:
    total = value.dtype.itemsize
    for dim in value.shape or ():
        if not isinstance(dim, int):
            return None
        total *= dim
    return None if value.shape is None else total
