"""Sliding-window pooling: maximum, average, p-norm; any kernel, stride, padding, dilation.

y[n, c, o] = finish(combine over taps k of x[n, c, o * stride - pad + k * dilation])

The vectorised loop runs along the axis that is contiguous in the output: channels of a
channels-last image, else the last spatial axis. Where every tap lies inside the input, all of them
are printed in one expression (one load a tap, one store); at borders, taps are loops over the part
of the window that is inside, with a row of accumulators in scratch memory. Bound by loads from L1:
taps overlap, so memory is read about once. A maximum ignores NaN unless the whole window is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from planish.backends.cpu.codegen.access import Term, print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import Index, IndexMap, identity_map, loop_index
from planish.backends.cpu.codegen.injection import anchor_reason
from planish.backends.cpu.codegen.loops import decompose_names
from planish.backends.cpu.codegen.row_tactic import RowBuilder
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import (
    NARROW_LIMIT,
    Span,
    Stores,
    fill_strips,
    split_narrow,
    strip_loop,
    vector_loop,
)
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.backends.cpu.tactics.reduce import LIMITS
from planish.ir.graph import Node
from planish.ir.shape import Dim, product
from planish.ops.convolution import Window, window_of
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

KINDS = ("AveragePool", "LpPool", "MaxPool")
UNROLLED_TAPS = 32


class PoolTactic(Tactic):
    """Windows with unrolled taps inside and clamped taps at borders."""

    name: ClassVar[str] = "pool"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every window; positions of maxima are left to the reference."""
        if region.kind not in KINDS:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no(f"the body has no {region.kind}")
        if len(body.anchor.outputs) > 1:
            return no("positions of maxima are left to the reference")
        if body.anchor.present_inputs[0].rank < 3:
            return no("there is no spatial axis")
        if body.anchor.op != "MaxPool" and not body.anchor.present_inputs[0].dtype.is_float:
            return no(f"{region.kind} of integers is left to the reference")
        reason = body_reason(region, body) or anchor_reason(region, body)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        return _Pool(writer, RowBuilder(body.anchor, body, writer), body.anchor).kernel()


