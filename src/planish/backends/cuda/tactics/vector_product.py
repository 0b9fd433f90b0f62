"""Products of one row, or a few, with constant weights: nothing for tensor cores, all latency.

    y[r, n] = sum over k of x[r, k] * w[n, k]

A block has its columns' weights in registers before the kernel ahead has ended: no kernel writes
constants. What is left behind the wait is one read of x, the sums, and the epilogue. This is what
squeeze-and-excite and the last layer of a network are at batch 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Memory, Printer, unprintable
from planish.backends.cuda.codegen.product_tile import print_epilogue
from planish.backends.cuda.tactics.convolution import read_convolution
from planish.backends.cuda.tactics.matmul import read_product
from planish.ir.graph import Node, Value
from planish.ir.shape import product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]
MOST_ROWS = 4
REGISTERS = 64  # weights that a thread holds


@dataclass(frozen=True)
class VectorProduct:
    """A product of few rows; `axis` is that of K in `data` and of columns in the result."""

    anchor: Node
    data: Value
    weights: Array  # [columns, k]
    axis: int
    rows: int

    @property
    def width(self) -> int:
        """The depth, rounded up to a power of two."""
        return 1 << (int(self.weights.shape[1]) - 1).bit_length()


def read_vector_product(region: Region) -> VectorProduct | str:
    """Return the region's product, or why the tactic cannot do it."""
    anchor = region.anchor
    if anchor is not None and anchor.op == "Conv":
        return _of_convolution(region)
    found = read_product(region)
    if isinstance(found, str):
        return found
    if found.weights is None or found.element.stored.is_integer:
        return "the weights are not constant floats"
    axis = found.left.rank - 1
    data = found.left
    while data.producer is not None:
        data = data.producer.present_inputs[0]
    return _checked(found.anchor, data, found.weights, axis)


def _of_convolution(region: Region) -> VectorProduct | str:
    found = read_convolution(region)
    if isinstance(found, str):
        return found
    extents = (*found.data.known_shape[2:], *found.anchor.output.known_shape[2:])
    if any(extent != 1 for extent in (*extents, *found.window.kernel, found.group)):
        return "it has several pixels"
    if found.gate is not None or found.element.stored.is_integer:
        return "it is no product of floats alone"
    weights = found.weight.reshape(found.weight.shape[:2])
    return _checked(found.anchor, found.data, weights, 1)


def _checked(anchor: Node, data: Value, weights: Array, axis: int) -> VectorProduct | str:
    rows = product(extent for a, extent in enumerate(data.known_shape) if a != axis)
    if not isinstance(rows, int) or rows > MOST_ROWS:
        return "it has many rows"
    if anchor.output.known_shape[axis] != weights.shape[0]:
        return "its result has other axes"
    return VectorProduct(anchor, data, weights, axis, rows)


class RowProduct(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_row_product"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept few rows whose depth fits the registers of a block."""
        found = read_vector_product(region)
        if isinstance(found, str):
            return no(found)
        if not self.configs(region, target):
            return no("its depth exceeds the registers of a block")
        reason = unprintable(region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return columns and warps of a block, those first that fill the GPU once."""
        found = read_vector_product(region)
        if isinstance(found, str):
            return []
        columns = len(found.weights)
        fitting = [
            {"columns": n, "warps": warps}
            for n in (1, 2, 4, 8, 16, 32)
            for warps in (1, 2, 4, 8)
            if 4 <= n * found.width // (32 * warps) <= REGISTERS
        ]

        def cost(config: Config) -> float:
            blocks = -(-columns // int(config["columns"]))
            held = int(config["columns"]) * found.width / (32 * int(config["warps"]))
            return max(1.0, blocks / (2 * target.multiprocessors)) * (200.0 + 4.0 * held)

        return sorted(fitting, key=cost)

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_vector_product(region)
        if isinstance(found, str):
            raise ValueError(found)
        printer = Printer(region)
        columns, depth = found.weights.shape
        block = int(config["columns"])
        weights = Memory(
            printer.pack(np.ascontiguousarray(found.weights)),
            found.anchor.present_inputs[1].dtype, (columns, depth), (depth, 1),
        )  # fmt: skip
        present = None if columns % block == 0 else f"(columns < {columns})"
        deep = None if depth == found.width else f"(k < {depth})"
        wide = [
            Group((0,), "columns[:, None]", present and f"{present}[:, None]"),
            Group((1,), "k[None, :]", deep and f"{deep}[None, :]"),
        ]
        early = [
            f"columns = tl.program_id(0) * {block} + tl.arange(0, {block})",
            f"k = tl.arange(0, {found.width})",
            printer.load(weights, weights.shape, wide, "w"),
        ]
        lines: list[str] = []
        data, shape = printer.memory_of(found.data), found.anchor.output.known_shape
        others = tuple(axis for axis in range(len(shape)) if axis != found.axis)
        for row in range(found.rows):
            groups = [Group(others, str(row)), Group((found.axis,), "k", deep)]
            lines.append(printer.load(data, found.data.known_shape, groups, "x"))
            lines.append("total = tl.sum(w * x[None, :], axis=1)")
            groups = [Group(others, str(row)), Group((found.axis,), "columns", present)]
            first = early if row == 0 else []
            lines += print_epilogue(printer, region, found.anchor.output, shape, groups, first)
        grid = (-(-columns // block),)
        return printer.kernel(lines, grid, warps=int(config["warps"]), early=early)
