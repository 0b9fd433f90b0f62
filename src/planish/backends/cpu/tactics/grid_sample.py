"""GridSample: interpolation at points that are data.

y[n, c, p] = sum over neighbours t of w[t](p) * x[n, c, s[t](p)]

A block of points is done in two steps: first the offsets and weights of all neighbours of every
point, vectorised over points and kept in scratch memory (they serve all channels); then the sums,
vectorised over channels where x is channels-last (contiguous loads), else over points (gathers).
Neighbours outside get weight 0 and the offset of the nearest element inside, so that nothing
branches. Bound by the loads of neighbours: 4 an element for linear, 16 for cubic.
"""

from __future__ import annotations

from itertools import product as cartesian
from typing import ClassVar

from planish.backends.cpu.codegen.access import Access, print_load, print_store, prune_axes
from planish.backends.cpu.codegen.body import Part, body_reason, split_body
from planish.backends.cpu.codegen.indexing import (
    IndexMap,
    fixed_index,
    loop_index,
    operand_access,
    term_index,
)
from planish.backends.cpu.codegen.injection import anchor_reason
from planish.backends.cpu.codegen.loops import decompose_names, merge_axes
from planish.backends.cpu.codegen.row_tactic import Finish, RowBuilder
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import Span, vector_loop
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import F64
from planish.ir.shape import Dim, ceildiv, product
from planish.ops.sampling import CUBIC_COEFFICIENT, sampling_mode
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

POINTS = 64  # of a block
LARGEST_TAPS = 16
REACH = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


