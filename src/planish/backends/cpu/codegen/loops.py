"""Loop nests over operands with arbitrary strides.

A `Nest` says what happens at one point of an index space: loads, scalar statements, stores. How
the space is walked is decided here:

- axes are ordered by the first store's strides; adjacent axes that are contiguous in every operand
  become one; the innermost loop is the one that the compiler vectorises;
- the outer axes are cut into items of a useful size; a single long axis is cut into blocks;
- an innermost axis of a few elements (three colour channels) is unrolled inside the next axis;
- where a load is contiguous along another axis than the store, the two axes are walked in
  tiles, and the operand is transposed into an L1 buffer first (`tiles.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planish.backends.cpu.codegen.access import (
    Access,
    Term,
    offset_of,
    print_load,
    print_store,
    prune_axes,
)
from planish.backends.cpu.codegen.scalar import compute_type, memory_type
from planish.backends.cpu.codegen.vector_form import InnerForm
from planish.backends.cpu.codegen.vector_loop import (
    NARROW_LIMIT,
    Span,
    fill_strips,
    split_narrow,
    strip_loop,
)
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import BF16, BOOL, F16, U8, U16, DType
from planish.ir.shape import Dim, Shape, ceildiv, product

ITEM_ELEMENTS = 4096  # work of one item: around a microsecond
BLOCK_ELEMENTS = 8192  # a single long axis is cut into blocks of this many elements
UNROLL_LIMIT = 8  # innermost axes shorter than this are unrolled inside the next one


@dataclass(frozen=True)
class Nest:
    """What happens at every point of an index space.

    Attributes
    ----------
    extents : Shape
        Extents of the axes; ``i0``, ``i1``, ... are their indices in C.
    loads : tuple of (name, Access)
        ``const T name = <element>;``, available to the statements.
    statements : tuple of str
    stores : tuple of (Access, expression)
    used : frozenset of int
        Axes whose index the statements use.
    vectors : InnerForm or None
        The same on vector registers, for loops that compilers vectorise badly.
    """

    extents: Shape
    loads: tuple[tuple[str, Access], ...]
    statements: tuple[str, ...]
    stores: tuple[tuple[Access, str], ...]
    used: frozenset[int] = frozenset()
    vectors: InnerForm | None = None

    @property
    def accesses(self) -> list[Access]:
        """Every access, loads first."""
        return [access for _, access in self.loads] + [access for access, _ in self.stores]

    @property
    def named_axes(self) -> frozenset[int]:
        """Axes whose index occurs in C text, so that they cannot be merged with others."""
        named = set(self.used)
        for access in self.accesses:
            for term in access.terms:
                named |= term.axes
        return frozenset(named)


@dataclass(frozen=True)
class PrintedNest:
    """C for one nest: `lines` do item ``item - first``; there are `items` of them."""

    items: Dim
    lines: list[str]
    scratch_bytes: int = 0


def print_nests(writer: KernelWriter, nests: Sequence[Nest]) -> tuple[list[str], Dim, int]:
    """Return the C of several nests done one after the other, their items and scratch bytes.

    Items of the nests follow each other; nests must not depend on each other.
    """
    lines: list[str] = []
    first: Dim = 0
    scratch = 0
    for nest in nests:
        printed = print_nest(writer, nest)
        last = first + printed.items
        scratch = max(scratch, printed.scratch_bytes)
        if len(nests) == 1:
            header = "for (int64_t item = begin; item < end; ++item)"
            lines += block(header, printed.lines)
            return lines, printed.items, scratch
        low, high = writer.dim(first), writer.dim(last)
        header = (
            f"for (int64_t at = planish_max_i64(begin, {low}); "
            f"at < planish_min_i64(end, {high}); ++at)"
        )
        lines += block(header, [f"const int64_t item = at - {low};", *printed.lines])
        first = last
    return lines, first, scratch


def print_nest(writer: KernelWriter, nest: Nest) -> PrintedNest:
    """Return the C that does item ``item`` of `nest`."""
    nest = _as_bits(nest)
    order = axis_order(writer, nest)
    nest, order = collapse(nest, order)
    if not order:
        return PrintedNest(1, [*_zero_indices(nest, ()), *body_lines(writer, nest)])
    transposed = transposed_axis(writer, nest, order)
    if transposed is not None:
        return _print_tiled(writer, nest, order, transposed)
    return _print_plain(writer, nest, order)


def _as_bits(nest: Nest) -> Nest:
    """Return a nest that only moves 16-bit floats or booleans as one of unsigned integers."""
    types = {name: access.dtype for name, access in nest.loads}
    moves = all(types.get(text) is access.dtype for access, text in nest.stores)
    if nest.statements or not moves:
        return nest
    raw = {BF16: U16, F16: U16, BOOL: U8}

    def bits(access: Access) -> Access:
        return replace(access, dtype=raw.get(access.dtype, access.dtype))

    loads = tuple((name, bits(access)) for name, access in nest.loads)
    stores = tuple((bits(access), text) for access, text in nest.stores)
    return replace(nest, loads=loads, stores=stores)


def axis_order(writer: KernelWriter, nest: Nest) -> list[int]:
    """Return the axes of more than one element, outermost (largest store stride) first."""
    axes = [axis for axis, extent in enumerate(nest.extents) if extent != 1]
    if not nest.stores:
        return axes
    strides = nest.stores[0][0].strides
    return sorted(axes, key=lambda axis: (-abs(writer.size(strides[axis])), axis))


def collapse(nest: Nest, order: list[int]) -> tuple[Nest, list[int]]:
    """Merge neighbouring axes that every operand walks as one; return the nest and its order."""
    extents = list(nest.extents)
    merged = merge_axes(nest.accesses, order, extents, nest.named_axes)
    gone = [axis for axis in range(len(extents)) if axis not in merged]
    kept = replace(
        nest,
        extents=tuple(extents),
        loads=tuple((name, prune_axes(access, gone)) for name, access in nest.loads),
        stores=tuple((prune_axes(access, gone), expression) for access, expression in nest.stores),
    )
    return kept, merged


def merge_axes(
    accesses: Sequence[Access], order: Sequence[int], extents: list[Dim], named: frozenset[int]
) -> list[int]:
    """Return `order` without the axes merged into their inner neighbours, whose extents grow.

    Axes in `named` stay as they are. `extents` is changed in place.
    """
    merged: list[int] = []
    for axis in order:
        if merged and _mergeable(accesses, merged[-1], axis, extents[axis], named):
            extents[axis] = extents[merged.pop()] * extents[axis]
        merged.append(axis)
    return merged


def _mergeable(
    accesses: Sequence[Access], outer: int, inner: int, extent: Dim, named: frozenset[int]
) -> bool:
    if outer in named or inner in named:
        return False
    return all(access.strides[outer] == access.strides[inner] * extent for access in accesses)


def transposed_axis(writer: KernelWriter, nest: Nest, order: list[int]) -> int | None:
    """Return the axis along which some load is contiguous while the first store is not."""
    inner = order[-1]
    if len(order) < 2 or nest.stores[0][0].strides[inner] != 1:
        return None
    if writer.size(nest.extents[inner]) < UNROLL_LIMIT:
        return None
    for _, access in nest.loads:
        for axis in order[:-1]:
            long = writer.size(nest.extents[axis]) >= UNROLL_LIMIT
            if access.strides[axis] == 1 and access.strides[inner] not in (0, 1) and long:
                inner_terms = any(inner in t.axes or axis in t.axes for t in access.terms)
                return None if inner_terms else axis
    return None


# -- plain loops ---------------------------------------------------------------------------------


def _print_plain(writer: KernelWriter, nest: Nest, order: list[int]) -> PrintedNest:
    unrolled = _unrolled_axis(writer, nest, order)
    loops = [axis for axis in order if axis != unrolled]
    copies = 1 if unrolled is None else int(str(nest.extents[unrolled]))
    inner = loops[-1]
    split = split_items(writer, nest.extents, loops, copies)
    bounds = ("0", writer.dim(nest.extents[inner]))
    if split.blocked == inner:
        bounds = ("low", "high")
    lines = inner_loop(writer, nest, inner, unrolled, *bounds)
    inside = [axis for axis in split.inside if axis != inner]
    return PrintedNest(split.items, split.wrap(writer, nest.extents, inside, lines, inner))


def _unrolled_axis(writer: KernelWriter, nest: Nest, order: list[int]) -> int | None:
    """Return a short axis to unroll inside a longer one, if that helps.

    It is the innermost one, or one along which a load is contiguous (channels of an image).
    """
    if len(order) < 2:
        return None
    inner = order[-1]
    if _is_short(nest.extents[inner]):
        return inner if writer.size(nest.extents[order[-2]]) >= UNROLL_LIMIT else None
    for _, access in nest.loads:
        for axis in order[:-1]:
            if access.strides[axis] == 1 and access.strides[inner] == nest.extents[axis]:
                return axis if _is_short(nest.extents[axis]) else None
    return None


def _is_short(extent: Dim) -> bool:
    return isinstance(extent, int) and extent < UNROLL_LIMIT


@dataclass(frozen=True)
class Split:
    """How an index space is cut into items.

    `outer` axes are indices of an item, axis `blocked` is cut into blocks of `size`, and one item
    walks all of the `inside` axes.
    """

    outer: tuple[int, ...]
    blocked: int | None
    size: int
    inside: tuple[int, ...]
    items: Dim

    def wrap(
        self,
        writer: KernelWriter,
        extents: Shape,
        loops: Sequence[int],
        body: list[str],
        vector: int | None = None,
    ) -> list[str]:
        """Return `body` inside loops over `loops` and the block, its item's indices defined.

        The body itself walks axis `vector`, from ``low`` to ``high`` if that is the blocked one.
        """
        for axis in reversed(loops):
            extent = writer.dim(extents[axis])
            body = block(f"for (int64_t i{axis} = 0; i{axis} < {extent}; ++i{axis})", body)
        names = [(f"i{axis}", extents[axis]) for axis in self.outer]
        if self.blocked is None:
            return [*decompose_names(writer, names), *body]
        blocked = extents[self.blocked]
        names.append(("block", ceildiv(blocked, self.size)))
        lines = decompose_names(writer, names)
        lines += [
            f"const int64_t low = block * {self.size};",
            f"const int64_t high = planish_min_i64({writer.dim(blocked)}, low + {self.size});",
        ]
        if self.blocked == vector:
            return [*lines, *body]
        index = f"i{self.blocked}"
        return [*lines, *block(f"for (int64_t {index} = low; {index} < high; ++{index})", body)]


def split_items(
    writer: KernelWriter, extents: Shape, order: Sequence[int], copies: int = 1
) -> Split:
    """Return how to cut the axes `order` (outermost first) into items of about ITEM_ELEMENTS.

    `copies` is the work at one point.
    """
    work = max(copies, 1)
    for position in reversed(range(len(order))):
        axis = order[position]
        extent = writer.size(extents[axis])
        if work * extent <= 2 * ITEM_ELEMENTS:
            work *= max(extent, 1)
            continue
        size = ITEM_ELEMENTS // work
        vectors = position == len(order) - 1 and copies < UNROLL_LIMIT
        if vectors:  # whole ones, and cache lines on both sides
            size = max(64, BLOCK_ELEMENTS // work // 64 * 64)
        outer, inside = tuple(order[:position]), tuple(order[position + 1 :])
        if size <= 1:
            outer = (*outer, axis)
            return Split(outer, None, 1, inside, product(extents[a] for a in outer))
        items = product([*(extents[a] for a in outer), ceildiv(extents[axis], size)])
        return Split(outer, axis, size, inside, items)
    return Split((), None, 1, tuple(order), 1)


def decompose_names(writer: KernelWriter, axes: Sequence[tuple[str, Dim]]) -> list[str]:
    """Return C that splits ``item`` into named indices, the last one fastest."""
    axes = [(name, extent) for name, extent in axes]
    if not axes:
        return []
    if len(axes) == 1:
        return [f"const int64_t {axes[0][0]} = item;"]
    lines = ["int64_t rest = item;"]
    for name, extent in reversed(axes[1:]):
        size = writer.dim(extent)
        lines += [f"const int64_t {name} = rest % {size};", f"rest /= {size};"]
    return [*lines, f"const int64_t {axes[0][0]} = rest;"]


def inner_loop(
    writer: KernelWriter, nest: Nest, inner: int, unrolled: int | None, low: str, high: str
) -> list[str]:
    """Return the vectorised loop over axis `inner`, all other indices being defined."""
    lines = _zero_indices(nest, () if unrolled is None else (unrolled,))
    nest, hoisted = hoist_terms(writer, nest, {inner, unrolled})
    lines += hoisted
    accesses = (nest.loads, nest.stores)
    if unrolled is None and nest.vectors is not None and nest.vectors.fits(*accesses, inner):
        return [*lines, *nest.vectors.print_loop(writer, *accesses, inner, low, high)]
    if unrolled is None:
        long = writer.size(nest.extents[inner]) >= NARROW_LIMIT
        stores, narrow = split_narrow(writer, nest.stores, inner if long else None)
        body = [*body_lines(writer, replace(nest, stores=stores)), *fill_strips(narrow, inner)]
        span = Span(low, high, nest.extents[inner])
        return [*lines, *strip_loop(writer, narrow, inner, span, body, "#pragma GCC ivdep")]
    body = []
    for copy in range(int(str(nest.extents[unrolled]))):
        index = f"const int64_t i{unrolled} = {copy};"
        body += block("", [index, *body_lines(writer, nest)])
    header = f"for (int64_t i{inner} = {low}; i{inner} < {high}; ++i{inner})"
    return [*lines, "#pragma GCC ivdep", *block(header, body)]


def hoist_terms(
    writer: KernelWriter, nest: Nest, varying: set[int | None]
) -> tuple[Nest, list[str]]:
    """Give names to the terms that do not change with the `varying` axes; return declarations."""
    names: dict[str, str] = {}

    def hoist(access: Access) -> Access:
        terms = []
        for term in access.terms:
            if term.axes & varying:
                terms.append(term)
                continue
            if term.text not in names:
                names[term.text] = writer.fresh("base")
            terms.append(Term(names[term.text], frozenset()))
        return replace(access, terms=tuple(terms))

    loads = tuple((name, hoist(access)) for name, access in nest.loads)
    stores = tuple((hoist(access), expression) for access, expression in nest.stores)
    lines = [f"const int64_t {name} = {text};" for text, name in names.items()]
    return replace(nest, loads=loads, stores=stores), lines


def _zero_indices(nest: Nest, besides: Sequence[int]) -> list[str]:
    """Declare the indices of axes of one element where C text uses them."""
    return [
        f"const int64_t i{axis} = 0;"
        for axis in sorted(nest.named_axes)
        if nest.extents[axis] == 1 and axis not in besides
    ]


def body_lines(writer: KernelWriter, nest: Nest) -> list[str]:
    """Return loads, statements and stores of one point."""
    lines = []
    for name, access in nest.loads:
        ctype = compute_type(access.dtype)
        lines.append(f"const {ctype} {name} = {print_load(writer, access)};")
    lines += nest.statements
    lines += [print_store(writer, access, expression) for access, expression in nest.stores]
    return lines


# -- tiles ---------------------------------------------------------------------------------------


def _print_tiled(writer: KernelWriter, nest: Nest, order: list[int], other: int) -> PrintedNest:
    """Walk axes `other` and the innermost one in tiles, transposing loads that need it."""
    inner = order[-1]
    outer = [axis for axis in order if axis not in (other, inner)]
    width, height = _tile_sizes(writer, nest.extents[inner])
    tiles = [("other", other, height), ("inner", inner, width)]
    names = [(f"i{axis}", nest.extents[axis]) for axis in outer]
    names += [(f"tile_{label}", ceildiv(nest.extents[axis], size)) for label, axis, size in tiles]
    lines = decompose_names(writer, names)
    for label, axis, size in tiles:
        extent = writer.dim(nest.extents[axis])
        lines += [
            f"const int64_t low_{label} = tile_{label} * {size};",
            f"const int64_t n_{label} = planish_min_i64({size}, {extent} - low_{label});",
        ]
    items = product(extent for _, extent in names)
    if _is_copy(nest):
        return PrintedNest(items, [*lines, _transpose_to_store(writer, nest, other, inner)])
    loads, transposes, scratch = _buffered_loads(writer, nest, other, inner, width, height)
    buffered = replace(nest, loads=loads)
    body = inner_loop(writer, buffered, inner, None, "low_inner", "low_inner + n_inner")
    header = f"for (int64_t i{other} = low_other; i{other} < low_other + n_other; ++i{other})"
    return PrintedNest(items, [*lines, *transposes, *block(header, body)], scratch)


def _tile_sizes(writer: KernelWriter, inner: Dim) -> tuple[int, int]:
    """Return elements of a tile along the innermost and along the other axis."""
    extent = writer.size(inner)
    width = 64 if not isinstance(inner, int) or extent > 64 else -(-extent // 16) * 16
    return width, ITEM_ELEMENTS // width


def _is_copy(nest: Nest) -> bool:
    """Whether the nest moves one operand to another without touching the bits."""
    if len(nest.loads) != 1 or len(nest.stores) != 1 or nest.statements:
        return False
    (name, source), (target, expression) = nest.loads[0], nest.stores[0]
    return name == expression and source.dtype is target.dtype


def _transpose_to_store(writer: KernelWriter, nest: Nest, other: int, inner: int) -> str:
    source, target = nest.loads[0][1], nest.stores[0][0]
    start = [_tile_start(writer, access, other, inner) for access in (source, target)]
    return _transpose_call(
        source.dtype,
        f"{source.pointer} + {start[0]}",
        writer.dim(source.strides[inner]),
        f"{target.pointer} + {start[1]}",
        writer.dim(target.strides[other]),
    )


def _transpose_call(dtype: DType, source: str, source_pitch: str, to: str, to_pitch: str) -> str:
    bits = dtype.itemsize * 8
    return (
        f"planish_transpose_u{bits}((const uint{bits}_t *)({source}), {source_pitch}, "
        f"(uint{bits}_t *)({to}), {to_pitch}, n_inner, n_other);"
    )


def _tile_start(writer: KernelWriter, access: Access, other: int, inner: int) -> str:
    """Return the offset of a tile's first element."""
    strides = tuple(0 if axis in (other, inner) else s for axis, s in enumerate(access.strides))
    parts = [offset_of(writer, replace(access, strides=strides))]
    for axis, low in ((other, "low_other"), (inner, "low_inner")):
        if access.strides[axis] != 0:
            parts.append(f"{low} * {writer.dim(access.strides[axis])}")
    return " + ".join(parts)