class _Pool:
    """One pooling kernel being printed; ``i<axis>`` are indices of the output."""

    def __init__(self, writer: KernelWriter, builder: RowBuilder, node: Node) -> None:
        self.writer, self.builder, self.node = writer, builder, node
        self.window: Window = window_of(node)
        self.x, self.y = builder.x, node.outputs[0]
        self.rank = self.x.rank
        self.spatial = list(range(2, self.rank))
        self.ctype = compute_type(self.x.dtype)
        self.vector = self._vector_axis()

    def _vector_axis(self) -> int:
        """Return 1 (channels) where the output is channels-last, else the last spatial axis."""
        strides = self.writer.region.outputs[0].strides
        channels = self.writer.size(self.y.known_shape[1])
        if len(strides) == self.rank and strides[1] == 1 and channels > 1:
            return 1
        return self.rank - 1

    # -- geometry --------------------------------------------------------------------------------

    def _step(self, axis: int) -> int:
        return self.window.strides[axis - 2]

    def _dilation(self, axis: int) -> int:
        return self.window.dilations[axis - 2]

    def _taps(self, axis: int) -> int:
        return self.window.kernel[axis - 2]

    def _reach(self, axis: int) -> int:
        return self.window.reach[axis - 2]

    def _pads(self, axis: int) -> tuple[Dim, Dim]:
        return self.window.padding.pairs[axis - 2]

    def _extent(self, axis: int) -> Dim:
        return self.x.known_shape[axis]

    def _size(self, axis: int) -> str:
        return self.writer.dim(self.y.known_shape[axis])

    def _index(self, taps: Mapping[int, int | str]) -> IndexMap:
        """Return where x is read: `taps` gives each spatial axis a tap number or a C name."""
        index = list(identity_map(self.rank))
        for axis in self.spatial:
            tap = taps[axis]
            begin = self._pads(axis)[0]
            along = loop_index(axis, self.rank, self._step(axis), -begin)
            if isinstance(tap, int):
                along = replace(along, offset=along.offset + tap * self._dilation(axis))
            else:
                text = f"{tap} * {self._dilation(axis)}"
                along = Index(along.strides, along.offset, (Term(text, frozenset()),))
            index[axis] = along
        return tuple(index)

    # -- C ---------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        """Return the kernel: an item is a row of positions along the last spatial axis."""
        axes = [axis for axis in range(self.rank) if axis not in (self.vector, self.rank - 1)]
        names = [(f"i{axis}", self.y.known_shape[axis]) for axis in axes]
        rows = [axis for axis in self.spatial if axis != self.rank - 1]
        body = decompose_names(self.writer, names) + self._position(rows)
        if self.vector == 1:
            body += self._pixels(rows)
        else:
            body += self._row(rows)
        lines = [f"{self.ctype} *restrict const acc = ({self.ctype} *)scratch;"]
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        items = product(extent for _, extent in names)
        length = self.writer.largest(self.y.known_shape[self.vector])
        itemsize = 8 if self.ctype in ("double", "int64_t", "uint64_t") else 4
        return self.writer.kernel(lines, items, scratch_bytes=-(-length * itemsize // 64) * 64)

    def _position(self, axes: list[int]) -> list[str]:
        """Return C with the window's start and the range of its taps that is inside."""
        lines = []
        for axis in axes:
            begin = self.writer.dim(self._pads(axis)[0])
            extent = self.writer.dim(self._extent(axis))
            rest = f"s{axis}, {self._dilation(axis)}, {self._taps(axis)}"
            lines += [
                f"const int64_t s{axis} = i{axis} * {self._step(axis)} - {begin};",
                f"const int64_t f{axis} = planish_first_tap({rest}, 0);",
                f"const int64_t l{axis} = planish_last_tap({rest}, {extent});",
            ]
        return lines

    def _interior(self) -> list[str]:
        """Return C for the positions [low, high) along the last axis with all taps inside."""
        last, writer = self.rank - 1, self.writer
        begin, step = self._pads(last)[0], self._step(last)
        room = writer.dim(self._extent(last) + begin - self._reach(last) + step)
        first = writer.dim(-(-begin // step) if isinstance(begin, int) else begin)
        return [
            f"const int64_t low = planish_min_i64({self._size(last)}, {first});",
            f"const int64_t high = planish_clamp_i64(planish_floordiv_i64({room}, {step}), low, "
            f"{self._size(last)});",
        ]

    def _edges(self, body: list[str]) -> list[str]:
        """Return a loop over the positions outside [low, high)."""
        last = self.rank - 1
        skip = f"i{last} = i{last} + 1 == low ? high : i{last} + 1"
        start = "low > 0 ? 0 : high"
        header = f"for (int64_t i{last} = {start}; i{last} < {self._size(last)}; {skip})"
        return block(header, [*self._position([last]), *body])

    def _row(self, rows: list[int]) -> list[str]:
        """Return C for a row of positions whose own axis is vectorised: interior, then ends."""
        interior = self._choose(rows, "low", "high")
        return [*self._interior(), *interior, *self._edges(self._single())]

    def _pixels(self, rows: list[int]) -> list[str]:
        """Return C for a row of positions with vectors of channels: interior, then ends."""
        last, channels = self.rank - 1, self._size(1)
        interior = self._choose(rows, "0", channels)
        header = f"for (int64_t i{last} = low; i{last} < high; ++i{last})"
        edge = self._buffered(self.spatial, "0", channels)
        return [*self._interior(), *block(header, interior), *self._edges(edge)]

    def _choose(self, axes: list[int], low: str, high: str) -> list[str]:
        """Return C that does the vector axis from `low` to `high`, unrolled where it may be."""
        clamped = self._buffered(axes, low, high)
        taps = 1
        for axis in self.spatial:
            taps *= self._taps(axis)
        if taps > UNROLLED_TAPS:
            return clamped
        inside = [f"f{axis} == 0 && l{axis} == {self._taps(axis)}" for axis in axes]
        if not inside:
            return self._unrolled(low, high)
        return [
            *block(f"if ({' && '.join(inside)})", self._unrolled(low, high)),
            *block("else", clamped),
        ]

    def _loop(self, low: str, high: str, body: list[str]) -> list[str]:
        span = Span(low, high, self._span_extent())
        return vector_loop(self.writer, f"i{self.vector}", span, body, "#pragma GCC ivdep")

    def _span_extent(self) -> Dim:
        """Return the extent that loops cover: all channels, but only a part of a row."""
        return self.y.known_shape[1] if self.vector == 1 else 1

    def _unrolled(self, low: str, high: str) -> list[str]:
        taps: list[dict[int, int | str]] = [{}]
        for axis in self.spatial:
            taps = [{**tap, axis: k} for tap in taps for k in range(self._taps(axis))]
        body = [f"{self.ctype} total = {self._initial()};"]
        for tap in taps:
            body += block("", self._accumulate("total", tap))
        return self._finish_loop(low, high, body, self._result("total", True, []))

    def _buffered(self, axes: list[int], low: str, high: str) -> list[str]:
        """Return C with taps as loops; axes not in `axes` have all taps inside."""
        cell = f"acc[i{self.vector}]"
        names: dict[int, int | str] = {axis: f"k{axis}" for axis in self.spatial}
        inner = self._loop(low, high, self._accumulate(cell, names))
        for axis in reversed(self.spatial):
            first, last = (f"f{axis}", f"l{axis}") if axis in axes else ("0", self._taps(axis))
            inner = block(f"for (int64_t k{axis} = {first}; k{axis} < {last}; ++k{axis})", inner)
        return [
            *self._loop(low, high, [f"{cell} = {self._initial()};"]),
            *inner,
            *self._finish_loop(low, high, [], self._result(cell, False, axes)),
        ]

    def _single(self) -> list[str]:
        """Return C for one position near an end of the last axis."""
        names: dict[int, int | str] = {axis: f"k{axis}" for axis in self.spatial}
        inner = self._accumulate("total", names)
        for axis in reversed(self.spatial):
            header = f"for (int64_t k{axis} = f{axis}; k{axis} < l{axis}; ++k{axis})"
            inner = block(header, inner)
        start = f"{self.ctype} total = {self._initial()};"
        lines, stores = self._finish(self._result("total", False, self.spatial))
        lines += [print_store(self.writer, access, value) for access, value in stores]
        return [start, *inner, *lines]

    def _initial(self) -> str:
        return LIMITS[self.ctype][0] if self.node.op == "MaxPool" else "0"

    def _accumulate(self, total: str, taps: Mapping[int, int | str]) -> list[str]:
        part, name = self.builder.read(self.x, self.x.known_shape, self._index(taps), self.rank)
        lines = [
            f"const {compute_type(access.dtype)} {load} = {print_load(self.writer, access)};"
            for load, access in part.loads
        ]
        return [*lines, *part.statements, self._update(total, name)]

    def _update(self, total: str, name: str) -> str:
        if self.node.op == "MaxPool":
            return f"{total} = {name} > {total} ? {name} : {total};"
        if self.node.op == "AveragePool":
            return f"{total} += {name};"
        p, suffix = int(self.node.attributes["p"]), self.builder.suffix
        if p == 1:
            return f"{total} += planish_abs{suffix}({name});"
        if p == 2:
            return f"{total} += {name} * {name};"
        return f"{total} += planish_pow{suffix}(planish_abs{suffix}({name}), {p});"

    def _finish(self, text: str) -> tuple[list[str], Stores]:
        """Return C that computes the result and the epilogue, and the stores."""
        name = self.writer.fresh("y")
        end = self.builder.finish(self.y, name, identity_map(self.rank), self.rank)
        lines = [f"const {self.ctype} {name} = {text};"]
        lines += [
            f"const {compute_type(access.dtype)} {load} = {print_load(self.writer, access)};"
            for load, access in end.loads
        ]
        return [*lines, *end.statements], end.stores

    def _finish_loop(self, low: str, high: str, body: list[str], text: str) -> list[str]:
        """Return the vectorised loop that does `body`, then stores the result `text`."""
        lines, stores = self._finish(text)
        long = self.writer.size(self.y.known_shape[self.vector]) >= NARROW_LIMIT
        plain, narrow = split_narrow(self.writer, stores, self.vector if long else None)
        body = [*body, *lines]
        body += [print_store(self.writer, access, value) for access, value in plain]
        body += fill_strips(narrow, self.vector)
        span = Span(low, high, self._span_extent())
        return strip_loop(self.writer, narrow, self.vector, span, body, "#pragma GCC ivdep")

    def _result(self, total: str, inside: bool, axes: list[int]) -> str:
        if self.node.op == "MaxPool":
            return total
        if self.node.op == "AveragePool":
            return f"{total} / ({self.ctype})({self._divisor(inside, axes)})"
        p, suffix = int(self.node.attributes["p"]), self.builder.suffix
        if p == 1:
            return total
        if p == 2:
            return f"planish_sqrt{suffix}({total})"
        return f"planish_pow{suffix}({total}, {self.builder.number(1 / p)})"

    def _divisor(self, inside: bool, axes: list[int]) -> str:
        """Return how many taps count: those inside, or inside the padding."""
        counts = []
        for axis in self.spatial:
            taps = self._taps(axis)
            if inside or axis not in axes:
                counts.append(str(taps))
            elif not self.node.attributes["count_include_pad"]:
                counts.append(f"(l{axis} - f{axis})")
            else:
                begin, end = self._pads(axis)
                high = self.writer.dim(self._extent(axis) + end)
                rest = f"s{axis}, {self._dilation(axis)}, {taps}"
                low = self.writer.dim(-begin)
                counts.append(
                    f"(planish_last_tap({rest}, {high}) - planish_first_tap({rest}, {low}))"
                )
        return f"planish_max_i64(1, {' * '.join(counts)})"
