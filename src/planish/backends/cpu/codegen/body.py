"""Reading a region's body: prologue, anchor, epilogue, and where their operands lie.

`Pointwise` prints the pointwise nodes that lead to some values at one point of an index space: it
returns the loads and statements, and the C names of the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from planish.backends.cpu.codegen.access import Access
from planish.backends.cpu.codegen.indexing import IndexMap, Memory, operand_access
from planish.backends.cpu.codegen.scalar import (
    MEMORY_TYPES,
    constant_operands,
    literal,
    print_statements,
    scalar_constant,
    supported,
)
from planish.backends.cpu.codegen.writer import KernelWriter, contiguous_strides
from planish.errors import TacticError
from planish.ir.graph import Node, Value
from planish.ir.shape import Shape, symbols_of
from planish.tactics.tactic import Region

Load = tuple[str, Access]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Body:
    """A region's nodes by their place around the anchor.

    Attributes
    ----------
    prologue : tuple of Node
        Nodes that the anchor depends on.
    anchor : Node or None
    epilogue : tuple of Node
        All others.
    """

    prologue: tuple[Node, ...]
    anchor: Node | None
    epilogue: tuple[Node, ...]

    @property
    def pointwise(self) -> tuple[Node, ...]:
        """Prologue and epilogue."""
        return self.prologue + self.epilogue


def split_body(region: Region) -> Body:
    """Return the nodes of `region` by their place around its anchor."""
    anchor = region.anchor
    if anchor is None:
        return Body((), None, tuple(region.body))
    before = set(ancestors(anchor.present_inputs))
    prologue = tuple(node for node in region.body if node in before)
    others = tuple(node for node in region.body if node not in before and node is not anchor)
    return Body(prologue, anchor, others)


def ancestors(values: Iterable[Value], stop: Iterable[Value] = ()) -> list[Node]:
    """Return every node that `values` depend on, without looking behind `stop`; in no order."""
    seen: dict[Node, None] = {}
    known = set(stop)
    pending = [value for value in values if value not in known]
    while pending:
        producer = pending.pop().producer
        if producer is None or producer in seen:
            continue
        seen[producer] = None
        pending += [value for value in producer.present_inputs if value not in known]
    return list(seen)


def body_reason(region: Region, body: Body | None = None) -> str | None:
    """Return why the operands or pointwise nodes of `region` cannot be generated, or None."""
    for operand in (*region.inputs, *region.outputs):
        if operand.dtype not in MEMORY_TYPES:
            return f"elements of type {operand.dtype} have no C type"
        for dim in (*operand.shape, *operand.strides):
            unknown = symbols_of(dim) - set(region.symbols)
            if unknown:
                return f"the extent {min(unknown)} is known only after data was read"
    body = body or split_body(region)
    if body.anchor is not None and any(node.op == body.anchor.op for node in body.epilogue):
        return f"there is a second {body.anchor.op}"
    for node in body.pointwise:
        reason = supported(node)
        if reason is not None:
            return reason
    return None


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal, or may be (two different symbolic extents)."""
    if len(a) != len(b):
        return False
    return all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in zip(a, b, strict=True)
    )


@dataclass(frozen=True)
class Part:
    """C for some values at one point: loads, statements, and the values' names.

    `nodes` are what the statements compute, `loaded` the names of what was loaded.
    """

    loads: tuple[Load, ...]
    statements: tuple[str, ...]
    names: Mapping[Value, str]
    nodes: tuple[Node, ...] = ()
    loaded: Mapping[Value, str] = field(default_factory=dict)


class Pointwise:
    """Prints pointwise nodes of one region's body."""

    def __init__(self, writer: KernelWriter) -> None:
        self.writer = writer
        self.region = writer.region
        self._order = {node: position for position, node in enumerate(self.region.body)}

    def part(
        self,
        values: Sequence[Value],
        space: Shape,
        index: IndexMap,
        nest_rank: int,
        given: Mapping[Value, str] | None = None,
    ) -> Part:
        """Return the C that computes `values` where a tensor of shape `space` is at `index`.

        Parameters
        ----------
        values : sequence of Value
            Values of the body; each must broadcast to `space`.
        space, index
            The index space in which they are aligned, and where in it the nest is.
        nest_rank : int
            Axes of the nest.
        given : dict
            C names of values that are known already (the anchor's results).
        """
        given = dict(given or {})
        nodes = sorted(ancestors(values, given), key=lambda node: self._order[node])
        constants = constant_operands(nodes)
        loads: list[Load] = []
        names, loaded = dict(given), {}
        needed = [v for node in nodes for v in node.present_inputs] + list(values)
        for value in dict.fromkeys(needed):
            if value in names or (value.producer is not None and value.producer in nodes):
                continue
            memory = self._memory(value, constants)
            if memory is None:
                names[value] = literal(scalar_constant(value), value.dtype)
                continue
            name = self.writer.fresh("a")
            access = operand_access(self.writer, memory, space, index, nest_rank)
            loads.append((name, access))
            names[value] = loaded[value] = name
        literals = {v: n for v, n in names.items() if scalar_constant(v) is not None}
        for value in literals:
            del names[value]  # statements print literals themselves, with parentheses
        statements = print_statements(nodes, names, prefix=self.writer.fresh("v") + "_")
        found = {**literals, **names}
        return Part(tuple(loads), tuple(statements), found, tuple(nodes), loaded)

    def memory_of(self, value: Value) -> Memory:
        """Return where a body input or a constant of several elements lies."""
        memory = self._memory(value, {})
        if memory is None:
            raise TacticError(f"%{value.name} is a scalar constant", where=self.region.name)
        return memory

    def output_memory(self, index: int) -> Memory:
        """Return where region output `index` lies."""
        operand = self.region.outputs[index]
        pointer = self.writer.output_pointer(index)
        return Memory(pointer, operand.dtype, operand.shape, operand.strides)

    def _memory(self, value: Value, aligned: Mapping[Value, Array]) -> Memory | None:
        if value.constant is not None:
            if scalar_constant(value) is not None:
                return None
            array = aligned.get(value, value.array)
            shape = tuple(array.shape)
            return Memory(self.writer.pack(array), value.dtype, shape, contiguous_strides(shape))
        for index, operand in enumerate(self.region.inputs):
            if operand.value is value:
                pointer = self.writer.input_pointer(index)
                return Memory(pointer, operand.dtype, operand.shape, operand.strides)
        raise TacticError(f"%{value.name} is no operand of the region", where=self.region.name)
