"""The graph: values, nodes, and the list of nodes in execution order.

Invariants (checked by ir/verify.py between passes):

1. Use-def is by object identity: `node.inputs[i] is value` exactly when `(node, i)` is in
   `value.uses`. Names are labels; they are unique within a graph but nothing is looked up by them.
2. A value has one origin: a node's output (`producer`), a graph input, or a constant (`constant`).
3. A node belongs to at most one graph; the outputs it was created with stay its outputs.
4. Nodes are in topological order: a node comes after the producers of its inputs. Methods that
   insert take an anchor, so the order is kept by construction.
5. A subgraph (an attribute of If, Loop, Scan, or a region's body) may read values of the graphs
   around it, except a region's body, which reads only its own inputs and constants.
6. Operators carry ONNX names and semantics at opset `OPSET`; attributes hold every value that the
   operator declares (the importer fills in defaults).
7. `inputs` and `outputs` of the outermost graph carry the model's public names in `input_names`
   and `output_names`, whatever the values are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.errors import GraphError
from planish.ir.constant import Constant
from planish.ir.dtypes import DType
from planish.ir.requirement import Requirement
from planish.ir.shape import Dim, Shape
from planish.ir.source import Source

if TYPE_CHECKING:
    from planish.ir.layout import Layout, Storage

OPSET = 28  # the one opset whose semantics every operator has inside Planish

Attribute = Any  # int, float, str, bytes, tuple, numpy array, DType, Graph or None


class Value:
    """A tensor in a graph.

    Attributes
    ----------
    name : str
        Label in text and messages, unique in its graph.
    dtype : DType
    shape : Shape or None
        None when not even the rank is known.
    producer : Node or None
        The node that computes it; None for graph inputs and constants.
    constant : Constant or None
        Its contents when known at build time.
    content : tuple of Dim or None
        Symbolic contents, flattened, of a small integer tensor that holds extents.
    layout, storage
        Physical annotations; None until the passes of the same names ran (row-major).
    origin : str
        Name of the user's tensor that it equals, kept through rewrites; "" for none.
    """

    __slots__ = (
        "constant", "content", "dtype", "layout", "name", "origin", "producer", "shape",
        "storage", "uses",
    )  # fmt: skip

    def __init__(self, name: str, dtype: DType, shape: Shape | None) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape
        self.producer: Node | None = None
        self.uses: dict[tuple[Node, int], None] = {}
        self.constant: Constant | None = None
        self.content: tuple[Dim, ...] | None = None
        self.layout: Layout | None = None
        self.storage: Storage | None = None
        self.origin = ""

    @property
    def is_constant(self) -> bool:
        """Whether the contents are known at build time."""
        return self.constant is not None

    @property
    def users(self) -> list[Node]:
        """Nodes that read this value, each once, in order of first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    @property
    def rank(self) -> int:
        """Number of axes; raise GraphError when unknown."""
        return len(self.known_shape)

    @property
    def known_shape(self) -> Shape:
        """The shape; raise GraphError when not even the rank is known."""
        if self.shape is None:
            raise GraphError(f"the rank of %{self.name} is unknown", where=str(self.producer))
        return self.shape

    @property
    def array(self) -> np.ndarray:
        """Contents of a constant; raise GraphError for any other value."""
        if self.constant is None:
            raise GraphError(f"%{self.name} is not a constant", where=str(self.producer))
        return self.constant.array

    def __str__(self) -> str:
        shape = "?" if self.shape is None else "[" + ",".join(map(str, self.shape)) + "]"
        return f"{'@' if self.is_constant else '%'}{self.name}: {self.dtype}{shape}"

    __repr__ = __str__


