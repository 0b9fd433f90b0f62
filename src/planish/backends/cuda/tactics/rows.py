"""Reductions, softmax and normalization: one or a few rows a block, in registers.

A row holds the reduced axes, as they lie; statistics are float32, in two passes over registers
(mean, then squared differences), so memory is read once and written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, ceildiv, evaluate, product
from planish.tactics.tactic import YES, Config, Operand, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

LONGEST = 32768  # elements of a row that a block keeps in registers
REDUCTIONS = {
    "ReduceSum": ("tl.sum({x}, axis=1)", "0.0", "{r}"),
    "ReduceMean": ("tl.sum({x}, axis=1)", "0.0", "{r} / {n}"),
    "ReduceMax": ("tl.max({x}, axis=1)", 'float("-inf")', "{r}"),
    "ReduceMin": ("tl.min({x}, axis=1)", 'float("inf")', "{r}"),
    "ReduceL2": ("tl.sum({x} * {x}, axis=1)", "0.0", "tl.sqrt({r})"),
    "ReduceL1": ("tl.sum(tl.abs({x}), axis=1)", "0.0", "{r}"),
    "ReduceSumSquare": ("tl.sum({x} * {x}, axis=1)", "0.0", "{r}"),
    "GlobalAveragePool": ("tl.sum({x}, axis=1)", "0.0", "{r} / {n}"),
    "GlobalMaxPool": ("tl.max({x}, axis=1)", 'float("-inf")', "{r}"),
}
KINDS = frozenset(REDUCTIONS) | {"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"}


@dataclass(frozen=True)
class Rows:
    """Axes of the anchor's input: those of a row, and the others."""

    anchor: Node
    data: Value
    row: tuple[int, ...]
    other: tuple[int, ...]


def read_rows(region: Region) -> Rows | str:
    """Return the rows of a region, or why the tactic cannot do it."""
    anchor = region.anchor
    if anchor is None or anchor.op not in KINDS:
        return "it reduces no rows"
    data = anchor.present_inputs[0]
    if not data.dtype.is_float:
        return "it is not of floats"
    rank = data.rank
    axes = _axes(anchor, rank)
    if axes is None:
        return "the axes are not constants"
    if len(anchor.outputs) > 1:
        return "it has several outputs"
    row = tuple(axis for axis in range(rank) if axis in axes)
    return Rows(anchor, data, row, tuple(axis for axis in range(rank) if axis not in axes))


def _axes(anchor: Node, rank: int) -> set[int] | None:
    if anchor.op.startswith("Global"):
        return set(range(2, rank))
    if anchor.op in ("Softmax", "LogSoftmax"):
        return {int(anchor.attributes.get("axis", -1)) % rank}
    if anchor.op.endswith("Normalization"):
        return set(range(int(anchor.attributes.get("axis", -1)) % rank, rank))
    given = anchor.input(1)
    if given is None:
        return set(range(rank))
    if given.constant is None:
        return None
    return {int(axis) % rank for axis in given.array.reshape(-1)}


