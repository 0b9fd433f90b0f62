"""The inner kernel: one tile of rows x columns over (a part of) K, on vector registers.

    acc[r][v] += broadcast(a[row r][k]) * b[k][v]

Accumulators stay in registers; a row's operand is broadcast from memory at a constant offset from
the tile's pointer; the packed weights are read once a K step as `vectors` whole registers. What
bounds it: one FMA a register pair, so rows * vectors / 2 cycles a step on a core with two FMA
ports, while loads are rows + vectors; 6x4, 8x3 and 12x2 reach 99 % of the FMA peak on Zen 5, and
28x1 does not (every FMA carries a load). Unrolling K brought nothing over a plain loop (the core
overlaps steps), so it is only done for short runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planish.backends.cpu.codegen.element import ElementKind, VectorUnit
from planish.ir.dtypes import F32

MINIMUM_CHAINS = 8  # independent accumulators that hide the FMA latency (4 cycles, 2 ports)
SHORT_RUN = 8  # K steps of a run that are printed without a loop


@dataclass(frozen=True)
class KWalk:
    """The order in which K is walked.

    Attributes
    ----------
    loops : tuple of (int, str)
        Outer loops: count, and stride in the multiplied input as a C expression (elements).
    run : int or str
        Innermost contiguous elements; a C expression where it is known at run time.
    clip_step : int
        If not 0, the first loop runs over [low, high) only, two C variables, and this is how many
        packed elements one of its iterations reads.
    """

    loops: tuple[tuple[int, str], ...]
    run: int | str
    clip_step: int = 0


@dataclass(frozen=True)
class Tile:
    """One tile shape.

    Attributes
    ----------
    height, width : int
        Positions in y and x.
    vectors : int
        Registers of columns.
    offsets : tuple of str
        C expressions of the rows' offsets in the multiplied input, in elements.
    """

    height: int
    width: int
    vectors: int
    offsets: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.height * self.width

    @property
    def name(self) -> str:
        """Suffix of the tile's C function."""
        return f"{self.height}x{self.width}x{self.vectors}"


def print_accumulate(
    tile: Tile,
    walk: KWalk,
    kind: ElementKind,
    unit: VectorUnit,
    prefetch: int = 0,
    ahead: int = 0,
) -> list[str]:
    """Return the statements that add the walk's products to accumulators ``c<row>_<vector>``.

    Free C variables: ``a`` (the tile's first row) and ``b`` (the panel, advanced to its end).
    `prefetch` is the distance in K steps at which packed weights are prefetched (0: not). `ahead`
    is how many cache lines each K step prefetches into L2 from the C variable ``next``, which is
    advanced (0: none).
    """
    splits, sums = chains_of(tile), kind.sum_vector(unit.prefix)
    lines = [
        f"{sums} s{s}_{r}_{v} = {sums}_zero();" for s in range(1, splits) for r, v in _cells(tile)
    ]
    pointer = "a"
    for level, (count, stride) in enumerate(walk.loops):
        first, end = "0", str(count)
        if level == 0 and walk.clip_step:
            first, end = "low", "high"
            lines.append(f"b += low * {walk.clip_step};")
        lines.append(f"for (int64_t t{level} = {first}; t{level} < {end}; t{level}++) {{")
        lines.append(f"const {kind.input_ctype} *a{level} = {pointer} + t{level} * {stride};")
        pointer = f"a{level}"
    if isinstance(walk.run, int):
        lines += _print_run(tile, walk.run, kind, unit, pointer, prefetch, ahead)
    else:
        lines += _print_dynamic_run(tile, walk.run, kind, unit, pointer)
    lines += ["}"] * len(walk.loops)
    for s in range(1, splits):
        lines += [f"c{r}_{v} += s{s}_{r}_{v};" for r, v in _cells(tile)]
    return lines


