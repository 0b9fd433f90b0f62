"""Row programs: reductions, softmax, normalizations - passes over rows with values per row.

An index space is split into *reduced* axes (a row) and *kept* axes (which row). A program is a list
of stages: an `ElementPass` visits every element of a row, may accumulate into row variables and
may store; a `RowStep` runs once a row, computes row variables and may store. Two forms exist:

- *row form*: the vectorised loop runs along a reduced axis, row variables are scalars. For memory
  that is contiguous along the row.
- *column form*: the vectorised loop runs along a block of a kept axis, row variables are small
  arrays. For memory that is contiguous across rows (statistics over the pixels of channels-last
  images), and for rows too short to fill a vector.

Passes that only accumulate are unrolled four times, with separate accumulators in row form, so
that additions do not wait for each other. A pass may save a value an element in a row buffer in
scratch memory, and later passes recall it: the row then is read from memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planish.backends.cpu.codegen.access import Access, print_load, print_store, prune_axes
from planish.backends.cpu.codegen.loops import decompose_names, merge_axes, split_items
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import (
    NARROW_LIMIT,
    Span,
    declare_strips,
    fill_strips,
    flush_strips,
    split_narrow,
    strip_loop,
    vector_loop,
)
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.shape import Dim, Shape, ceildiv, product

SHORT_ROW = 16  # rows with fewer elements than this are done side by side
COLUMN_BLOCK = 256  # columns of a block in column form
BUFFER_LIMIT = 1 << 18  # bytes of a row buffer; longer rows are read again
LONG_ROW = 512  # contiguous elements from which four accumulators pay
WAYS = 4


@dataclass(frozen=True)
class Accumulator:
    """A row variable that a pass updates; `operator` is "+", "*", "max" or "min"."""

    name: str
    ctype: str
    initial: str
    operator: str

    def update(self, name: str, expression: str) -> str:
        """Return the statement that takes in `expression`, accumulating in variable `name`."""
        if self.operator in ("+", "*"):
            return f"{name} {self.operator}= {expression};"
        sign = ">" if self.operator == "max" else "<"
        return f"{name} = ({expression}) {sign} {name} ? ({expression}) : {name};"

    def merge(self, names: Sequence[str]) -> str:
        """Return the statement that combines partial results into this variable."""
        return " ".join(self.update(self.name, name) for name in names)


@dataclass(frozen=True)
class ElementPass:
    """A visit to every element of a row; `saves` and `recalls` are (slot, C) of the row buffer."""

    loads: tuple[tuple[str, Access], ...] = ()
    statements: tuple[str, ...] = ()
    accumulate: tuple[tuple[Accumulator, str], ...] = ()
    stores: tuple[tuple[Access, str], ...] = ()
    saves: tuple[tuple[int, str], ...] = ()
    recalls: tuple[tuple[int, str], ...] = ()
    used: frozenset[int] = frozenset()

    @property
    def only_accumulates(self) -> bool:
        """Whether the order of visits is free and nothing is written."""
        return bool(self.accumulate) and not self.stores and not self.saves


@dataclass(frozen=True)
class RowStep:
    """What happens once a row; `defines` are new row variables (C type, name, expression)."""

    loads: tuple[tuple[str, Access], ...] = ()
    statements: tuple[str, ...] = ()
    defines: tuple[tuple[str, str, str], ...] = ()
    stores: tuple[tuple[Access, str], ...] = ()


Stage = ElementPass | RowStep


@dataclass(frozen=True)
class RowProgram:
    """Stages over an index space whose `reduced` axes form a row."""

    extents: Shape
    reduced: frozenset[int]
    stages: tuple[Stage, ...]
    buffer_type: str = "float"

    @property
    def slots(self) -> int:
        """Row buffers that the stages save to."""
        passes = [stage for stage in self.stages if isinstance(stage, ElementPass)]
        return 1 + max((slot for p in passes for slot, _ in p.saves), default=-1)


@dataclass(frozen=True)
class PrintedRows:
    """C of a row program: the loop over items, their number, scratch bytes."""

    lines: list[str]
    items: Dim
    scratch_bytes: int


def buffer_fits(writer: KernelWriter, extents: Shape, reduced: frozenset[int]) -> bool:
    """Whether a row of floats is small enough to be kept in scratch memory."""
    return 4 * writer.largest(product(extents[axis] for axis in reduced)) <= BUFFER_LIMIT


def print_rows(writer: KernelWriter, program: RowProgram, threads: int = 1) -> PrintedRows:
    """Return the C of a program; column or row form is decided by the first load's strides."""
    return _Printer(writer, program, threads).print()


