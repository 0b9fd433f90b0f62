"""Matrix products on tensor cores, batched where the operands are.

    y[b, m, n] = sum over k of x[b, m, k] * w[b, k, n]

A constant right operand is packed [n][k]; one that is computed is read where it lies, whichever
of its axes is contiguous. Leading axes of the left operand join its rows when the right one has
none. Large products are bound by arithmetic, small ones by latency: K is split there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cuda.codegen.printer import Group, Memory, Printer, indent, unprintable
from planish.backends.cuda.codegen.product_element import ProductElement, integer_element
from planish.backends.cuda.codegen.product_tile import (
    ProductTile,
    masked_load,
    print_dot,
    print_epilogue,
)
from planish.backends.cuda.codegen.tile_choice import tile_configs
from planish.ir.dtypes import BF16, F16, F32
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, product
from planish.tactics.integer_form import integer_form
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

Array = np.ndarray[Any, Any]
FLOATS = (F16, BF16, F32)


@dataclass(frozen=True)
class Product:
    """What a matrix product region computes.

    `batch` are the axes of the result over which the right operand varies; the other leading axes
    are rows. `region` is the one that it was read from, in its integer form where bytes are
    multiplied; `weights` is a constant right operand, [n, k].
    """

    region: Region
    element: ProductElement
    anchor: Node
    left: Value
    right: Value
    transposed: bool  # the right operand is [n, k]
    batch: int
    weights: Array | None = None


def read_product(region: Region) -> Product | str:
    """Return the region's product, or why the tactic here cannot do it."""
    lowered = integer_form(region, masked=True)
    anchor = region.anchor if lowered is None else lowered.anchor
    if anchor is None or anchor.op not in ("MatMul", "Gemm", "MatMulInteger"):
        return "it is no matrix product"
    attributes = anchor.attributes
    if anchor.op == "Gemm" and (attributes.get("transA") or attributes.get("alpha", 1.0) != 1.0):
        return "it is a Gemm of another form"
    if anchor.op == "Gemm" and anchor.input(2) is not None:
        return "it is a Gemm with an added matrix"
    left, right = anchor.present_inputs[:2]
    if left.constant is not None or left.rank < 2 or right.rank < 2:
        return "an operand is a vector or the left one a constant"
    for value in (left, right):
        if value.producer is not None and any(node.op != "Cast" for node in _chain(value)):
            return "pointwise nodes are fused before it"
    is_known = lowered is not None or left.dtype in FLOATS
    if not is_known or not isinstance(anchor.output.known_shape[-1], int):
        return f"products of {left.dtype} are not printed"
    if not isinstance(left.known_shape[-1], int):
        return "the depth is symbolic"
    batch = max(right.rank - 2, 0)
    if right.constant is not None and batch and product(right.known_shape[:-2]) != 1:
        return "it has a batch of constants"
    if batch and all(extent == 1 for extent in right.known_shape[:-2]):
        batch = 0
    transposed = bool(attributes.get("transB", 0))
    element, weights = ProductElement(_stored(left).dtype, left.dtype), None
    if lowered is not None:
        element, weights = integer_element(region, lowered)
    elif right.constant is not None:
        weights = right.array
    if weights is not None:
        weights = weights.reshape(weights.shape[-2:])
        weights = weights if transposed else weights.T
    return Product(lowered or region, element, anchor, left, right, transposed, batch, weights)


def _stored(value: Value) -> Value:
    """Return what a chain of Casts starts from."""
    while value.producer is not None:
        value = value.producer.present_inputs[0]
    return value


def _chain(value: Value) -> list[Node]:
    nodes = []
    while value.producer is not None:
        nodes.append(value.producer)
        value = value.producer.present_inputs[0]
    return nodes