def chains_of(tile: Tile) -> int:
    """Return how many sets of accumulators a tile needs to hide the latency of its FMAs."""
    return max(1, min(4, MINIMUM_CHAINS // (tile.rows * tile.vectors)))


def _cells(tile: Tile) -> list[tuple[int, int]]:
    return [(row, vector) for row in range(tile.rows) for vector in range(tile.vectors)]


def _print_dynamic_run(
    tile: Tile, run: str, kind: ElementKind, unit: VectorUnit, pointer: str
) -> list[str]:
    group, step = kind.group, tile.vectors * _elements(kind, unit)
    lines = [
        f"const int64_t run = {run};",
        "int64_t k = 0;",
        f"for (; k + {group} <= run; k += {group}, b += {step}) {{",
        *_print_step(tile, kind, unit, f"{pointer} + k", 0, 0, 0),
        "}",
    ]
    if group == 1:
        return lines
    part = "1" if group == 2 else "(int)(run - k)"
    rest = _print_step(tile, kind, unit, f"{pointer} + k", 0, 0, 0, part=part)
    return [*lines, "if (k < run) {", *rest, f"b += {step};", "}"]


def _print_run(
    tile: Tile,
    run: int,
    kind: ElementKind,
    unit: VectorUnit,
    pointer: str,
    prefetch: int,
    ahead: int,
) -> list[str]:
    whole, rest = divmod(run, kind.group)
    splits = chains_of(tile)
    step = tile.vectors * _elements(kind, unit)
    lines: list[str] = []
    tail = 0
    if whole > SHORT_RUN:
        tail = whole % splits
        lines.append(
            f"for (int64_t k = 0; k < {(whole - tail) * kind.group}; "
            f"k += {splits * kind.group}, b += {splits * step}) {{"
        )
        for line in range(ahead * splits):
            lines.append(f"_mm_prefetch(next + {line * 64}, _MM_HINT_T1);")
        if ahead:
            lines.append(f"next += {ahead * splits * 64};")
        for split in range(splits):
            lines += _print_step(tile, kind, unit, f"{pointer} + k", split, split, prefetch)
        lines.append("}")
        base = f"{pointer} + {(whole - tail) * kind.group}"
    else:
        tail, base = whole, pointer
    for index in range(tail):
        lines += _print_step(tile, kind, unit, base, index, index % splits, 0)
    if rest:
        lines += _print_step(tile, kind, unit, base, tail, tail % splits, 0, part=str(rest))
    advance = (tail + bool(rest)) * step
    return [*lines, f"b += {advance};"] if advance else lines


def _print_step(
    tile: Tile,
    kind: ElementKind,
    unit: VectorUnit,
    pointer: str,
    index: int,
    split: int,
    prefetch: int,
    part: str = "",
) -> list[str]:
    """Return one K step: load the weights' registers, broadcast each row, multiply and add."""
    v = unit.prefix
    width = _elements(kind, unit)
    register, load = v, "load"
    if kind.is_integer:
        register, load = kind.sum_vector(v), "load_quads"
    elif kind.dtype is not F32:
        register, load = "__m512i", "load_pairs"
    lines = ["{"]
    for vector in range(tile.vectors):
        offset = (index * tile.vectors + vector) * width
        lines.append(f"const {register} b{vector} = {v}_{load}(b + {offset});")
        if prefetch:
            ahead = offset + prefetch * tile.vectors * width
            lines.append(f"_mm_prefetch((const char *)(b + {ahead}), _MM_HINT_T0);")
    for row, start in enumerate(tile.offsets):
        address = f"{pointer} + {start}" if start != "0" else pointer
        if index:
            address += f" + {index * kind.group}"
        lines.append("{ " + _broadcast(kind, v, address, part))
        for vector in range(tile.vectors):
            cell = f"{row}_{vector}"
            target = f"s{split}_{cell}" if split else f"c{cell}"
            lines.append(f"{target} = {v}_{kind.product}(x, b{vector}, {target});")
        lines.append("}")
    return [*lines, "}"]


def _elements(kind: ElementKind, unit: VectorUnit) -> int:
    """Return the packed elements of one register."""
    return unit.lanes // kind.fold * kind.group


def _broadcast(kind: ElementKind, v: str, address: str, part: str) -> str:
    """Return the declaration of ``x``: a row's group of K elements in every column's lanes.

    `part` is how many elements of the group there are, if not all.
    """
    if kind.is_integer:
        quad = f"{v}_quad_part({address}, {part})" if part else f"{v}_quad({address})"
        return f"const {v}i x = {f'{v}_flipped({quad})' if kind.flips else quad};"
    if kind.fold > 1:
        words = f"{v}_words{kind.fold}({address})"
        if part:
            halves = f"{part} * 2" if kind.dtype is F32 else part
            words = f"{v}_words_part({address}, {halves}, {kind.fold})"
        if kind.dtype is F32:
            return f"const {v} x = ({v}){words};"
        return f"const __m512i x = {words};"
    if kind.group == 1:
        value = f"*({address})"
        if kind.input_ctype != "float":
            value = f"planish_from_bf16({value})"
        return f"const {v} x = {v}_set1({value});"
    return f"const __m512i x = {v}_{'single' if part else 'pair'}({address});"


def print_block(lines: Sequence[str], indent: int = 1) -> str:
    """Return `lines` indented by the nesting of their braces."""
    text = []
    for line in lines:
        stripped = line.strip()
        opening, closing = stripped.count("{"), stripped.count("}")
        if stripped.startswith("}"):
            indent -= 1
            closing -= 1
        text.append("    " * max(indent, 0) + stripped)
        indent += opening - closing
    return "\n".join(text) + "\n"
