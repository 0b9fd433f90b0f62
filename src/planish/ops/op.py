"""The operator contract: one class says everything about one operator.

A subclass of `Op` with a `name` registers itself. It is complete or absent: a docstring with the
meaning, `infer` (types and shapes), `reference` (numpy, the oracle), `samples` (for the generated
tests) and `cost`. Names and semantics are ONNX's at opset `planish.ir.graph.OPSET`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from planish.errors import ShapeError
from planish.ir.declarations import DECLARED
from planish.ir.declarations import REQUIRED as REQUIRED
from planish.ir.dtypes import DType
from planish.ir.graph import Graph, Node, Value
from planish.ir.requirement import Requirement, broadcasts
from planish.ir.shape import Dim, Shape, product, symbol

Array = np.ndarray[Any, Any]
Inputs = Sequence[Array | None]
Attributes = Mapping[str, Any]
# runs a subgraph on arrays for its inputs; values of outer graphs are found by the runner
SubgraphRunner = Callable[[Graph, Sequence[Array]], list[Array]]


@dataclass(frozen=True)
class Inferred:
    """Type of one output; `content` is its symbolic contents where it is made of extents."""

    dtype: DType
    shape: Shape | None
    content: tuple[Dim, ...] | None = None


@dataclass(frozen=True)
class Sample:
    """One test case: inputs as arrays (None where absent) and attributes that differ from defaults.

    `constant` lists the inputs that are constants in a real model (weights, shapes, axes).
    `outputs` is how many outputs the node has.
    """

    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constant: tuple[int, ...] = ()
    outputs: int = 1
    name: str = ""


@dataclass(frozen=True)
class Cost:
    """Work of one node: arithmetic operations and bytes moved to and from memory."""

    operations: Dim
    bytes: Dim


class Op(ABC):
    """Base class of operators; see the module's docstring.

    Class attributes
    ----------------
    name : str
        The operator's name in graphs; contrib operators carry their domain ("com.microsoft.Gelu").
    attributes : dict
        Every attribute with its default (`REQUIRED` where there is none, None where absent means
        "not set"). Attributes of a node always hold all of these keys.
    pointwise : bool
        Every output element depends only on the input elements at its own (broadcast) index.
    view : bool
        The output holds the first input's elements in another arrangement, so memory can be shared.
    pure : bool
        Equal inputs give equal outputs (false for random generators).
    """

    name: ClassVar[str] = ""
    attributes: ClassVar[Mapping[str, Any]] = {}
    pointwise: ClassVar[bool] = False
    view: ClassVar[bool] = False
    pure: ClassVar[bool] = True
    operations_per_element: ClassVar[int] = 1

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not cls.name:
            return  # an abstract family base
        if cls.name in OPS:
            raise TypeError(f"operator {cls.name} is defined twice: {OPS[cls.name]} and {cls}")
        if not cls.__doc__:
            raise TypeError(f"operator {cls.name} has no docstring")
        OPS[cls.name] = cls
        DECLARED[cls.name] = cls.attributes

    @classmethod
    @abstractmethod
    def infer(cls, node: Node) -> list[Inferred]:
        """Return the type of every output of `node`; raise ShapeError when operands do not fit."""

    @classmethod
    @abstractmethod
    def reference(cls, inputs: Inputs, attributes: Attributes) -> list[Array]:
        """Return the outputs for arrays `inputs`; all possible outputs, optional ones included."""

    @classmethod
    @abstractmethod
    def samples(cls) -> list[Sample]:
        """Return cases that cover every attribute and broadcast form; small, seeded, finite."""

    @classmethod
    def requirements(cls, node: Node) -> list[Requirement]:
        """Return what must hold between symbolic extents, which `infer` takes for granted.

        By default the broadcasting of pointwise operators. Without it, kernels would read and
        write outside their operands.
        """
        if not cls.pointwise or node.outputs[0].shape is None:
            return []
        shapes = [value.shape for value in node.present_inputs if value.shape is not None]
        return broadcasts(shapes, node.outputs[0].shape)

    @classmethod
    def cost(cls, node: Node) -> Cost:
        """Return the work of `node`; by default one operation an output element."""
        elements = sum((product(out.shape or ()) for out in node.outputs), start=0)
        return Cost(elements * cls.operations_per_element, bytes_of(node))

    @classmethod
    def evaluate(cls, node: Node, inputs: Inputs, run: SubgraphRunner) -> list[Array]:
        """Run `node` on arrays; operators with subgraphs override this and call `run`."""
        return cls.reference(inputs, node.attributes)


OPS: dict[str, type[Op]] = {}


def op_of(node: Node) -> type[Op]:
    """Return the operator class of `node`; raise KeyError when it is unknown."""
    return OPS[node.op]


def bytes_of(node: Node) -> Dim:
    """Return the bytes of all distinct inputs and outputs of `node`."""
    values: list[Value] = [*dict.fromkeys(node.present_inputs), *node.outputs]
    total: Dim = 0
    for value in values:
        total = total + product(value.shape or ()) * value.dtype.itemsize
    return total


def broadcast(shapes: Sequence[Shape], where: str) -> Shape:
    """Return the numpy broadcast of `shapes`; raise ShapeError, naming `where`, if there is none.

    A symbolic extent against a number above 1 is taken to be that number; of two different
    symbolic extents the first is kept (both are equal at run time, or the model is wrong).
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for axis, dim in enumerate(shape, start=rank - len(shape)):
            have = result[axis]
            if have == 1 or (not isinstance(have, int) and isinstance(dim, int) and dim != 1):
                result[axis] = dim
            elif isinstance(have, int) and isinstance(dim, int) and dim not in (1, have):
                listing = ", ".join(str(list(shape)) for shape in shapes)
                raise ShapeError(f"shapes {listing} cannot be broadcast together", where=where)
    return tuple(result)


def unknown_extent(node: Node, output: int, axis: int) -> Dim:
    """Return a symbol for an extent that only the data decides; its name starts with "?"."""
    return symbol(f"?{re.sub(r'[^0-9A-Za-z_]', '_', node.outputs[output].name)}_{axis}")


def normalize_axis(axis: int, rank: int, node: Node) -> int:
    """Return `axis` counted from the front; raise ShapeError when it is out of range."""
    if not -rank <= axis < max(rank, 1):
        raise ShapeError(f"axis {axis} is out of range for rank {rank}", where=str(node))
    return axis % rank if rank else 0
