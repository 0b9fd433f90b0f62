"""The rows of an AMX block after its products: what a waiting block is, and finishing one row.

A block's accumulators lie in a buffer of `slots` rows. The structure @NAME@_block says where they
belong; @NAME@_row finishes one slot: it finds the output position, skips rows that are none or that
a neighbouring tile did, and runs the epilogue over the row's columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from planish.backends.cpu.codegen.amx_plan import LANES, TILE_ROWS, Lines
from planish.backends.cpu.codegen.epilogue import Access
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

    def finish(self, block: str, next_slot: str, last: int | str) -> str:
        """Return the statement that finishes the slots of a waiting block up to `last`."""
        return (
            f"for (; {next_slot} < {last}; {next_slot}++) "
            f"@NAME@_row({block}, {next_slot}, d, rows);"
        )

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
            "    /* by tile: position of the first row; rows that a neighbour did */\n"
            f"    int64_t first[{self.tiles}], skip[{self.tiles}];\n"
            "    int64_t next, vectors, count; /* next slot, vectors and columns of the panel */\n"
            f"    {sums}acc;\n{bias}{''.join(accesses)}"
            "} @NAME@_block;\n"
        )

    def print_row(self) -> str:
        """Return the function that finishes one row of a block."""
        height, lines = self.height, self.lines
        # divided as unsigned 32-bit numbers, which is cheaper: a plane has fewer positions
        body = [f"const int64_t i = (uint32_t)slot / {height}u, r = (uint32_t)slot % {height}u;"]
        limit = " || r >= rows" if lines.rows is None else ""
        body.append(f"if (r < q->skip[i]{limit}) return;")
        if lines.pitch:
            body.append("const uint32_t position = (uint32_t)(q->first[i] + r);")
            body.append(f"const int64_t y = position / {lines.pitch}u;")
            body.append(f"const int64_t x = position % {lines.pitch}u;")
            if lines.width != lines.pitch:
                body.append(f"if (x >= {lines.width}) return;")
        else:
            body.append("const int64_t x = q->first[i] + r;")
        sums = f"const {self.problem.kind.sum_ctype} *"
        body.append(f"{sums}const acc = q->acc + slot * {self.width};")
        for index, access in enumerate(self.problem.epilogue.accesses, start=1):
            body.append(
                f"{const_of(access)}{access.ctype} *const {access.name} = q->{access.name}"
                f"{self._row_offset(index)};"
            )
        if self.problem.epilogue.form == "scalar":
            body += self._scalar_row()
        else:
            body += self._vector_row()
        head = (
            "PLANISH_INLINE void @NAME@_row(const @NAME@_block *q, int64_t slot, "
            "const int64_t *d, int64_t rows)"
        )
        return f"{head} {{\n{print_block(body)}}}\n"

    def _row_offset(self, access: int) -> str:
        y, x = self.problem.y, self.problem.x
        text = ""
        if self.lines.pitch and y is not None and y.strides[access] != 0:
            text += f" + y * {self._dim(y.strides[access])}"
        if x.strides[access] != 0:
            text += f" + x * {self._dim(x.strides[access])}"
        return text

    def _vector_row(self) -> list[str]:
        body = []
        for index, vectors in enumerate(self.widths):
            if len(self.widths) > 1:
                body.append(f"if (q->vectors == {vectors}) {{" if index == 0 else "} else {")
            for vector in range(vectors):
                last = vector == vectors - 1
                part = f"(int)(q->count - {vector * LANES})"
                pointers = [
                    access.name
                    + (f" + {vector * LANES}" if vector and self._column_step(access) == 1 else "")
                    for access in self.problem.epilogue.accesses
                ]
                arguments = [
                    self._accumulator(vector),
                    part if last and (self.columns.remainder != LANES) else str(LANES),
                    "d",
                    *pointers,
                ]
                body.append(f"@NAME@_finish({', '.join(arguments)});")
        return [*body, "}"] if len(self.widths) > 1 else body

    def _scalar_row(self) -> list[str]:
        v, ctype = self.sums, self.problem.kind.sum_ctype
        names = [access.name for access in self.problem.epilogue.accesses]
        body = [f"{ctype} sums[{self.width}] __attribute__((aligned(64)));"]
        for vector in range(self.columns.vectors):
            guard = "" if vector == 0 else f"if (q->vectors > {vector}) "
            offset = vector * LANES
            body.append(f"{guard}{v}_store(sums + {offset}, {self._accumulator(vector)});")
        return [*body, f"@NAME@_finish({', '.join(['sums', 'q->count', 'd', *names])});"]

    def _accumulator(self, vector: int) -> str:
        """Return the C expression of one finished sum."""
        v, offset = self.sums, vector * LANES
        bias = f" + {v}_load(q->bias + {offset})" if self.has_bias else ""
        return f"{v}_load(acc + {offset}){bias}"

    def _column_step(self, access: Access) -> Dim:
        return access.strides[self.problem.epilogue.column_axis]

    def print_waiting(self, interleave: bool) -> list[str]:
        """Return the statements that note a block whose accumulators were stored."""
        body = [
            f"q->{name}[{i}] = {name}{i};" for i in range(self.tiles) for name in ("first", "skip")
        ]
        body.append("q->next = 0; q->vectors = vectors; q->count = count; q->acc = acc;")
        if self.has_bias:
            body.append("q->bias = bias;")
        for access in self.problem.epilogue.accesses:
            step = self._column_step(access)
            moved = "" if step == 0 else f" + column * {self._dim(step)}"
            body.append(f"q->{access.name} = item_{access.name}{moved};")
        return body if interleave else [*body, self.finish("q", "q->next", self.slots)]

    def _dim(self, dim: Dim) -> str:
        return c_dim(dim, self.problem.symbols)