class GridSampleTactic(Tactic):
    """Tables of neighbours for a block of points, then sums over channels or points."""

    name: ClassVar[str] = "grid_sample"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept all modes and paddings on float tensors that are read directly."""
        if region.kind != "GridSample":
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no("the body has no GridSample")
        x = body.anchor.present_inputs[0]
        if x.producer is not None:
            return no("pointwise nodes are fused before it")
        if not x.dtype.is_float or x.dtype is F64:
            return no(f"GridSample of {x.dtype} is left to the reference")
        taps = len(REACH[sampling_mode(body.anchor.attributes)]) ** (x.rank - 2)
        if taps > LARGEST_TAPS:
            return no(f"{taps} neighbours a point are left to the reference")
        reason = body_reason(region, body) or anchor_reason(region, body)
        if reason is None and KernelWriter(region).largest(product(x.known_shape)) >= 2**31:
            reason = "offsets do not fit 32 bits"
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        return _Printer(RowBuilder(body.anchor, body, writer)).kernel()


class _Printer:
    """One kernel; the nest's axes are those of the output: n, c, points..."""

    def __init__(self, builder: RowBuilder) -> None:
        self.builder, self.writer, self.node = builder, builder.writer, builder.node
        self.x, self.grid = self.node.present_inputs
        self.y = self.node.outputs[0]
        self.rank = self.x.rank
        self.axes = self.rank - 2
        self.mode = sampling_mode(self.node.attributes)
        self.padding = str(self.node.attributes["padding_mode"])
        self.align = bool(self.node.attributes["align_corners"])
        self.taps = len(REACH[self.mode]) ** self.axes
        self.memory = builder.pointwise.memory_of(self.x)
        self.gone: list[int] = []  # axes merged into others

    def kernel(self) -> Kernel:
        """Return the kernel: an item is a block of points of one image, all channels."""
        writer = self.writer
        extents = list(self.y.known_shape)
        order = self._points(extents)
        last = order[-1] if order else self.rank - 1
        outer = [0, *order[:-1]]
        names = [(f"i{axis}", extents[axis]) for axis in outer]
        names.append(("block", ceildiv(extents[last], POINTS)))
        table = self.taps * POINTS
        lines = [
            "int32_t *restrict const offset = (int32_t *)scratch;",
            f"float *restrict const weight = (float *)(scratch + {4 * table});",
        ]
        unit = [axis for axis in range(2, self.rank) if axis not in (*order, last)]
        body = [
            *decompose_names(writer, names),
            *(f"const int64_t i{axis} = 0;" for axis in unit),
            f"const int64_t low = block * {POINTS};",
            f"const int64_t n = planish_min_i64({POINTS}, {writer.dim(extents[last])} - low);",
            *self._tables(last),
            *self._sums(last, extents[1]),
        ]
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        items = product(extent for _, extent in names)
        return writer.kernel(lines, items, scratch_bytes=8 * table)

    def _points(self, extents: list[Dim]) -> list[int]:
        """Return the point axes, outermost first, merged where grid and outputs allow."""
        accesses = [access for _, access in self._grid_part().loads]
        accesses += [access for access, _ in self._finish("0").stores]
        axes = [axis for axis in range(2, self.rank) if extents[axis] != 1]
        named = frozenset(axis for a in accesses for term in a.terms for axis in term.axes)
        merged = merge_axes(accesses, axes, extents, named)
        self.gone = [axis for axis in range(2, self.rank) if axis not in merged]
        return merged

    def _pruned(self, access: Access) -> Access:
        return prune_axes(access, self.gone)

    def _grid_index(self, component: int) -> IndexMap:
        points = tuple(loop_index(axis, self.rank) for axis in range(2, self.rank))
        return (loop_index(0, self.rank), *points, fixed_index(self.rank, component))

    def _grid_part(self, component: int = 0) -> Part:
        index = self._grid_index(component)
        return self.builder.pointwise.part([self.grid], self.grid.known_shape, index, self.rank)

    def _finish(self, name: str) -> Finish:
        index = tuple(loop_index(axis, self.rank) for axis in range(self.rank))
        return self.builder.finish(self.y, name, index, self.rank)

    # -- tables ----------------------------------------------------------------------------------

    def _tables(self, last: int) -> list[str]:
        """Return the loop over points that fills offsets and weights."""
        body = [f"const int64_t i{last} = low + q;"]
        for axis in range(self.axes):
            body += self._axis(axis)
        for tap, choice in enumerate(cartesian(*(range(len(REACH[self.mode])),) * self.axes)):
            offsets = [
                f"at{axis}_{k} * (int32_t){self.writer.dim(self.memory.strides[2 + axis])}"
                for axis, k in enumerate(choice)
            ]
            weights = [f"w{axis}_{k}" for axis, k in enumerate(choice)]
            body.append(f"offset[{tap * POINTS} + q] = {' + '.join(offsets)};")
            body.append(f"weight[{tap * POINTS} + q] = {' * '.join(weights)};")
        return vector_loop(self.writer, "q", Span("0", "n", 1), body, "#pragma GCC ivdep")

    def _axis(self, axis: int) -> list[str]:
        """Return C for positions and weights of the neighbours along one axis of x."""
        extent = self.writer.dim(self.x.known_shape[2 + axis])
        part = self._grid_part(self.axes - 1 - axis)
        lines = [
            f"const {compute_type(a.dtype)} {name} = {print_load(self.writer, self._pruned(a))};"
            for name, a in part.loads
        ]
        g = part.names[self.grid]
        scale = f"({g} + 1.0f) * 0.5f * (float)({extent} - 1)"
        if not self.align:
            scale = f"(({g} + 1.0f) * (float){extent} - 1.0f) * 0.5f"
        c = f"c{axis}"
        raw = scale if self.mode == "cubic" else self._settled(f"({scale})", extent)
        rounding = "planish_round" if self.mode == "nearest" else "planish_floor"
        lines += [
            *part.statements,
            f"const float {c} = {raw};",
            f"const float low{axis} = {rounding}({c});",
        ]
        for k, reach in enumerate(REACH[self.mode]):
            name = f"{axis}_{k}"
            place = self._settled(f"(low{axis} + {reach}.0f)", extent)
            lines += [
                f"const int32_t p{name} = planish_position({place}, (int32_t){extent});",
                f"const int32_t at{name} = planish_clamp_i32(p{name}, 0, (int32_t){extent} - 1);",
                f"const float w{name} = p{name} == at{name} ? {self._weight(axis, reach)} : 0.0f;",
            ]
        return lines

    def _weight(self, axis: int, reach: int) -> str:
        distance = f"c{axis} - low{axis} - {reach}.0f"
        if self.mode == "nearest":
            return "1.0f"
        if self.mode == "linear":
            return f"1.0f - planish_abs({distance})"
        return f"planish_cubic({distance}, {CUBIC_COEFFICIENT}f)"

    def _settled(self, x: str, extent: str) -> str:
        """Return a coordinate moved into the tensor as the padding mode asks."""
        if self.padding == "border":
            return f"planish_clip({x}, 0.0f, (float)({extent} - 1))"
        if self.padding == "reflection":
            edge = "0.0f" if self.align else "0.5f"
            return f"planish_reflect({x}, -{edge}, (float)({extent} - 1) + {edge})"
        return x

    # -- sums ------------------------------------------------------------------------------------

    def _sums(self, last: int, channels: Dim) -> list[str]:
        body = self._point()
        count = self.writer.dim(channels)
        if self.memory.strides[1] == 1:
            span = Span("0", count, channels)
            inner = vector_loop(self.writer, "i1", span, body, "#pragma GCC ivdep")
            point = [f"const int64_t i{last} = low + q;", *inner]
            return block("for (int64_t q = 0; q < n; ++q)", point)
        body = [f"const int64_t i{last} = low + q;", *body]
        inner = vector_loop(self.writer, "q", Span("0", "n", 1), body, "#pragma GCC ivdep")
        return block(f"for (int64_t i1 = 0; i1 < {count}; ++i1)", inner)

    def _point(self) -> list[str]:
        """Return the sum over neighbours for channel i1 at point q, and its stores."""
        fixed = fixed_index(self.rank)
        spatial = (fixed,) * self.axes
        index = (loop_index(0, self.rank), loop_index(1, self.rank), *spatial)
        base = operand_access(self.writer, self.memory, self.x.known_shape, index, self.rank)
        terms = []
        for tap in range(self.taps):
            at = term_index(self.rank, f"offset[{tap * POINTS} + q]", ()).terms
            access = Access(base.pointer, base.dtype, base.strides, base.offset, at)
            load = print_load(self.writer, access)
            terms.append(f"(weight[{tap * POINTS} + q]) * {load}")
        name = self.writer.fresh("y")
        end = self._finish(name)
        lines = [f"const float {name} = {' + '.join(terms)};"]
        lines += [
            f"const {compute_type(a.dtype)} {load} = {print_load(self.writer, self._pruned(a))};"
            for load, a in end.loads
        ]
        lines += end.statements
        return lines + [
            print_store(self.writer, self._pruned(access), text) for access, text in end.stores
        ]
