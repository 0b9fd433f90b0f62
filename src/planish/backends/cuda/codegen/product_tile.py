"""The tile around a matrix product: which block does what, split K, and the epilogue.

Blocks walk the tiles of the result in groups of rows, so that neighbours in time share columns of
one operand and rows of the other in the L2 cache. With `split` > 1 several blocks share one tile's
K loop: each leaves its partial sums in the workspace, and the last to arrive (told by an atomic
counter, which it sets back to zero) adds them up and runs the epilogue: no second launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.backends.cuda.codegen.printer import Group, Printer, indent, load_text
from planish.ir.dtypes import F32, I8, DType
from planish.ir.graph import Value
from planish.ir.shape import Dim, Shape, ceildiv
from planish.tactics.tactic import Config, Region

WIDE = 128  # columns of a tile
ROW_GROUP = 8  # tiles of rows that are walked before the next column of tiles


@dataclass(frozen=True)
class ProductTile:
    """Extents of a product and the tile sizes of one configuration.

    Attributes
    ----------
    rows, columns : Dim
        Extents of the result.
    config : dict
        "m", "n", "k" (tile extents), "warps", "stages", "split".
    sums : str
        Triton's type of ``total``, 32 bits wide.
    """

    rows: Dim
    columns: int
    config: Config
    sums: str = "tl.float32"

    @property
    def split(self) -> int:
        """Blocks that share a tile."""
        return int(self.config.get("split", 1))

    @property
    def tiles(self) -> Dim:
        """Tiles of the result."""
        return ceildiv(self.rows, int(self.config["m"])) * ceildiv(
            self.columns, int(self.config["n"])
        )

    def header(self, printer: Printer) -> list[str]:
        """Return the statements that give the vectors ``rows`` and ``columns``."""
        m, n = int(self.config["m"]), int(self.config["n"])
        down = printer.dim(ceildiv(self.rows, m))
        across = printer.dim(ceildiv(self.columns, n))
        return [
            "tile = tl.program_id(0)",
            f"first = (tile // ({ROW_GROUP} * {across})) * {ROW_GROUP}",
            f"height = min({down} - first, {ROW_GROUP})",
            f"inside = tile % ({ROW_GROUP} * {across})",
            f"rows = (first + inside % height) * {m} + tl.arange(0, {m})",
            f"column = (inside // height) * {n}",
            f"columns = column + tl.arange(0, {n})",
        ]

    def masks(self, printer: Printer) -> tuple[str | None, str | None]:
        """Return the masks of ``rows`` and ``columns`` as vectors, None where all exist."""
        m, n = int(self.config["m"]), int(self.config["n"])
        whole_rows = isinstance(self.rows, int) and self.rows % m == 0
        rows = None if whole_rows else f"(rows < {printer.dim(self.rows)})"
        columns = None if self.columns % n == 0 else f"(columns < {self.columns})"
        return rows, columns

    def groups(
        self, printer: Printer, row_axes: tuple[int, ...], column_axes: tuple[int, ...]
    ) -> list[Group]:
        """Return the groups of the result's space that rows and columns walk through."""
        rows, columns = self.masks(printer)
        return [
            Group(row_axes, "rows[:, None]", None if rows is None else f"{rows}[:, None]"),
            Group(
                column_axes, "columns[None, :]", None if columns is None else f"{columns}[None, :]"
            ),
        ]

    def steps(self, count: int) -> tuple[str, str]:
        """Return first and last of the K steps that this block does."""
        if self.split == 1:
            return "0", str(count)
        share = -(-count // self.split)
        return f"tl.program_id(1) * {share}", f"min((tl.program_id(1) + 1) * {share}, {count})"

    def finish(self, printer: Printer, lines: Sequence[str], outer: str = "0") -> list[str]:
        """Return `lines`, which use ``total``, run once for every tile.

        `outer` is the number of the batch that the block works on; each has tiles of its own.
        """
        if self.split == 1:
            return list(lines)
        m, n = int(self.config["m"]), int(self.config["n"])
        number = f"({outer} * {printer.dim(self.tiles)} + tile)"
        sums = f"workspace.to(tl.pointer_type({self.sums}))"
        return [
            f"inner = tl.arange(0, {m})[:, None] * {n} + tl.arange(0, {n})[None, :]",
            f"partial = {sums} + {number} * {self.split * m * n} + inner",
            f"tl.store(partial + tl.program_id(1) * {m * n}, total)",
            "tl.debug_barrier()",
            f'arrived = tl.atomic_add(counters + {number}, 1, sem="acq_rel")',
            f"if arrived == {self.split - 1}:",
            *indent(
                [
                    f"total = tl.zeros(({m}, {n}), {self.sums})",
                    f"for part in range({self.split}):",
                    f'    total += tl.load(partial + part * {m * n}, cache_modifier=".cg")',
                    f"tl.store(counters + {number}, 0)",
                    *lines,
                ]
            ),
        ]

    def workspace(self, printer: Printer, outer: Dim = 1) -> tuple[int, int]:
        """Return the bytes of partial sums and the number of counters."""
        if self.split == 1:
            return 0, 0
        tiles = printer.largest(self.tiles * outer)
        size = int(self.config["m"]) * int(self.config["n"]) * 4
        return tiles * self.split * size, tiles


def masked_load(name: str, pointer: str, masks: Sequence[str], other: str = "0") -> str:
    """Return the statement that reads a tile of an operand, `other` where a mask says no."""
    return f"{name} = {load_text(pointer, masks, other)}"


def print_dot(dtype: DType) -> str:
    """Return the statement that adds the product of tiles ``a`` and ``b`` to ``total``."""
    how = {F32: ', input_precision="ieee"', I8: ", out_dtype=tl.int32"}.get(dtype, "")
    return f"total = tl.dot(a, b, total{how})"


def print_epilogue(
    printer: Printer, region: Region, anchor: Value, space: Shape, groups: Sequence[Group],
    early: list[str] | None = None, width: int = WIDE, ahead: list[str] | None = None,
) -> list[str]:  # fmt: skip
    """Return the statements from ``total``, a tile of `anchor`, to the region's outputs.

    A bias is read in `early` when that is given: before the kernel waits for others. So are other
    constants of a tile that is less than WIDE columns wide: registers hold them through the loop.
    Operands of bytes (a residual) are read in `ahead` where that is given.
    """
    values = [operand.value for operand in region.outputs]
    loads, biased = _bias(printer, anchor, space, groups)
    if early is not None:
        early += loads
        loads = []
    constants = early if width < WIDE else None
    lines, names = printer.pointwise(values, space, groups, {anchor: "total"}, constants, ahead)
    lines = [*loads, *biased, *lines]
    stores = [
        printer.store(printer.output(index), space, groups, names[value])
        for index, value in enumerate(values)
    ]
    return [*lines, *stores]


def _bias(
    printer: Printer, anchor: Value, space: Shape, groups: Sequence[Group]
) -> tuple[list[str], list[str]]:
    """Return the load and the addition of a convolution's own bias, one number a channel."""
    node = anchor.producer
    bias = node.input(2) if node is not None and node.op == "Conv" else None
    if bias is None:
        return [], []
    memory = printer.packed(bias.array.reshape(-1, *(1,) * (len(space) - 2)))
    return [printer.load(memory, space, groups, "bias")], ["total += bias"]