@dataclass
class _Printer:
    writer: KernelWriter
    program: RowProgram
    threads: int
    kept: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    column: int | None = None
    width: int = 0
    variables: list[tuple[str, str]] = field(default_factory=list)

    def print(self) -> PrintedRows:
        self._arrange()
        self.column = self._column_axis()
        return self._print_rows() if self.column is None else self._print_columns(self.column)

    # -- arranging axes --------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Order and merge kept and reduced axes by the strides of the main operand."""
        program, writer = self.program, self.writer
        accesses = [access for stage in program.stages for access in _accesses(stage)]
        main = self._main(accesses)
        named = set()
        for stage in program.stages:
            named |= set(stage.used) if isinstance(stage, ElementPass) else set()
        for access in accesses:
            for term in access.terms:
                named |= term.axes
        axes = [axis for axis, extent in enumerate(program.extents) if extent != 1]
        axes.sort(key=lambda axis: (-abs(writer.size(main.strides[axis])), axis))
        extents = list(program.extents)
        kept = [axis for axis in axes if axis not in program.reduced]
        row = [axis for axis in axes if axis in program.reduced]
        self.kept = merge_axes(accesses, kept, extents, frozenset(named))
        self.row = merge_axes(accesses, row, extents, frozenset(named))
        gone = [axis for axis in range(len(extents)) if axis not in (*self.kept, *self.row)]
        stages = tuple(_pruned(stage, gone) for stage in program.stages)
        self.program = replace(program, extents=tuple(extents), stages=stages)
        self.unit = [axis for axis in gone if axis in named]

    def _main(self, accesses: Sequence[Access]) -> Access:
        """Return the access of the largest operand: the one with most moving axes."""
        return max(accesses, key=lambda a: sum(1 for stride in a.strides if stride != 0))

    def _column_axis(self) -> int | None:
        """Return the kept axis to vectorise over, or None for the row form."""
        if not self.kept:
            return None
        accesses = [a for stage in self.program.stages for a in _accesses(stage)]
        main = self._main(accesses)
        inner = self.kept[-1]
        if not self.row:
            return inner
        if main.strides[inner] == 1 and self._size(inner) >= 4:
            return inner
        length = 1
        for axis in self.row:
            length *= self._size(axis)
        return inner if length < SHORT_ROW <= self._size(inner) else None

    def _size(self, axis: int) -> int:
        return self.writer.size(self.program.extents[axis])

    def _loop(self, axis: int, start: str = "0") -> str:
        return f"for (int64_t i{axis} = {start}; i{axis} < {self._extent(axis)}; ++i{axis})"

    def _extent(self, axis: int) -> str:
        return self.writer.dim(self.program.extents[axis])

    # -- row form --------------------------------------------------------------------------------

    def _print_rows(self) -> PrintedRows:
        program, writer = self.program, self.writer
        length = 1
        for axis in self.row:
            length *= self._size(axis)
        split = split_items(writer, program.extents, self.kept, max(length, 1))
        lines = self._buffers(product(program.extents[axis] for axis in self.row))
        body: list[str] = []
        for stage in program.stages:
            if isinstance(stage, RowStep):
                body += self._row_step(stage)
            else:
                body += self._row_pass(stage)
        body = split.wrap(writer, program.extents, split.inside, body)
        body = [*self._unit_lines(), *body]
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        row_bytes = self._buffer_bytes(product(program.extents[a] for a in self.row))
        return PrintedRows(lines, split.items, row_bytes * program.slots)

    def _unit_lines(self) -> list[str]:
        return [f"const int64_t i{axis} = 0;" for axis in self.unit]

    def _buffers(self, elements: Dim) -> list[str]:
        size, ctype = self._buffer_bytes(elements), self.program.buffer_type
        return [
            f"{ctype} *restrict const row{slot} = ({ctype} *)(scratch + {slot * size});"
            for slot in range(self.program.slots)
        ]

    def _buffer_bytes(self, elements: Dim) -> int:
        if not self.program.slots:
            return 0
        itemsize = 8 if self.program.buffer_type in ("double", "int64_t") else 4
        return -(-self.writer.largest(elements) * itemsize // 64) * 64

    def _row_step(self, step: RowStep) -> list[str]:
        lines = _load_lines(self.writer, step.loads)
        lines += step.statements
        lines += [f"const {ctype} {name} = {text};" for ctype, name, text in step.defines]
        lines += [print_store(self.writer, access, text) for access, text in step.stores]
        return lines

    def _row_pass(self, stage: ElementPass) -> list[str]:
        lines = [f"{a.ctype} {a.name} = {a.initial};" for a, _ in stage.accumulate]
        if not self.row:
            return [*lines, *self._element(stage, "0", {})]
        inner = self.row[-1]
        if stage.only_accumulates and self._size(inner) >= LONG_ROW:
            loop = self._split_loop(stage, inner)
        else:
            loop = self._simd_loop(stage, inner)
        for axis in reversed(self.row[:-1]):
            loop = block(self._loop(axis), loop)
        return lines + loop

    def _simd_loop(self, stage: ElementPass, inner: int) -> list[str]:
        names = {a.name: a.name for a, _ in stage.accumulate}
        long = self._size(inner) >= NARROW_LIMIT
        stores, narrow = split_narrow(self.writer, stage.stores, inner if long else None)
        body = self._element(replace(stage, stores=stores), self._row_index(), names)
        body += fill_strips(narrow, inner)
        pragma = _simd([a for a, _ in stage.accumulate], [names])
        span = Span("0", self._extent(inner), self.program.extents[inner])
        return strip_loop(self.writer, narrow, inner, span, body, pragma)

    def _split_loop(self, stage: ElementPass, inner: int) -> list[str]:
        """Walk four quarters of the axis at once, each with its own accumulators."""
        ways = [{a.name: f"{a.name}_{k}" for a, _ in stage.accumulate} for k in range(WAYS)]
        quarter = self.writer.fresh("q")
        lines = [f"const int64_t {quarter} = {self._extent(inner)} / {WAYS};"]
        for names in ways:
            lines += [f"{a.ctype} {names[a.name]} = {a.initial};" for a, _ in stage.accumulate]
        body: list[str] = []
        for k, names in enumerate(ways):
            index = f"const int64_t i{inner} = at + {k} * {quarter};"
            body += block("", [index, *self._element(stage, self._row_index(), names)])
        header = f"for (int64_t at = 0; at < {quarter}; ++at)"
        lines += [_simd([a for a, _ in stage.accumulate], ways), *block(header, body)]
        own = {a.name: a.name for a, _ in stage.accumulate}
        tail = self._loop(inner, f"{WAYS} * {quarter}")
        lines += block(tail, self._element(stage, self._row_index(), own))
        for accumulator, _ in stage.accumulate:
            lines.append(accumulator.merge([names[accumulator.name] for names in ways]))
        return lines if len(self.row) == 1 else block("", lines)

    def _row_index(self) -> str:
        """Return the position of an element in its row (row form)."""
        step: Dim = 1
        parts = []
        for axis in reversed(self.row):
            parts.append(f"i{axis}" if step == 1 else f"i{axis} * {self.writer.dim(step)}")
            step = step * self.program.extents[axis]
        return " + ".join(reversed(parts)) or "0"

    def _element(self, stage: ElementPass, position: str, names: dict[str, str]) -> list[str]:
        """Return what a pass does at one element."""
        ctype = self.program.buffer_type
        lines = [f"const {ctype} {name} = row{slot}[{position}];" for slot, name in stage.recalls]
        lines += _load_lines(self.writer, stage.loads)
        lines += stage.statements
        lines += [f"row{slot}[{position}] = {text};" for slot, text in stage.saves]
        lines += [print_store(self.writer, access, text) for access, text in stage.stores]
        for accumulator, text in stage.accumulate:
            lines.append(accumulator.update(names.get(accumulator.name, accumulator.name), text))
        return lines

    # -- column form -----------------------------------------------------------------------------

    def _print_columns(self, column: int) -> PrintedRows:
        program, writer = self.program, self.writer
        outer = [axis for axis in self.kept if axis != column]
        self.width = self._column_width(column, outer)
        blocks = ceildiv(program.extents[column], self.width)
        names = [(f"i{axis}", program.extents[axis]) for axis in outer]
        names.append(("block", blocks))
        row_length = product(program.extents[axis] for axis in self.row)
        lines = self._buffers(row_length * self.width)
        body = [
            *self._unit_lines(),
            *decompose_names(writer, names),
            f"const int64_t low = block * {self.width};",
            f"const int64_t n = planish_min_i64({self.width}, {self._extent(column)} - low);",
        ]
        self.variables = []
        for stage in program.stages:
            if isinstance(stage, RowStep):
                body += self._column_step(stage, column)
            else:
                body += self._column_pass(stage, column)
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        items = product(extent for _, extent in names)
        scratch = self._buffer_bytes(row_length * self.width) * program.slots
        return PrintedRows(lines, items, scratch)

    def _column_width(self, column: int, outer: Sequence[int]) -> int:
        """Return the columns of a block: a few vectors, fewer where threads would starve."""
        extent = self.program.extents[column]
        width = COLUMN_BLOCK
        if isinstance(extent, int):
            width = min(width, -(-extent // 16) * 16)
        length, others = 1, 1
        for axis in self.row:
            length *= self.writer.largest(self.program.extents[axis])
        for axis in outer:
            others *= self._size(axis)
        while width > 16 and self.program.slots and length * width * 4 > BUFFER_LIMIT:
            width //= 2
        while width > 32 and others * -(-self._size(column) // width) < self.threads:
            width //= 2
        return max(16, width // 16 * 16)

    def _column_loop(self, column: int, body: list[str]) -> list[str]:
        body = [f"const int64_t i{column} = low + j;", *body]
        span = Span("0", "n", self.program.extents[column])
        return vector_loop(self.writer, "j", span, body, "#pragma GCC ivdep")

    def _fetch(self) -> list[str]:
        return [f"const {ctype} {name} = {name}_block[j];" for ctype, name in self.variables]

    def _column_step(self, step: RowStep, column: int) -> list[str]:
        lines = []
        for ctype, name, _ in step.defines:
            lines.append(f"{ctype} {name}_block[{self.width}] __attribute__((aligned(64)));")
        body = self._fetch() + _load_lines(self.writer, step.loads)
        body += step.statements
        for ctype, name, text in step.defines:
            body += [f"const {ctype} {name} = {text};", f"{name}_block[j] = {name};"]
        stores, narrow = split_narrow(self.writer, step.stores, column)
        body += [print_store(self.writer, access, text) for access, text in stores]
        body += fill_strips(narrow, column, "low")
        self.variables += [(ctype, name) for ctype, name, _ in step.defines]
        lines += [*declare_strips(narrow, self.width), *self._column_loop(column, body)]
        return lines + flush_strips(self.writer, narrow, column, "low", "n")

    def _column_pass(self, stage: ElementPass, column: int) -> list[str]:
        lines = []
        for a, _ in stage.accumulate:
            lines.append(f"{a.ctype} {a.name}_block[{self.width}] __attribute__((aligned(64)));")
            lines.append(f"for (int64_t j = 0; j < n; ++j) {a.name}_block[j] = {a.initial};")
        loop = self._column_body(stage, column, 1)
        if not self.row:
            self.variables += [(a.ctype, a.name) for a, _ in stage.accumulate]
            return lines + loop
        inner = self.row[-1]
        if stage.only_accumulates and self._size(inner) >= WAYS:
            head = self._column_body(stage, column, WAYS)
            start = self.writer.fresh("at")
            lines_inner = [
                f"int64_t {start} = 0;",
                *block(
                    f"for (; {start} + {WAYS} <= {self._extent(inner)}; {start} += {WAYS})",
                    [line.replace("AT", start) for line in head],
                ),
                *block(self._loop(inner, start), loop),
            ]
        else:
            lines_inner = block(self._loop(inner), loop)
        for axis in reversed(self.row[:-1]):
            lines_inner = block(self._loop(axis), lines_inner)
        self.variables += [(a.ctype, a.name) for a, _ in stage.accumulate]
        return lines + lines_inner

    def _column_body(self, stage: ElementPass, column: int, ways: int) -> list[str]:
        position = f"({self._row_index()}) * {self.width} + j"
        stores, narrow = split_narrow(self.writer, stage.stores, column)
        stage = replace(stage, stores=stores)
        body = self._fetch()
        body += [f"{a.ctype} {a.name} = {a.name}_block[j];" for a, _ in stage.accumulate]
        if ways == 1:
            body += self._element(stage, position, {})
        else:
            inner = self.row[-1]
            for k in range(ways):
                index = f"const int64_t i{inner} = AT + {k};"
                body += block("", [index, *self._element(stage, position, {})])
        body += [f"{a.name}_block[j] = {a.name};" for a, _ in stage.accumulate]
        body += fill_strips(narrow, column, "low")
        return [
            *declare_strips(narrow, self.width),
            *self._column_loop(column, body),
            *flush_strips(self.writer, narrow, column, "low", "n"),
        ]


def _simd(accumulators: Sequence[Accumulator], ways: Sequence[dict[str, str]]) -> str:
    clauses = [
        f"reduction({a.operator}:{', '.join(names[a.name] for names in ways)})"
        for a in accumulators
    ]
    return " ".join(["#pragma omp simd", *clauses])


def _load_lines(writer: KernelWriter, loads: Sequence[tuple[str, Access]]) -> list[str]:
    return [
        f"const {compute_type(access.dtype)} {name} = {print_load(writer, access)};"
        for name, access in loads
    ]


def _accesses(stage: Stage) -> list[Access]:
    return [a for _, a in stage.loads] + [a for a, _ in stage.stores]


def _pruned(stage: Stage, gone: Sequence[int]) -> Stage:
    loads = tuple((name, prune_axes(access, gone)) for name, access in stage.loads)
    stores = tuple((prune_axes(access, gone), text) for access, text in stage.stores)
    return replace(stage, loads=loads, stores=stores)