class Node:
    """One operation.

    Attributes
    ----------
    op : str
        Operator name ("Conv"; contrib operators as "com.microsoft.FusedConv").
    inputs : tuple of (Value or None)
        None stands for an absent optional input.
    outputs : tuple of Value
    attributes : dict
        Attribute name to value; lists are tuples, tensors are numpy arrays, subgraphs are graphs.
    source : Source
        The user's node(s).
    """

    __slots__ = ("_inputs", "_next", "_previous", "attributes", "graph", "op", "outputs", "source")

    def __init__(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[Value],
        attributes: dict[str, Any] | None = None,
        source: Source | None = None,
    ) -> None:
        self.op = op
        self._inputs: tuple[Value | None, ...] = ()
        self.outputs = tuple(outputs)
        self.attributes = dict(attributes or {})
        self.source = source or Source()
        self.graph: Graph | None = None
        self._previous: Node | None = None
        self._next: Node | None = None
        for output in self.outputs:
            if output.producer is not None:
                raise GraphError(f"%{output.name} already has a producer", where=str(self))
            output.producer = self
        self.inputs = tuple(inputs)

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """The values read, in order; assigning keeps the use lists right."""
        return self._inputs

    @inputs.setter
    def inputs(self, values: Iterable[Value | None]) -> None:
        for index, old in enumerate(self._inputs):
            if old is not None:
                old.uses.pop((self, index), None)
        self._inputs = tuple(values)
        for index, new in enumerate(self._inputs):
            if new is not None:
                new.uses[self, index] = None

    def replace_input(self, index: int, value: Value | None) -> None:
        """Make input `index` read `value`."""
        self.inputs = (*self._inputs[:index], value, *self._inputs[index + 1 :])

    def input(self, index: int) -> Value | None:
        """Return input `index`, or None where it is absent or not given."""
        return self._inputs[index] if index < len(self._inputs) else None

    @property
    def present_inputs(self) -> list[Value]:
        """Inputs that are not absent, in order."""
        return [value for value in self._inputs if value is not None]

    @property
    def output(self) -> Value:
        """The only output; raise GraphError when there are several."""
        if len(self.outputs) != 1:
            message = f"{self.op} has {len(self.outputs)} outputs, expected 1"
            raise GraphError(message, where=str(self))
        return self.outputs[0]

    @property
    def body(self) -> Graph:
        """The body of a Region node."""
        body = self.attributes["body"]
        if not isinstance(body, Graph):
            raise GraphError(f"{self.op} has no body", where=str(self))
        return body

    @property
    def subgraphs(self) -> list[Graph]:
        """Graphs among the attributes, in attribute order."""
        return [value for value in self.attributes.values() if isinstance(value, Graph)]

    def __str__(self) -> str:
        names = ", ".join("_" if v is None else v.name for v in self._inputs)
        outputs = ", ".join(v.name for v in self.outputs)
        return f"{outputs} = {self.op}({names})  # {self.source}"

    __repr__ = __str__


