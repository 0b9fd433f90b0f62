"""Printing the kernel of a 3x3 convolution in Winograd's domain.

For a block of tiles (m x m output pixels each) of one image:

1. input transform: every tile's (m+2) x (m+2) input patch, 16 channels at a time, into V[xi][tile]
   [channel]; patches that stick out of the halo read zeros there;
2. for each panel of output channels: (m+2)^2 products V[xi] x U[xi] with the GEMM tile of the other
   convolutions, into M[xi][tile][channel];
3. output transform of each tile, the epilogue on registers, and the store.

V and M live in scratch that fits L2; U (the transformed weights) streams through once a block.
What bounds it: the products run at the FMA peak, 2.25 (m = 2) or 4 (m = 4) times fewer than direct
convolution's; the transforms take 15 to 30 % of the time at 64 channels and less at more. Where U
does not fit the cache (512 channels) streaming it takes over and direct convolution is as fast.
Tried: tiles of V in panels (no gain, the row stride is padded instead).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from planish.backends.cpu.codegen.element import ElementKind, VectorUnit
from planish.backends.cpu.codegen.epilogue import Access, Epilogue, parameters_of, print_finish
from planish.backends.cpu.codegen.packing import Columns
from planish.backends.cpu.codegen.scalar import c_dim, memory_type
from planish.backends.cpu.codegen.tile import KWalk, Tile, print_accumulate, print_block
from planish.backends.cpu.codegen.winograd_matrices import Transforms
from planish.ir.dtypes import BF16, DType
from planish.ir.shape import Shape


@dataclass(frozen=True)
class Winograd:
    """Sizes of one kernel; lengths in elements.

    Attributes
    ----------
    m : int
        Output pixels of a tile in each direction.
    channels, height, width : int
        Input channels; output height and width.
    available : (int, int)
        Rows and columns of the input that may be read, halo included, from the first patch on.
    origin : str
        C expression of the first patch's offset from the input's pointer (negative with padding).
    input_dtype : DType
    input_strides : Shape
        N, C, H, W; the channel stride is 1.
    columns : Columns
        Panels of output channels.
    kind : ElementKind
        Of V and U.
    rows : int
        Tiles of a GEMM tile.
    block : int
        Tiles of an item, a multiple of `rows`.
    groups : int
        Into how many items the panels of a block are cut.
    """

    m: int
    channels: int
    height: int
    width: int
    available: tuple[int, int]
    origin: str
    input_dtype: DType
    input_strides: Shape
    columns: Columns
    kind: ElementKind
    rows: int
    block: int
    groups: int

    @property
    def points(self) -> int:
        """Products of a tile in one direction."""
        return self.m + 2

    @property
    def across(self) -> int:
        """Tiles in x."""
        return -(-self.width // self.m)

    @property
    def tiles(self) -> int:
        """Tiles of an image."""
        return self.across * -(-self.height // self.m)

    @property
    def blocks(self) -> int:
        """Blocks of an image."""
        return -(-self.tiles // self.block)

    @property
    def row_stride(self) -> int:
        """Elements between tiles of V; padded so that rows do not share L1 sets."""
        return self.channels + 64 // self.kind.dtype.itemsize

    @property
    def panel_width(self) -> int:
        """Columns of a wide panel."""
        return self.columns.vectors * self.columns.lanes

    @property
    def v_bytes(self) -> int:
        """Bytes of V, a multiple of 64."""
        size = self.points**2 * self.block * self.row_stride * self.kind.dtype.itemsize
        return -(-size // 64) * 64

    @property
    def scratch_bytes(self) -> int:
        """Bytes of V and M."""
        return self.v_bytes + self.points**2 * self.block * self.panel_width * 4


def print_winograd(
    shape: Winograd,
    matrices: Transforms,
    epilogue: Epilogue,
    unit: VectorUnit,
    symbols: Sequence[str],
    pointers: tuple[int, int],
) -> str:
    """Return the kernel's C source.

    Parameters
    ----------
    shape : Winograd
    matrices : Transforms
        Of F(shape.m, 3).
    epilogue : Epilogue
    unit : VectorUnit
    symbols : sequence of str
        The region's symbols.
    pointers : (int, int)
        Indices of the packed weights' and the bias's pointers.
    """
    parts = [
        print_finish(epilogue, unit.lanes, symbols),
        _print_input(shape, matrices, unit, symbols, edge=False),
        _print_input(shape, matrices, unit, symbols, edge=True),
        *(_print_gemm(shape, unit, vectors) for vectors in _widths(shape)),
        _print_output(shape, matrices, epilogue, unit, symbols),
        _print_main(shape, epilogue, unit, symbols, pointers),
    ]
    return "\n".join(parts)


def _widths(shape: Winograd) -> list[int]:
    wide = [shape.columns.vectors] if shape.columns.wide else []
    return wide + ([shape.columns.vectors - 1] if shape.columns.narrow else [])


def _combine(coefficients: Sequence[Fraction], names: Sequence[str], v: str) -> str:
    """Return the C expression of a linear combination with constant coefficients."""
    text = ""
    for coefficient, name in zip(coefficients, names, strict=True):
        if coefficient == 0:
            continue
        size = abs(coefficient)
        term = name if size == 1 else f"{v}_set1({float(size)!r}f) * {name}"
        text += (" - " if coefficient < 0 else " + ") + term
    return text.removeprefix(" + ") if text.startswith(" + ") else f"{v}_zero(){text}"


def _print_input(
    shape: Winograd, matrices: Transforms, unit: VectorUnit, symbols: Sequence[str], *, edge: bool
) -> str:
    """Return the function that transforms one patch; at the edge `ny` rows, `nx` columns exist."""
    v, n = unit.prefix, shape.points
    _, _, row, column = (c_dim(stride, symbols) for stride in shape.input_strides)
    suffix = "_bf16" if shape.input_dtype is BF16 else ""

    def read(i: int, j: int) -> str:
        whole = f"{v}_load{suffix}(x + {i} * {row} + {j} * {column} + c)"
        return f"({i} < ny && {j} < nx) ? {whole} : {v}_zero()" if edge else whole

    def write(xi: int, expression: str) -> str:
        narrow = "_bf16" if shape.kind.dtype is BF16 else ""
        return f"{v}_store{narrow}(out + {xi * shape.block * shape.row_stride} + c, {expression});"

    lines = [
        f"for (int64_t c = 0; c < {shape.channels}; c += {unit.lanes}) {{",
        f"{v} t[{n}][{n}];",
    ]
    lines += _columns_then_rows(matrices.input, n, v, read, write)
    parameters = (
        f"const {memory_type(shape.input_dtype)} *x, {shape.kind.ctype} *out, int ny, int nx"
    )
    name = "@NAME@_edge" if edge else "@NAME@_patch"
    return f"static void {name}({parameters}) {{\n{print_block([*lines, '}'])}}}\n"


def _columns_then_rows(
    matrix: Sequence[Sequence[Fraction]],
    n: int,
    v: str,
    read: Callable[[int, int], str],
    write: Callable[[int, str], str],
) -> list[str]:
    """Return the statements of t = M d (column by column), then each element of t M^T."""
    lines = []
    for j in range(n):
        lines.append("{")
        lines += [f"const {v} a{i} = {read(i, j)};" for i in range(n)]
        names = [f"a{i}" for i in range(n)]
        lines += [f"t[{i}][{j}] = {_combine(r, names, v)};" for i, r in enumerate(matrix)]
        lines.append("}")
    for i in range(len(matrix)):
        names = [f"t[{i}][{k}]" for k in range(n)]
        lines += [
            write(i * len(matrix) + j, _combine(row, names, v)) for j, row in enumerate(matrix)
        ]
    return lines


def _print_gemm(shape: Winograd, unit: VectorUnit, vectors: int) -> str:
    """Return the function of one product: `rows` tiles x `vectors` registers of columns."""
    v = unit.prefix
    tile = Tile(1, shape.rows, vectors, tuple(str(r * shape.row_stride) for r in range(shape.rows)))
    cells = [(r, c) for r in range(shape.rows) for c in range(vectors)]
    walk = KWalk((), shape.channels)
    lines = [
        f"{v} {', '.join(f'c{r}_{c} = {v}_zero()' for r, c in cells)};",
        *print_accumulate(tile, walk, shape.kind, unit, prefetch=16),
        *(f"{v}_store(m + {r * shape.panel_width + c * unit.lanes}, c{r}_{c});" for r, c in cells),
    ]
    pointers = f"const {shape.kind.ctype} *a, const {shape.kind.ctype} *b, float *m"
    body = print_block(lines)
    return f"static __attribute__((noinline)) void @NAME@_gemm{vectors}({pointers}) {{\n{body}}}\n"


def _print_output(
    shape: Winograd,
    matrices: Transforms,
    epilogue: Epilogue,
    unit: VectorUnit,
    symbols: Sequence[str],
) -> str:
    """Return the function that finishes one vector of columns of one tile."""
    v, n, m = unit.prefix, shape.points, shape.m
    plane = shape.block * shape.panel_width

    def finish(index: int, expression: str) -> str:
        i, j = divmod(index, m)
        given = "".join(f", {_at(access, i, j, symbols)}" for access in epilogue.accesses)
        value = f"bias + {expression}"
        if epilogue.form == "scalar":
            call = f"{v}_store(row, {value}); @NAME@_finish(row, part, d{given});"
        else:
            call = f"@NAME@_finish({value}, part, d{given});"
        return f"if ({i} < ny && {j} < nx) {{ {call} }}"

    lines = [f"{v} t[{m}][{n}];"]
    if epilogue.form == "scalar":
        lines.append(f"float row[{unit.lanes}] __attribute__((aligned(64)));")
    for j in range(n):
        lines.append("{")
        lines += [f"const {v} a{i} = {v}_load(x + {(i * n + j) * plane});" for i in range(n)]
        names = [f"a{i}" for i in range(n)]
        lines += [f"t[{i}][{j}] = {_combine(r, names, v)};" for i, r in enumerate(matrices.output)]
        lines.append("}")
    for i in range(m):
        names = [f"t[{i}][{k}]" for k in range(n)]
        lines += [
            finish(i * m + j, _combine(row, names, v)) for j, row in enumerate(matrices.output)
        ]
    parameters = f"const float *x, {v} bias, int part, int ny, int nx, const int64_t *d"
    parameters += parameters_of(epilogue)
    return f"static void @NAME@_tile({parameters}) {{\n{print_block(lines)}}}\n"


def _at(access: Access, i: int, j: int, symbols: Sequence[str]) -> str:
    _, _, row, column = access.strides
    terms = [f"{k} * {c_dim(stride, symbols)}" for k, stride in ((i, row), (j, column))
             if k and stride != 0]  # fmt: skip
    return " + ".join([access.name, *terms])


def _print_main(
    shape: Winograd,
    epilogue: Epilogue,
    unit: VectorUnit,
    symbols: Sequence[str],
    pointers: tuple[int, int],
) -> str:
    ctype, reads = shape.kind.ctype, len(epilogue.reads)
    each = -(-shape.columns.panels // shape.groups)
    lines = [
        f"const {memory_type(shape.input_dtype)} *input = (const void *)p[0];",
        f"const {ctype} *weights = (const void *)p[{pointers[0]}];",
        f"const float *biases = (const float *)p[{pointers[1]}];",
        *(
            f"{'const ' if index < reads else ''}{a.ctype} *{a.name} = (void *)p[{a.pointer}];"
            for index, a in enumerate(epilogue.accesses)
        ),
        f"{ctype} *v = ({ctype} *)scratch;",
        f"float *m = (float *)(scratch + {shape.v_bytes});",
        "for (int64_t item = begin; item < end; item++) {",
        f"const int64_t group = item % {shape.groups};",
        f"const int64_t block = item / {shape.groups} % {shape.blocks};",
        f"const int64_t image = item / {shape.groups * shape.blocks};",
        f"const int64_t first = block * {shape.block};",
        f"const int64_t last = planish_min_i64(first + {shape.block}, {shape.tiles});",
        *_transform_lines(shape, symbols),
        f"const int64_t stop = planish_min_i64((group + 1) * {each}, {shape.columns.panels});",
        f"for (int64_t panel = group * {each}; panel < stop; panel++) {{",
        *_product_lines(shape, unit),
        *_finish_lines(shape, epilogue, unit, symbols),
        "}",
        "}",
    ]
    head = (
        "static void @NAME@(char *const *p, const int64_t *d, int64_t begin, int64_t end, "
        "char *scratch)"
    )
    return f"{head} {{\n{print_block(lines)}}}\n"


def _each_tile(shape: Winograd) -> list[str]:
    return [
        "for (int64_t tile = first; tile < last; tile++) {",
        f"const int64_t ty = tile / {shape.across}, tx = tile % {shape.across};",
    ]


def _transform_lines(shape: Winograd, symbols: Sequence[str]) -> list[str]:
    """Return the loop that transforms every patch of the block."""
    batch, _, row, column = (c_dim(stride, symbols) for stride in shape.input_strides)
    n, m = shape.points, shape.m
    rows, columns = shape.available
    position = f"image * {batch} + {shape.origin} + ty * {m} * {row} + tx * {m} * {column}"
    return [
        *_each_tile(shape),
        f"const {memory_type(shape.input_dtype)} *x = input + {position};",
        f"{shape.kind.ctype} *out = v + (tile - first) * {shape.row_stride};",
        f"const int ny = (int)({rows} - ty * {m}), nx = (int)({columns} - tx * {m});",
        f"if (ny >= {n} && nx >= {n}) @NAME@_patch(x, out, ny, nx);",
        "else @NAME@_edge(x, out, ny, nx);",
        "}",
    ]


def _product_lines(shape: Winograd, unit: VectorUnit) -> list[str]:
    """Return the products of one panel of columns, for all points and tiles of the block."""
    columns = shape.columns
    points = shape.points**2
    calls = [
        f"@NAME@_gemm{vectors}(v + at * {shape.row_stride}, "
        f"u + xi * {shape.channels} * panel_columns, m + at * {shape.panel_width});"
        for vectors in _widths(shape)
    ]
    both = [f"if (panel < {columns.wide}) {calls[0]}", *(f"else {call}" for call in calls[1:])]
    return [
        f"const int64_t narrow = panel > {columns.wide} ? panel - {columns.wide} : 0;",
        f"const int64_t column = (panel * {columns.vectors} - narrow) * {unit.lanes};",
        f"const int64_t vectors = panel < {columns.wide} ? {columns.vectors}"
        f" : {columns.vectors - 1};",
        f"const int64_t panel_columns = vectors * {unit.lanes};",
        f"const {shape.kind.ctype} *u = weights + column * {points * shape.channels};",
        f"for (int64_t xi = 0; xi < {points}; xi++) {{",
        f"for (int64_t r = 0; r < last - first; r += {shape.rows}) {{",
        f"const int64_t at = xi * {shape.block} + r;",
        *(both if len(calls) > 1 else calls),
        "}",
        "}",
    ]


def _finish_lines(
    shape: Winograd, epilogue: Epilogue, unit: VectorUnit, symbols: Sequence[str]
) -> list[str]:
    """Return the loop that finishes every tile's columns of one panel."""

    def moved(access: Access) -> str:
        batch, channel, row, column = (c_dim(stride, symbols) for stride in access.strides)
        return (
            f"{access.name} + image * {batch} + lane * {channel}"
            f" + ty * {shape.m} * {row} + tx * {shape.m} * {column}"
        )

    given = "".join(f", {moved(access)}" for access in epilogue.accesses)
    return [
        *_each_tile(shape),
        f"const float *sums = m + (tile - first) * {shape.panel_width};",
        f"const int ny = (int)({shape.height} - ty * {shape.m});",
        f"const int nx = (int)({shape.width} - tx * {shape.m});",
        "for (int64_t s = 0; s < vectors; s++) {",
        f"const int64_t lane = column + s * {unit.lanes};",
        f"const int part = (int)planish_min_i64({shape.columns.count} - lane, {unit.lanes});",
        f"const {unit.prefix} bias = {unit.prefix}_load(biases + lane);",
        f"@NAME@_tile(sums + s * {unit.lanes}, bias, part, ny, nx, d{given});",
        "}",
        "}",
    ]
