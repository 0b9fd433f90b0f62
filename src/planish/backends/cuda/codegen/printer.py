"""Printing one Triton kernel: pointers, packed constants, addresses, and pointwise statements.

A kernel works on tiles of an index space, the region's output. A `Group` says which axes of the
space one vector of the tile walks through ("rows" over batch and pixels, "columns" over channels),
so that addresses are printed as row * stride where the operand's strides allow it, and through
coordinates where they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from planish.backends.cuda.codegen.expressions import EXPRESSIONS, supported
from planish.backends.cuda.codegen.triton_types import (
    ELEMENTS,
    POINTERS,
    compute_type,
    literal,
    print_dim,
)
from planish.errors import TacticError
from planish.ir.dtypes import BOOL, DType, dtype_of
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, evaluate, product
from planish.tactics.tactic import Region, TritonKernel

Array = np.ndarray[Any, Any]
WIDE_SPAN = 1 << 31  # operands of more elements are addressed with 64 bits


@dataclass(frozen=True)
class Group:
    """Axes of an index space that one vector of a tile walks through.

    Attributes
    ----------
    axes : tuple of int
        Of the space, outermost first; the vector counts their positions in row-major order.
    text : str
        The vector, shaped to broadcast within the tile (``rows[:, None]``).
    mask : str or None
        Which positions exist, shaped likewise; None for all.
    """

    axes: tuple[int, ...]
    text: str
    mask: str | None = None


@dataclass(frozen=True)
class Memory:
    """A pointer with the extents and strides (in elements) of what lies there."""

    pointer: str
    dtype: DType
    shape: Shape
    strides: Shape


class Printer:
    """Collects what a kernel needs while it is printed."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self._packed: list[Array] = []
        self._constants: dict[Value, Memory] = {}
        self._fresh = 0

    # -- names -----------------------------------------------------------------------------------

    def fresh(self, stem: str = "t") -> str:
        """Return an identifier that this kernel has not used."""
        self._fresh += 1
        return f"{stem}{self._fresh}"

    def dim(self, dim: Dim) -> str:
        """Return an extent as text."""
        return print_dim(dim, self.region.symbols)

    def tune_size(self, dim: Dim) -> int:
        """Return an extent at the shapes to tune for."""
        return evaluate(dim, {name: bounds[1] for name, bounds in self.region.ranges.items()})

    def largest(self, dim: Dim) -> int:
        """Return the largest extent that the profile allows."""
        return evaluate(dim, {name: bounds[2] for name, bounds in self.region.ranges.items()})

    def pack(self, array: Array) -> str:
        """Add a packed constant and return its pointer."""
        self._packed.append(np.ascontiguousarray(array))
        return f"w{len(self._packed) - 1}"

    def input(self, index: int) -> Memory:
        """Return where region input `index` lies."""
        operand = self.region.inputs[index]
        return Memory(f"x{index}", operand.dtype, operand.shape, operand.strides)

    def output(self, index: int) -> Memory:
        """Return where region output `index` lies."""
        operand = self.region.outputs[index]
        return Memory(f"y{index}", operand.dtype, operand.shape, operand.strides)

    def memory_of(self, value: Value) -> Memory:
        """Return where a body input, output or constant lies; constants are packed."""
        for index, operand in enumerate(self.region.inputs):
            if operand.value is value:
                return self.input(index)
        if value.constant is None:
            raise TacticError(f"%{value.name} is no operand of the region", where=self.region.name)
        if value not in self._constants:
            self._constants[value] = self.packed(value.array)
        return self._constants[value]

    def packed(self, array: Array) -> Memory:
        """Pack `array` and return where it lies."""
        shape = tuple(int(extent) for extent in array.shape)
        return Memory(self.pack(array), dtype_of(array), shape, row_major(shape))

    # -- addresses -------------------------------------------------------------------------------

    def address(
        self, memory: Memory, space: Shape, groups: Sequence[Group], whole: bool = False
    ) -> tuple[str, str]:
        """Return pointer text and mask text ("" for none) of `memory` broadcast to `space`.

        With `whole`, the pointers have the tile's full shape, also along axes of extent 1.
        """
        shift = len(space) - len(memory.shape)
        wide = self.is_wide(memory)
        terms, masks = [memory.pointer], []
        for group in groups:
            text = f"{group.text}.to(tl.int64)" if wide else group.text
            steps = self._group_terms(memory, space, group.axes, text, shift)
            if not steps and not whole:
                continue  # one element for the whole group
            terms += steps or [f"{group.text} * 0"]
            masks += [group.mask] if group.mask else []
        return " + ".join(terms), " & ".join(dict.fromkeys(masks))

    def load(self, memory: Memory, space: Shape, groups: Sequence[Group], name: str) -> str:
        """Return the statement that reads `memory` into `name` in its compute type."""
        pointer, mask = self.address(memory, space, groups)
        zero = "0.0" if memory.dtype.is_float else "0"
        rest = f", mask={mask}, other={zero}" if mask else ""
        text = f"tl.load({pointer}{rest})"
        if memory.dtype is BOOL:
            return f"{name} = {text} != 0"
        if ELEMENTS[memory.dtype] != compute_type(memory.dtype):
            text += f".to({compute_type(memory.dtype)})"
        return f"{name} = {text}"

    def store(self, memory: Memory, space: Shape, groups: Sequence[Group], text: str) -> str:
        """Return the statement that writes `text` (compute type) to `memory`."""
        pointer, mask = self.address(memory, space, groups, whole=True)
        rest = f", mask={mask}" if mask else ""
        return f"tl.store({pointer}, ({text}).to({ELEMENTS[memory.dtype]}){rest})"

    def _group_terms(
        self, memory: Memory, space: Shape, axes: Sequence[int], text: str, shift: int
    ) -> list[str]:
        """Return the summands of one group: one product where the strides nest."""
        strides = [
            0 if axis < shift or memory.shape[axis - shift] == 1 else memory.strides[axis - shift]
            for axis in axes
        ]
        extents = [space[axis] for axis in axes]
        merged = _merge(extents, strides)
        terms, inner = [], product(())
        for extent, stride in reversed(merged):
            position = text if inner == 1 else f"({text} // {self.dim(inner)})"
            if (extent, stride) != merged[0]:
                position = f"({position} % {self.dim(extent)})"
            inner = inner * extent
            if stride != 0:
                terms.append(position if stride == 1 else f"{position} * {self.dim(stride)}")
        return terms

    def is_wide(self, memory: Memory) -> bool:
        """Whether 32 bits are too few for the positions of all elements."""
        pairs = zip(memory.shape, memory.strides, strict=True)
        span = sum((self.largest(n) - 1) * abs(self.largest(s)) for n, s in pairs)
        return span >= WIDE_SPAN

    # -- pointwise -------------------------------------------------------------------------------

    def pointwise(
        self,
        values: Iterable[Value],
        space: Shape,
        groups: Sequence[Group],
        given: Mapping[Value, str],
        early: list[str] | None = None,
        ahead: list[str] | None = None,
    ) -> tuple[list[str], dict[Value, str]]:
        """Return statements that compute `values` on a tile of `space`, and all values' names.

        Packed constants are read in `early` where that is given, operands of bytes in `ahead`.
        """
        wanted = list(values)
        nodes = nodes_behind(self.region, wanted, given)
        lines: list[str] = []
        names = dict(given)
        for node in nodes:
            arguments = [self._argument(node, v, i, space, groups, names, lines, early, ahead)
                         for i, v in enumerate(node.inputs)]  # fmt: skip
            name = self.fresh("v")
            lines.append(f"{name} = {EXPRESSIONS[node.op](node, arguments)}")
            names[node.output] = name
        for value in wanted:
            if value not in names:
                self._bind(value, space, groups, names, lines)
        return lines, names

    def _argument(
        self, node: Node, value: Value | None, position: int, space: Shape,
        groups: Sequence[Group], names: dict[Value, str], lines: list[str],
        early: list[str] | None, ahead: list[str] | None,
    ) -> str | None:  # fmt: skip
        if value is None:
            return None
        if value not in names:
            if value.constant is not None and value.array.size > 1:
                memory = self.packed(aligned(node, position, value))
                name = self.fresh("c")
                place = lines if early is None else early
                place.append(self.load(memory, space, groups, name))
                return name
            is_byte = ahead is not None and value.dtype.itemsize == 1
            place = ahead if is_byte and ahead is not None else lines
            self._bind(value, space, groups, names, place)
        return names[value]

    def _bind(
        self, value: Value, space: Shape, groups: Sequence[Group], names: dict[Value, str],
        lines: list[str],
    ) -> None:  # fmt: skip
        if value.constant is not None and value.array.size == 1:
            names[value] = f"({literal(value.array.reshape(-1)[0], value.dtype)})"
            return
        name = self.fresh("a")
        lines.append(self.load(self.memory_of(value), space, groups, name))
        names[value] = name

    # -- the whole -------------------------------------------------------------------------------

    def kernel(
        self, lines: Iterable[str], grid: Sequence[Dim], *, warps: int = 4, stages: int = 2,
        workspace_bytes: int = 0, counters: int = 0, early: Iterable[str] = (),
    ) -> TritonKernel:  # fmt: skip
        """Return the kernel whose body is `lines`, behind `early`, which reads constants only."""
        region = self.region
        operands = (*region.inputs, *region.outputs)
        parameters = [
            *(f"x{i}" for i in range(len(region.inputs))),
            *(f"y{i}" for i in range(len(region.outputs))),
            *(f"w{i}" for i in range(len(self._packed))),
        ]
        types = [POINTERS[operand.dtype] for operand in operands]
        types += [POINTERS[dtype_of(array)] for array in self._packed]
        if workspace_bytes or counters:
            parameters += ["workspace", "counters"]
            types += ["*fp32", "*i32"]
        parameters += [f"s{i}" for i in range(len(region.symbols))]
        header = f"@triton.jit\ndef @NAME@({', '.join(parameters)}):"
        body = ["planish_begin()", *early, "planish_wait()", *lines]
        source = "\n".join([header, *indent(body), ""])
        known = [operand.aligned for operand in operands]
        known += [True] * (len(types) - len(operands))
        return TritonKernel(
            source=source, pointers=tuple(types),
            aligned=tuple(known),
            grid=tuple(grid), warps=warps, stages=stages, packed=tuple(self._packed),
            workspace_bytes=workspace_bytes, counters=counters,
        )  # fmt: skip


