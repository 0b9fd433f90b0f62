"""The rows of an AMX block after its products: what a waiting block is, and finishing its rows.

A block's accumulators lie in a buffer of `slots` rows. The structure @NAME@_block says where they
belong; @NAME@_rows finishes one *unit* of it, one to four rows of a tile: it finds their output
positions and runs the epilogue over their columns. Results of bytes are narrowed four vectors at a
time, so a unit has as many rows as make whole fours. A row that is none, or that a neighbouring
tile did, is skipped; in a unit with others it is computed and stored to spare memory, and one
behind the tile's last is that last row once more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from planish.backends.cpu.codegen.amx_plan import LANES, TILE_ROWS, Lines
from planish.backends.cpu.codegen.epilogue import (
    Access,
    print_finish,
    print_number,
    stored_zero,
)
from planish.backends.cpu.codegen.gemm_problem import Problem
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.scalar import c_dim
from planish.backends.cpu.codegen.tile import print_block
from planish.ir.shape import Dim


def const_of(access: Access) -> str:
    """Return "const " for the pointer of an access that is read."""
    return "" if access.name.startswith("o") else "const "


@dataclass(frozen=True)
class BlockRows:
    """The buffer of a block and the printing of what finishes its rows.

    Attributes
    ----------
    problem : Problem
    lines : Lines
    columns : Columns
    tiles : int
        Tiles of a block in rows.
    """

    problem: Problem
    lines: Lines
    columns: Columns
    tiles: int

    @property
    def height(self) -> int:
        """Rows that a tile takes in the buffer."""
        return self.lines.rows or TILE_ROWS

    @property
    def slots(self) -> int:
        """Rows of the buffer."""
        return self.tiles * self.height

    @property
    def width(self) -> int:
        """Columns of the buffer."""
        return self.columns.vectors * LANES

    @property
    def widths(self) -> list[int]:
        """Vectors of panels, the largest first."""
        wide = [self.columns.vectors] if self.columns.wide else []
        return wide + ([self.columns.vectors - 1] if self.columns.narrow else [])

    @property
    def sums(self) -> str:
        """C type of a register of accumulators, and the stem of its functions."""
        return self.problem.kind.sum_vector(self.problem.unit.prefix)

    @property
    def has_bias(self) -> bool:
        """Whether sums start from a bias (it is added here: tiles start from zero)."""
        return self.problem.bias_pointer is not None

    @property
    def group(self) -> int:
        """Rows of a unit."""
        if not self.problem.epilogue.stores_numbers:
            return 1
        if self.widths == [1]:
            return 4
        return 2 if any(vectors % 4 in (2, 3) for vectors in self.widths) else 1

    @property
    def linear(self) -> bool:
        """Whether the rows of a block are neighbours in the plane, across its tiles."""
        lines = self.lines
        if lines.rows is None or not isinstance(lines.extent, int):
            return False
        return self.slots <= lines.extent if lines.lines == 1 else self._has_whole_lines

    @property
    def _has_whole_lines(self) -> bool:
        """Whether tiles cover lines, and blocks the plane, without a rest."""
        lines = self.lines
        if lines.rows is None or not isinstance(lines.tiles, int):
            return False
        return lines.parts * lines.rows == lines.extent and lines.tiles % self.tiles == 0

    @property
    def pieces(self) -> int:
        """Parts of a block whose rows are neighbours."""
        return 1 if self.linear else self.tiles

    @property
    def piece_units(self) -> int:
        """Units of a piece."""
        return -(-self.slots // self.pieces // self.group)

    @property
    def units(self) -> int:
        """Units of a block."""
        return self.pieces * self.piece_units

    @property
    def overlaps(self) -> bool:
        """Whether a piece may have rows that its neighbour did."""
        lines = self.lines
        if not self.linear or lines.lines > 1 or not isinstance(lines.extent, int):
            return not self.linear
        return lines.extent % self.slots != 0

    @property
    def spare_bytes(self) -> int:
        """Bytes of the memory for rows that are none."""
        needed = self.group > 1 and (not self.linear or self._has_gaps)
        return 64 * -(-self.width // 64) if needed else 0

    @property
    def _is_pitched(self) -> bool:
        """Whether lines and positions on them have to be told apart."""
        y, x, pitch = self.problem.y, self.problem.x, self.lines.pitch
        if not pitch or y is None:
            return bool(pitch)
        even = zip(y.strides[1:], x.strides[1:], strict=True)
        return self._has_gaps or any(line != step * pitch for line, step in even)

    @property
    def _has_gaps(self) -> bool:
        """Whether some positions of a line are no output."""
        return self.lines.pitch not in (0, self.lines.width)

    def finish(self, block: str, next_unit: str, last: int | str) -> str:
        """Return the statement that finishes the units of a waiting block up to `last`."""
        return (
            f"for (; {next_unit} < {last}; {next_unit}++) "
            f"@NAME@_rows({block}, {next_unit}, d, rows);"
        )

    def print_epilogue(self) -> str:
        """Return the function of one vector, or of several where no more is needed."""
        epilogue, unit = self.problem.epilogue, self.problem.unit
        if epilogue.stores_numbers:
            return print_number(epilogue, unit.lanes)
        return print_finish(epilogue, unit.lanes, self.problem.symbols)

    def print_state(self) -> str:
        """Return the structure of a block whose rows still have to be finished."""
        accesses = [
            f"    {const_of(access)}{access.ctype} *{access.name};\n"
            for access in self.problem.epilogue.accesses
        ]
        sums = f"const {self.problem.kind.sum_ctype} *"
        bias = f"    {sums}bias;\n" if self.has_bias else ""
        return (
            "typedef struct @NAME@_block {\n"
            "    /* by piece: position of the first row; rows that a neighbour did */\n"
            f"    int64_t first[{self.pieces}], skip[{self.pieces}];\n"
            "    int64_t next, vectors, count; /* next unit, vectors and columns of the panel */\n"
            f"    {sums}acc;\n{bias}{''.join(accesses)}{self._spare('*spare')}"
            "} @NAME@_block;\n"
        )

    def print_rows(self) -> str:
        """Return the function that finishes one unit of a block."""
        units, group = self.piece_units, self.group
        body = ["const int64_t i = 0;", f"const int64_t s = unit * {group};"]
        if not self.linear:
            # divided as unsigned 32-bit numbers, which is cheaper: a plane has fewer positions
            body = [f"const int64_t i = (uint32_t)unit / {units}u;"]
            body.append(f"const int64_t s = (uint32_t)unit % {units}u * {group};")
        limit = "s >= rows || " if self.lines.rows is None else ""
        if self.overlaps:
            body.append(f"if ({limit}s + {group - 1} < q->skip[i]) return;")
        for row in range(group):
            body += self._place(row)
        if not self.problem.epilogue.stores_numbers:
            form = self.problem.epilogue.form
            body += self._scalar_row() if form == "scalar" else self._by_width(self._finished)
        else:
            body += self._by_width(self._numbers)
        head = (
            "PLANISH_INLINE void @NAME@_rows(const @NAME@_block *q, int64_t unit, "
            "const int64_t *d, int64_t rows)"
        )
        return f"{head} {{\n{print_block(body)}}}\n"

    def _place(self, row: int) -> list[str]:
        """Return the statements that find where a row of a unit is."""
        lines, r, alone = self.lines, f"r{row}", self.group == 1
        body, wanted = [self._slot(row)], []
        if not alone and not self.linear:
            wanted.append(f"{r} >= q->skip[i]")
        position, y = f"q->first[i] + {r}", ""
        if self._is_pitched:
            body.append(f"const uint32_t p{row} = (uint32_t)({position});")
            y, position = f"p{row} / {lines.pitch}u", f"p{row} % {lines.pitch}u"
            body.append(f"const int64_t y{row} = {y};")
        fixed = "const " * (alone or not self._is_pitched)
        body.append(f"{fixed}int64_t x{row} = {position};")
        if self._has_gaps:
            wanted.append(f"x{row} < {lines.width}")
        if alone:
            body += [f"if (!({condition})) return;" for condition in wanted]
        elif wanted:
            body.append(f"const int ok{row} = {' && '.join(wanted)};")
            body += [f"if (!ok{row}) x{row} = 0;"] if self._is_pitched else []
        sums = f"const {self.problem.kind.sum_ctype} *"
        slot = r if self.linear else f"i * {self.height} + {r}"
        body.append(f"{sums}const acc{row} = q->acc + ({slot}) * {self.width};")
        for index, access in enumerate(self.problem.epilogue.accesses, start=1):
            place = f"q->{access.name}{self._row_offset(index, row)}"
            if not alone and wanted and access.name.startswith("o"):
                place = f"ok{row} ? {place} : q->spare"
            body.append(f"{const_of(access)}{access.ctype} *const {access.name}_{row} = {place};")
        return body

    def _slot(self, row: int) -> str:
        """Return the statement that finds a row of a unit in its piece."""
        size = self.slots // self.pieces
        ends = self.lines.rows is None or size % self.group != 0
        last = "rows - 1" if self.lines.rows is None else str(size - 1)
        place = f"planish_min_i64(s + {row}, {last})" if row and ends else f"s + {row}"
        if self.linear and self.overlaps and self.group > 1:
            place = f"planish_max_i64({place}, q->skip[i])"
        return f"const int64_t r{row} = {place};"

    def _row_offset(self, access: int, row: int) -> str:
        y, x = self.problem.y, self.problem.x
        text = ""
        if self._is_pitched and y is not None and y.strides[access] != 0:
            text += f" + y{row} * {self._dim(y.strides[access])}"
        if x.strides[access] != 0:
            text += f" + x{row} * {self._dim(x.strides[access])}"
        return text

    def _by_width(self, print_width: Callable[[int], list[str]]) -> list[str]:
        """Return the statements for every width that panels have."""
        body = []
        for index, vectors in enumerate(self.widths):
            if len(self.widths) > 1:
                body.append(f"if (q->vectors == {vectors}) {{" if index == 0 else "} else {")
            body += print_width(vectors)
        return [*body, "}"] if len(self.widths) > 1 else body

    def _finished(self, vectors: int) -> list[str]:
        """Return the calls that finish and store a row vector by vector."""
        body = []
        for vector in range(vectors):
            pointers = [self._at(access, vector, 0) for access in self.problem.epilogue.accesses]
            part = self._part(vector, vectors)
            arguments = [self._accumulator(vector, 0), part, "d", *pointers]
            body.append(f"@NAME@_finish({', '.join(arguments)});")
        return body

    def _numbers(self, vectors: int) -> list[str]:
        """Return the statements that compute the numbers of a unit and store them as bytes."""
        reads = [access for _, access in self.problem.epilogue.reads]
        ((_, output),) = self.problem.epilogue.writes
        v, zero = self.problem.unit.prefix, stored_zero(self.problem.epilogue)
        body = []
        for row, vector in itertools.product(range(self.group), range(vectors)):
            arguments = [self._accumulator(vector, row), self._part(vector, vectors), "d"]
            arguments += [self._at(access, vector, row) for access in reads]
            body.append(f"const {v} n{row}_{vector} = @NAME@_number({', '.join(arguments)});")
        for first, size, rows in self._stores(vectors):
            numbers = [f"n{row}_{first + k}" for row in rows for k in range(size)]
            places = [self._at(output, first, row) for row in rows]
            name = f"{v}_quantize_{f'{size}x{len(rows)}_' if len(numbers) == 4 else ''}"
            last = first + size == vectors and self.columns.remainder != LANES
            bytes_ = f"(int)(q->count - {first * LANES})" if last else str(size * LANES)
            given = [*places, *numbers, str(zero), bytes_]
            suffix = output.dtype.name
            if len(numbers) == 1:
                suffix += "_part" if last else ""
                given = given if last else given[:-1]
            body.append(f"{name}{suffix}({', '.join(given)});")
        return body

    def _stores(self, vectors: int) -> list[tuple[int, int, tuple[int, ...]]]:
        """Return (first vector, vectors, rows) of every store: of four vectors where possible."""
        rows = tuple(range(self.group))
        if self.group == 4:
            return [(0, 1, rows)]
        left = vectors - vectors % 4
        found: list[tuple[int, int, tuple[int, ...]]] = []
        found += [(first, 4, (row,)) for first in range(0, left, 4) for row in rows]
        if vectors - left >= 2 and self.group == 2:
            found.append((left, 2, rows))
            left += 2
        found += [(vector, 1, (row,)) for vector in range(left, vectors) for row in rows]
        return found

    def _at(self, access: Access, vector: int, row: int) -> str:
        """Return the pointer of an access at a vector of a row."""
        moves = vector and self._column_step(access) == 1
        return f"{access.name}_{row}" + (f" + {vector * LANES}" if moves else "")

    def _part(self, vector: int, vectors: int) -> str:
        """Return how many lanes of a vector are columns."""
        if vector < vectors - 1 or self.columns.remainder == LANES:
            return str(LANES)
        return f"(int)(q->count - {vector * LANES})"

    def _scalar_row(self) -> list[str]:
        v, ctype = self.sums, self.problem.kind.sum_ctype
        names = [f"{access.name}_0" for access in self.problem.epilogue.accesses]
        body = [f"{ctype} sums[{self.width}] __attribute__((aligned(64)));"]
        for vector in range(self.columns.vectors):
            guard = "" if vector == 0 else f"if (q->vectors > {vector}) "
            offset = vector * LANES
            body.append(f"{guard}{v}_store(sums + {offset}, {self._accumulator(vector, 0)});")
        return [*body, f"@NAME@_finish({', '.join(['sums', 'q->count', 'd', *names])});"]

    def _accumulator(self, vector: int, row: int) -> str:
        """Return the C expression of one finished sum."""
        v, offset = self.sums, vector * LANES
        bias = f" + {v}_load(q->bias + {offset})" if self.has_bias else ""
        return f"{v}_load(acc{row} + {offset}){bias}"

    def _spare(self, name: str) -> str:
        """Return the declaration of `name`, the memory of rows that are none, if there is any."""
        if not self.spare_bytes:
            return ""
        ((_, output),) = self.problem.epilogue.writes
        return f"    {output.ctype} {name};\n"

    def print_start(self) -> list[str]:
        """Return the declarations of the waiting block, of which nothing is left to be done."""
        body = ["@NAME@_block waiting, *const q = &waiting;", f"q->next = {self.units};"]
        if not self.spare_bytes:
            return body
        return [self._spare(f"spare[{self.spare_bytes}]").strip(), *body, "q->spare = spare;"]

    def _column_step(self, access: Access) -> Dim:
        return access.strides[self.problem.epilogue.column_axis]

    def print_waiting(self, interleave: bool) -> list[str]:
        """Return the statements that note a block whose accumulators were stored."""
        body = [
            f"q->{name}[{i}] = {name}{i};" for i in range(self.pieces) for name in ("first", "skip")
        ]
        body.append("q->next = 0; q->vectors = vectors; q->count = count; q->acc = acc;")
        if self.has_bias:
            body.append("q->bias = bias;")
        for access in self.problem.epilogue.accesses:
            step = self._column_step(access)
            moved = "" if step == 0 else f" + column * {self._dim(step)}"
            body.append(f"q->{access.name} = item_{access.name}{moved};")
        return body if interleave else [*body, self.finish("q", "q->next", self.units)]

    def _dim(self, dim: Dim) -> str:
        return c_dim(dim, self.problem.symbols)