class Graph:
    """Nodes in execution order, with inputs and outputs.

    `ranges` of the outermost graph holds (min, opt, max) of every symbol that shapes may use,
    `requirements` what must hold between them (see passes/collect_requirements.py), `notes` what
    the user has to be told about the model.

    Parameters
    ----------
    name : str
        Label in text and messages.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.input_names: list[str] = []
        self.output_names: list[str] = []
        self.ranges: dict[str, tuple[int, int, int]] = {}
        self.requirements: list[Requirement] = []
        self.notes: list[str] = []
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._fresh = 0

    # -- reading ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Node]:
        """Yield nodes in order; removing nodes or inserting around the current one is allowed."""
        node = self._first
        while node is not None:
            following = node._next
            yield node
            # a node inserted right after the current one is visited, removed ones are skipped
            node = node._next if node.graph is self else following
            while node is not None and node.graph is not self:
                node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._last
        while node is not None:
            before = node._previous
            yield node
            node = node._previous if node.graph is self else before
            while node is not None and node.graph is not self:
                node = node._previous

    def __len__(self) -> int:
        return self._count

    def constants(self) -> list[Value]:
        """Return every constant that a node or an output reads, each once, in order of use."""
        found: dict[Value, None] = {}
        for node in self:
            found.update((value, None) for value in node.present_inputs if value.is_constant)
            for subgraph in node.subgraphs:
                found.update((value, None) for value in subgraph.constants())
        found.update((value, None) for value in self.outputs if value.is_constant)
        return list(found)

    # -- making values and nodes -----------------------------------------------------------------

    def fresh_name(self, stem: str = "") -> str:
        """Return a name that this graph has not given out before."""
        self._fresh += 1
        return f"{stem}.{self._fresh}" if stem else f".{self._fresh}"

    def reserve_name(self, name: str) -> None:
        """Keep `fresh_name` from ever returning `name`, which came from outside."""
        digits = name[name.rfind(".") + 1 :]
        if digits.isdecimal() and digits.isascii() and len(digits) < 10:
            self._fresh = max(self._fresh, int(digits))

    def add_input(self, name: str, dtype: DType, shape: Shape | None) -> Value:
        """Append a graph input with public name `name` and return its value."""
        value = Value(name, dtype, shape)
        self.inputs.append(value)
        self.input_names.append(name)
        return value

    def add_output(self, value: Value, name: str | None = None) -> None:
        """Append a graph output with public name `name` (the value's own by default)."""
        self.outputs.append(value)
        self.output_names.append(value.name if name is None else name)

    def constant(self, array: np.ndarray, name: str | None = None) -> Value:
        """Return a new constant value that holds `array`."""
        constant = Constant(np.asarray(array))
        value = Value(name or self.fresh_name("c"), constant.dtype, constant.shape)
        value.constant = constant
        return value

    def new_value(self, dtype: DType, shape: Shape | None, stem: str = "") -> Value:
        """Return a value that no node produces yet."""
        return Value(self.fresh_name(stem), dtype, shape)

    def append(self, node: Node) -> Node:
        """Put `node` at the end and return it."""
        self._link(node, self._last, None)
        return node

    def insert_before(self, anchor: Node, node: Node) -> Node:
        """Put `node` just before `anchor` and return it."""
        self._link(node, anchor._previous, anchor)
        return node

    def insert_after(self, anchor: Node, node: Node) -> Node:
        """Put `node` just after `anchor` and return it."""
        self._link(node, anchor, anchor._next)
        return node

    # -- changing --------------------------------------------------------------------------------

    def remove(self, node: Node) -> None:
        """Take `node` out; raise GraphError while one of its outputs is still read."""
        if node.graph is not self:
            raise GraphError("the node is not in this graph", where=str(node))
        for output in node.outputs:
            if output.uses or any(output is value for value in self.outputs):
                raise GraphError(f"%{output.name} is still read", where=str(node))
        node.inputs = ()
        self._unlink(node)

    def detach(self, node: Node) -> None:
        """Take `node` out, its operands and readers as they are, to put it into another graph."""
        self._unlink(node)

    def move_before(self, anchor: Node, node: Node) -> None:
        """Move `node` (of this graph) to just before `anchor`."""
        self._unlink(node)
        self._link(node, anchor._previous, anchor)

    def replace_value(self, old: Value, new: Value) -> None:
        """Make every reader of `old`, this graph's outputs included, read `new`."""
        for node, index in list(old.uses):
            node.replace_input(index, new)
        self.outputs = [new if value is old else value for value in self.outputs]
        new.origin = new.origin or old.origin

    def is_output(self, value: Value) -> bool:
        """Whether `value` is an output of this graph."""
        return any(value is output for output in self.outputs)

    def _link(self, node: Node, previous: Node | None, following: Node | None) -> None:
        if node.graph is not None:
            raise GraphError("the node is already in a graph", where=str(node))
        node.graph, node._previous, node._next = self, previous, following
        if previous is None:
            self._first = node
        else:
            previous._next = node
        if following is None:
            self._last = node
        else:
            following._previous = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        node.graph, self._count = None, self._count - 1