def load_text(pointer: str, masks: Sequence[str], other: str = "0") -> str:
    """Return a load that gives `other` where a mask says no."""
    if not masks:
        return f"tl.load({pointer})"
    mask = " & ".join(masks)
    if other.startswith("-"):
        return f"planish_load({pointer}, {mask}, {other})"
    return f"tl.load({pointer}, mask={mask}, other={other})"


def nodes_behind(region: Region, values: Sequence[Value], given: Mapping[Value, str]) -> list[Node]:
    """Return the nodes of the body that `values` need and `given` does not have, in order."""
    seen: set[Node] = set()
    pending = [value for value in values if value not in given]
    while pending:
        producer = pending.pop().producer
        if producer is None or producer in seen:
            continue
        seen.add(producer)
        pending += [value for value in producer.present_inputs if value not in given]
    return [node for node in region.body if node in seen]


def unprintable(region: Region, without: Node | None = None) -> str | None:
    """Return why the pointwise nodes or operands of `region` cannot be printed, or None."""
    for operand in (*region.inputs, *region.outputs):
        if operand.dtype not in POINTERS:
            return f"elements of type {operand.dtype} have no Triton type"
    for node in region.body:
        reason = None if node is without else supported(node)
        if reason is not None:
            return reason
    return None


def aligned(node: Node, position: int, value: Value) -> Array:
    """Return a constant operand shaped to broadcast with the node's output."""
    array = value.array
    if position == 0 or array.ndim != 1 or node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return array
    rank = node.output.rank
    axis = int(node.attributes.get("axis", 1)) % max(rank, 1)
    return array.reshape(-1, *(1,) * (rank - axis - 1))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def indent(lines: Iterable[str], by: int = 1) -> list[str]:
    """Return `lines` one level deeper."""
    return [f"{'    ' * by}{line}" for line in lines]


def _merge(extents: Sequence[Dim], strides: Sequence[Dim]) -> list[tuple[Dim, Dim]]:
    """Return (extent, stride) pairs, neighbours joined where the outer one continues the inner."""
    merged: list[tuple[Dim, Dim]] = []
    for extent, stride in zip(extents, strides, strict=True):
        if extent == 1 and len(extents) > 1:
            continue
        if merged and merged[-1][1] == stride * extent:
            merged[-1] = (merged[-1][0] * extent, stride)
        else:
            merged.append((extent, stride))
    return merged or [(1, 0)]