class MatrixProduct(Tactic):
    """MatMul and Gemm through tensor cores; see the module's docstring."""

    name: ClassVar[str] = "triton_matmul"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept products of floats with a static depth and width."""
        found = read_product(region)
        if isinstance(found, str):
            return no(found)
        reason = unprintable(found.region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return tile sizes, splits and pipeline depths."""
        found = read_product(region)
        if isinstance(found, str):
            return []
        printer = Printer(region)
        shape = found.anchor.output.known_shape
        leading = len(shape) - 1 if not found.batch else 1
        rows = printer.tune_size(product(shape[len(shape) - 1 - leading : -1]))
        batches = printer.tune_size(product(shape[: len(shape) - 1 - leading]))
        depth = printer.tune_size(found.left.known_shape[-1])
        itemsize = found.element.multiplied.itemsize
        columns = printer.tune_size(shape[-1])
        multiprocessors = max(target.multiprocessors // max(batches, 1), 1)
        return tile_configs(rows, columns, depth, itemsize, multiprocessors)

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel of one configuration."""
        found = read_product(region)
        if isinstance(found, str):
            raise ValueError(found)
        return _Writer(found, config).kernel()


class _Writer:
    """Prints one product kernel."""

    def __init__(self, found: Product, config: Config) -> None:
        self.region, self.found, self.config = found.region, found, config
        self.element = found.element
        self.printer = Printer(self.region)
        self.shape: Shape = found.anchor.output.known_shape
        rank = len(self.shape)
        self.batch_axes = tuple(range(rank - 2)) if found.batch else ()
        self.row_axes = (rank - 2,) if found.batch else tuple(range(rank - 1))
        rows = product(self.shape[axis] for axis in self.row_axes)
        self.tile = ProductTile(rows, int(str(self.shape[-1])), config, self.element.sums)
        self.depth = int(str(found.left.known_shape[-1]))
        self.k = int(config["k"])

    @property
    def batches(self) -> Dim:
        """Products in the batch."""
        return product(self.shape[axis] for axis in self.batch_axes)

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        printer, tile = self.printer, self.tile
        groups = tile.groups(printer, self.row_axes, (len(self.shape) - 1,))
        if self.batch_axes:
            groups.insert(0, Group(self.batch_axes, "batch"))
        m, n = int(self.config["m"]), int(self.config["n"])
        lines = ["batch = tl.program_id(2)", *tile.header(printer), *self._bases()]
        lines += [f"total = tl.zeros(({m}, {n}), {self.element.sums})", *self._loop()]
        anchor, weights = self.found.anchor.output, self.found.weights
        epilogue = print_epilogue(printer, self.region, anchor, self.shape, groups)
        if weights is not None:
            epilogue = [*self.element.settled(printer, weights, self.shape, groups), *epilogue]
        lines += tile.finish(printer, epilogue, "batch")
        workspace, counters = tile.workspace(printer, self.batches)
        return printer.kernel(
            lines, (tile.tiles, tile.split, self.batches), warps=int(self.config["warps"]),
            stages=int(self.config["stages"]), workspace_bytes=workspace, counters=counters,
        )  # fmt: skip

    def _bases(self) -> list[str]:
        """Addresses of each row of the left operand and each column of the right one."""
        printer, found = self.printer, self.found
        left = self._memory(found.left)
        rank = len(self.shape)
        space = (*self.shape[:-1], self.depth)
        groups = [Group(self.row_axes, "rows")]
        batch = [Group(self.batch_axes, "batch")] if self.batch_axes else []
        rows, _ = printer.address(_without_last(left), space[:-1], [*batch, *groups])
        self.left_step = printer.dim(tuple(left.strides)[-1])
        right = self._right()
        k_axis, n_axis = tuple(right.strides)[-2:]
        columns = [right.pointer]
        if batch:
            head = Memory("0", right.dtype, right.shape[:-2], right.strides[:-2])
            text, _ = printer.address(head, space[: rank - 2], batch)
            columns.append(text)
        columns.append(f"columns * {printer.dim(n_axis)}")
        self.right_step = printer.dim(k_axis)
        self.right_dtype = right.dtype
        # one row, or rows that share an operand, have no stride: the pointers are a vector still
        return [f"x_rows = {rows} + rows * 0", f"w_columns = {' + '.join(columns)}"]

    def _memory(self, value: Value) -> Memory:
        return self.printer.memory_of(_stored(value))

    def _right(self) -> Memory:
        """Return the right operand as [..., k, n] with its strides; constants are packed."""
        found = self.found
        if found.weights is not None:
            packed = found.weights
            vector = 16 // packed.itemsize
            width = -(-self.depth // vector) * vector
            padded = np.zeros((packed.shape[0], width), packed.dtype)
            padded[:, : self.depth] = packed
            pointer = self.printer.pack(padded)
            shape: Shape = (self.depth, int(packed.shape[0]))
            return Memory(pointer, self.element.multiplied, shape, (1, width))
        memory = self._memory(found.right)
        if not found.transposed:
            return memory
        shape, strides = _swapped(memory.shape), _swapped(memory.strides)
        return Memory(memory.pointer, memory.dtype, shape, strides)

    def _loop(self) -> list[str]:
        """Return the K loop."""
        dtype = self.element.multiplied
        row_mask, column_mask = self.tile.masks(self.printer)
        deep = [] if self.depth % self.k == 0 else [f"(k < {self.depth})"]
        x_mask = [f"{row_mask}[:, None]"] if row_mask else []
        x_mask += [f"{mask}[None, :]" for mask in deep]
        w_mask = [f"{mask}[:, None]" for mask in deep]
        w_mask += [f"{column_mask}[None, :]"] if column_mask else []
        first, last = self.tile.steps(-(-self.depth // self.k))
        nothing = self.element.nothing
        left = f"x_rows[:, None] + (k * {self.left_step})[None, :]"
        right = f"w_columns[None, :] + (k * {self.right_step})[:, None]"
        inner = [
            f"k = step * {self.k} + tl.arange(0, {self.k})",
            masked_load("a", left, x_mask, nothing),
            masked_load("b", right, w_mask, nothing),
        ]
        inner += self.element.converted("a")
        inner += ProductElement(self.right_dtype, dtype).converted("b")
        inner.append(print_dot(dtype))
        return [f"for step in range({first}, {last}):", *indent(inner)]


def _swapped(pair: Shape) -> Shape:
    return (*pair[:-2], pair[-1], pair[-2])


def _without_last(memory: Memory) -> Memory:
    return Memory(memory.pointer, memory.dtype, memory.shape[:-1], memory.strides[:-1])