def _buffered_loads(
    writer: KernelWriter, nest: Nest, other: int, inner: int, width: int, height: int
) -> tuple[tuple[tuple[str, Access], ...], list[str], int]:
    """Return the loads, those contiguous along `other` redirected to transposed L1 buffers."""
    loads: list[tuple[str, Access]] = []
    lines: list[str] = []
    scratch = writer.scratch_start
    for name, access in nest.loads:
        if access.strides[other] != 1 or access.strides[inner] in (0, 1):
            loads.append((name, access))
            continue
        ctype, buffer = memory_type(access.dtype), f"tile_{name}"
        start = _tile_start(writer, access, other, inner)
        pitch = writer.dim(access.strides[inner])
        lines += [
            f"{ctype} *restrict const {buffer} = ({ctype} *)(scratch + {scratch});",
            _transpose_call(access.dtype, f"{access.pointer} + {start}", pitch, buffer, str(width)),
        ]
        strides = tuple(
            width if axis == other else int(axis == inner) for axis in range(len(nest.extents))
        )
        shift = Term(f"-(low_other * {width} + low_inner)", frozenset())
        loads.append((name, Access(buffer, access.dtype, strides, 0, (shift,))))
        scratch += -(-width * height * access.dtype.itemsize // 64) * 64
    return tuple(loads), lines, scratch
