"""Programs over rows of any axes, length and type: chunks of a few rows, walked several times.

A block owns some rows and walks along them in chunks: a *pass* reads the data again and combines it
into accumulators (one for every place in the chunk, folded at the end), a final pass may write
elements. Rows that fit into registers have a faster kernel (tactics/rows.py); this one takes
whatever is left. Bound by memory: once from DRAM, later passes mostly from L2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planish.backends.cuda.codegen.printer import Group, Printer, indent
from planish.backends.cuda.codegen.triton_types import compute_type
from planish.ir.dtypes import DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, ceildiv, evaluate, product
from planish.tactics.tactic import Config, Region, TritonKernel

LONGEST_CHUNK = 1024
ROWS, ROWS_MASK = "rows[:, None]", "row_mask[:, None]"
INNER, INNER_MASK = "inner[None, :]", "inner_mask[None, :]"


@dataclass(frozen=True)
class Fold:
    """An accumulator: its type, where it starts, and how elements and places are combined.

    `combine` has the fields {a} and {b}; `reduce` folds a tile {x} along its second axis.
    """

    dtype: DType
    neutral: str
    combine: str
    reduce: str


def sum_of(dtype: DType) -> Fold:
    """Return a running sum."""
    return Fold(dtype, "0", "{a} + {b}", "tl.sum({x}, axis=1)")


class RowProgram:
    """What the functions that describe an operator receive.

    Attributes
    ----------
    rows, chunk : int
        Extents of a tile.
    at : list of str
        Coordinates of the tile's elements in the data.
    """

    def __init__(self, region: Region, node: Node, config: Config) -> None:
        self.region, self.node = region, node
        self.printer = Printer(region)
        self.rows, self.warps = int(config["rows"]), int(config["warps"])
        self.chunk = int(config["chunk"])
        self.at: list[str] = []
        self.shape: Shape = ()
        self.length: Dim = 1
        self.count: Dim = 1
        self.lines: list[str] = []
        self.row_mask: str | None = None
        self._inside: list[str] = []  # what is said in the pass under way
        self._in_pass = False

    def say(self, line: str) -> None:
        """Add a statement, to the pass under way where there is one."""
        (self._inside if self._in_pass else self.lines).append(line)

    def let(self, stem: str, expression: str) -> str:
        """Add the definition of a new name and return the name."""
        name = self.printer.fresh(stem)
        self.say(f"{name} = {expression}")
        return name

    def dim(self, dim: Dim) -> str:
        """Return an extent as text."""
        return self.printer.dim(dim)

    def tile(self, value: str, kind: str) -> str:
        """Return a tile of one number of a Triton type."""
        return f"tl.full(({self.rows}, {self.chunk}), {value}, {kind})"

    # -- the rows --------------------------------------------------------------------------------

    def walk(self, shape: Shape, row: Sequence[int]) -> None:
        """Let rows hold the axes `row` of data of a shape; their other axes number the rows."""
        other = [axis for axis in range(len(shape)) if axis not in row]
        self.shape = shape
        self.length = product(shape[axis] for axis in row)
        self.count = product(shape[axis] for axis in other)
        self.row_axes, self.other_axes = tuple(row), tuple(other)
        self.say(f"rows = tl.program_id(0) * {self.rows} + tl.arange(0, {self.rows})")
        self.say(f"row_mask = rows < {self.dim(self.count)}")
        self.places = dict(zip(other, self.split("rows", [shape[a] for a in other]), strict=True))

    def split(self, name: str, extents: Sequence[Dim]) -> list[str]:
        """Return the coordinates along axes of a row-major position."""
        found = []
        inner: Dim = 1
        for extent in reversed(extents):
            text = name if inner == 1 else f"({name} // {self.dim(inner)})"
            inner = inner * extent
            found.append(self.let("i", f"{text} % {self.dim(extent)}"))
        return found[::-1]

    def _begin(self) -> None:
        """Start a pass: the coordinates of a chunk."""
        self._inside, self._in_pass = [], True
        self.say(f"inner = start + tl.arange(0, {self.chunk})")
        self.say(f"inner_mask = inner < {self.dim(self.length)}")
        self.say("inside = row_mask[:, None] & inner_mask[None, :]")
        names = self.split("inner", [self.shape[axis] for axis in self.row_axes])
        at = {axis: f"{name}[:, None]" for axis, name in self.places.items()}
        at |= {a: f"{name}[None, :]" for a, name in zip(self.row_axes, names, strict=True)}
        self.at = self.coordinates(at)

    def coordinates(self, at: dict[int, str]) -> list[str]:
        """Return the coordinates in the data, of those along the axes that were walked."""
        return [at[axis] for axis in range(len(self.shape))]

    def _end(self) -> None:
        self._in_pass = False
        self.lines.append(f"for start in range(0, {self.dim(self.length)}, {self.chunk}):")
        self.lines += indent(self._inside)

    def groups(self, at: Sequence[str] | None = None) -> list[Group]:
        """Return the chunk's place at coordinates, those in the data by default."""
        groups = [Group((), ROWS, ROWS_MASK), Group((), INNER, INNER_MASK)]
        for axis, place in enumerate(self.at if at is None else at):
            mask = "inside"  # of coordinates that are whole tiles
            if place.endswith("]"):
                mask = ROWS_MASK if place.endswith("[:, None]") else INNER_MASK
            groups.append(Group((axis,), place, mask))
        return groups

    def read(
        self, value: Value, at: Sequence[str] | None = None, space: Shape | None = None
    ) -> str:
        """Return the name of a chunk of `value`, 0 where there is none; it may broadcast."""
        shape = value.known_shape if space is None else space
        lines, names = self.printer.pointwise([value], shape, self.groups(at), {})
        for line in lines:
            self.say(line)
        return names[value]

    # -- passes ----------------------------------------------------------------------------------

    def fold(self, *folds: tuple[Fold, Callable[[], str]]) -> list[str]:
        """Walk along the rows once; return the names of the folded elements, a vector each."""
        totals = []
        for fold, _ in folds:
            totals.append(self.let("total", self.tile(fold.neutral, compute_type(fold.dtype))))
        self._begin()
        for total, (fold, element) in zip(totals, folds, strict=True):
            kind = compute_type(fold.dtype)
            here = f"tl.where(inside, ({element()}).to({kind}), {fold.neutral})"
            self.say(f"{total} = ({fold.combine.format(a=total, b=here)}).to({kind})")
        self._end()
        return [
            self.let("folded", fold.reduce.format(x=total))
            for total, (fold, _) in zip(totals, folds, strict=True)
        ]

    def visit(self, write: Callable[[], None]) -> None:
        """Walk along the rows; `write` prints what happens to a chunk."""
        self._begin()
        write()
        self._end()

    def store_chunk(self, given: dict[Value, str], only: Sequence[int] | None = None) -> None:
        """Write the region's outputs (all, or some) that have the data's shape, epilogue included.

        `given` holds tiles of the anchor's outputs.
        """
        chosen = range(len(self.region.outputs)) if only is None else only
        values = [self.region.outputs[index].value for index in chosen]
        space = self.node.outputs[0].known_shape
        lines, names = self.printer.pointwise(values, space, self.groups(), given)
        for line in lines:
            self.say(line)
        for index, value in zip(chosen, values, strict=True):
            memory = self.printer.output(index)
            self.say(self.printer.store(memory, space, self.groups(), names[value]))

    def store_rows(self, given: dict[Value, str], only: Sequence[int] | None = None) -> None:
        """Write the region's outputs (all, or some) that have one element a row."""
        chosen = range(len(self.region.outputs)) if only is None else only
        values = [self.region.outputs[index].value for index in chosen]
        space = values[0].known_shape
        keeps = len(space) == len(self.shape)
        axes = self.other_axes if keeps else tuple(range(len(self.other_axes)))
        places = [self.places[axis] for axis in self.other_axes]
        groups = [
            Group((axis,), place, "row_mask") for axis, place in zip(axes, places, strict=True)
        ]
        groups = groups or [Group((), "rows", "row_mask")]
        lines, names = self.printer.pointwise(values, space, groups, given)
        for line in lines:
            self.say(line)
        for index, value in zip(chosen, values, strict=True):
            self.say(self.printer.store(self.printer.output(index), space, groups, names[value]))

    def kernel(self) -> TritonKernel:
        """Return the kernel of what was said."""
        return self.printer.kernel(self.lines, (ceildiv(self.count, self.rows),), warps=self.warps)


def row_configs(region: Region, length: Dim, count: Dim) -> list[Config]:
    """Return tile sizes for rows of a length."""
    sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
    chunk = min(1 << max(evaluate(length, sizes) - 1, 0).bit_length(), LONGEST_CHUNK)
    chunk = max(chunk, 2)
    many = max(evaluate(count, sizes) // 264, 1)
    rows = min(max(LONGEST_CHUNK // chunk, 1), 1 << (many.bit_length() - 1))
    warps = max(1, min(8, rows * chunk // 128))
    found: list[Config] = [{"rows": rows, "chunk": chunk, "warps": warps}]
    if rows > 1:
        found.append({"rows": 1, "chunk": chunk, "warps": max(1, chunk // 128)})
    return found