class RowKernels(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_rows"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept rows that fit the registers of a block."""
        found = read_rows(region)
        if isinstance(found, str):
            return no(found)
        shape = found.data.known_shape
        length = Printer(region).largest(product(shape[axis] for axis in found.row))
        if length > LONGEST:
            return no(f"a row of {length} elements exceeds the registers")
        reason = unprintable(region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return rows of a block by warps."""
        found = read_rows(region)
        if isinstance(found, str):
            return []
        printer = Printer(region)
        shape = found.data.known_shape
        length = printer.largest(product(shape[axis] for axis in found.row))
        width = _power_of_two(length)
        outer = printer.tune_size(product(shape[axis] for axis in found.other))
        configs = []
        for rows in (1, 2, 4, 8, 16, 32, 64):
            if rows * width <= 16384 and rows <= max(outer // 64, 1):
                warps = max(1, min(16, rows * width // 512))
                configs.append({"rows": rows, "warps": warps})
        return sorted(configs, key=lambda c: abs(c["rows"] * width - 2048)) or [
            {"rows": 1, "warps": 16}
        ]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_rows(region)
        if isinstance(found, str):
            raise ValueError(found)
        return _Writer(region, found, config).kernel()


class _Writer:
    """Prints one kernel of rows."""

    def __init__(self, region: Region, found: Rows, config: Config) -> None:
        self.region, self.found = region, found
        self.printer = Printer(region)
        self.rows, self.warps = int(config["rows"]), int(config["warps"])
        self.shape: Shape = found.data.known_shape
        self.length = product(self.shape[axis] for axis in found.row)
        self.count = product(self.shape[axis] for axis in found.other)
        self.width = _power_of_two(self.printer.largest(self.length))

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        printer, found = self.printer, self.found
        whole = isinstance(self.count, int) and self.count % self.rows == 0
        row_mask = None if whole else f"(rows < {printer.dim(self.count)})[:, None]"
        full = isinstance(self.length, int) and self.length == self.width
        inner_mask = None if full else f"(inner < {printer.dim(self.length)})[None, :]"
        order_other = self._order(found.other)
        order_row = self._order(found.row)
        groups = [
            Group(order_other, "rows[:, None]", row_mask),
            Group(order_row, "inner[None, :]", inner_mask),
        ]
        lines = [
            f"rows = tl.program_id(0) * {self.rows} + tl.arange(0, {self.rows})",
            f"inner = tl.arange(0, {self.width})",
        ]
        statements, names = printer.pointwise([found.data], self.shape, groups, {})
        lines += statements
        shaped = f"{names[found.data]} + tl.zeros(({self.rows}, {self.width}), tl.float32)"
        lines.append(f"data = {shaped}")
        if found.anchor.op in REDUCTIONS:
            lines += self._reduction(inner_mask)
            space = found.anchor.output.known_shape
            outer = self._kept_group(space, order_other)
            mask = None if whole else f"(rows < {printer.dim(self.count)})"
            groups = [Group(outer, "rows", mask)]
        else:
            lines += self._elementwise(inner_mask, groups, names)
            space = self.shape
        values = [operand.value for operand in self.region.outputs]
        statements, names = printer.pointwise(values, space, groups, {found.anchor.output: "total"})
        lines += statements
        lines += [
            printer.store(printer.output(i), space, groups, names[v]) for i, v in enumerate(values)
        ]
        return printer.kernel(lines, (ceildiv(self.count, self.rows),), warps=self.warps)

    def _reduction(self, mask: str | None) -> list[str]:
        combine, neutral, finish = REDUCTIONS[self.found.anchor.op]
        lines = [f"data = tl.where({mask}, data, {neutral})"] if mask else []
        lines.append(f"total = {combine.format(x='data')}")
        lines.append(f"total = {finish.format(r='total', n=self.printer.dim(self.length))}")
        return lines

    def _elementwise(
        self, mask: str | None, groups: list[Group], names: dict[Value, str]
    ) -> list[str]:
        anchor, printer = self.found.anchor, self.printer
        if anchor.op in ("Softmax", "LogSoftmax"):
            lines = [f'data = tl.where({mask}, data, float("-inf"))'] if mask else []
            lines += ["data = data - tl.max(data, axis=1)[:, None]"]
            if anchor.op == "LogSoftmax":
                return [*lines, "total = data - tl.log(tl.sum(tl.exp(data), axis=1))[:, None]"]
            return [
                *lines,
                "total = tl.exp(data)",
                "total = total / tl.sum(total, axis=1)[:, None]",
            ]
        count = printer.dim(self.length)
        epsilon = repr(float(anchor.attributes.get("epsilon", 1e-5)))
        lines = [f"data = tl.where({mask}, data, 0.0)"] if mask else []
        if anchor.op == "LayerNormalization":
            lines.append(f"data = data - (tl.sum(data, axis=1) / {count})[:, None]")
            lines += [f"data = tl.where({mask}, data, 0.0)"] if mask else []
        lines.append(f"spread = tl.sum(data * data, axis=1) / {count} + {epsilon}")
        lines.append("total = data * tl.rsqrt(spread)[:, None]")
        for value, operator in zip(anchor.inputs[1:], ("*", "+"), strict=False):
            if value is None:
                continue
            statements, known = printer.pointwise([value], self.shape, groups, names)
            lines += [*statements, f"total = total {operator} {known[value]}"]
        return lines

    def _order(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Return axes in the order in which the largest operand lies, outermost first."""
        operand = max(self.region.inputs, key=lambda o: self._size(product(o.shape)))
        return _memory_order(operand, axes, self)

    def _kept_group(self, space: Shape, other: tuple[int, ...]) -> tuple[int, ...]:
        """Return `other` as axes of the reduction's result."""
        if len(space) == len(self.shape):
            return other
        kept = {axis: position for position, axis in enumerate(sorted(self.found.other))}
        return tuple(kept[axis] for axis in other)

    def _size(self, dim: Dim) -> int:
        return evaluate(dim, {name: bounds[1] for name, bounds in self.region.ranges.items()})


def _memory_order(operand: Operand, axes: tuple[int, ...], writer: _Writer) -> tuple[int, ...]:
    if len(operand.strides) != len(writer.shape):
        return axes
    steps = {axis: writer._size(operand.strides[axis]) for axis in axes}
    wide = {axis: writer._size(operand.shape[axis]) != 1 for axis in axes}
    return tuple(sorted(axes, key=lambda axis: (wide[axis], -steps[axis], axis)))


def _power_of_two(length: int) -> int:
    return 1 << max(length - 1, 0).bit_length()
