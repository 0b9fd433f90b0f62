"""Reductions over all pixels of channels-last data: global pooling, squeeze-and-excite.

    y[n, c] = finish(sum over pixels p of x[n, p, c])

A block is one image by a vector of channels; it walks the pixels in tiles, whose rows are together
in memory, and adds the tile up at the end. Bound by memory, by latency where there is one image.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, indent, unprintable
from planish.backends.cuda.tactics.rows import Rows, read_rows
from planish.ir.shape import ceildiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

# combination of two tiles, what to begin with, reduction of a tile, result
FOLDS = {
    "ReduceSum": ("{a} + {b}", "0.0", "tl.sum(total, axis=0)"),
    "ReduceMean": ("{a} + {b}", "0.0", "tl.sum(total, axis=0) / {n}"),
    "GlobalAveragePool": ("{a} + {b}", "0.0", "tl.sum(total, axis=0) / {n}"),
    "ReduceMax": ("tl.maximum({a}, {b})", 'float("-inf")', "tl.max(total, axis=0)"),
    "GlobalMaxPool": ("tl.maximum({a}, {b})", 'float("-inf")', "tl.max(total, axis=0)"),
}


class SpatialReduction(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_spatial_reduction"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept reductions of everything but the batch and contiguous channels."""
        found = read_rows(region)
        if isinstance(found, str):
            return no(found)
        if found.anchor.op not in FOLDS:
            return no("it is another reduction")
        if _channel_axis(region, found) is None:
            return no("channels do not lie together")
        reason = unprintable(region, found.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return pixels by channels of a tile: small tiles where there are few blocks."""
        found = read_rows(region)
        axis = None if isinstance(found, str) else _channel_axis(region, found)
        if isinstance(found, str) or axis is None:
            return []
        printer, shape = Printer(region), found.data.known_shape
        channels = printer.tune_size(shape[axis])
        images = printer.tune_size(product(shape[a] for a in found.other if a != axis))
        length = printer.tune_size(product(shape[a] for a in found.row))
        sizes = ((64, 16, 4), (32, 32, 4), (128, 8, 4), (32, 64, 4), (64, 32, 4), (16, 32, 2),
                 (256, 8, 8), (16, 64, 2), (8, 64, 1))  # fmt: skip

        def cost(size: tuple[int, int, int]) -> float:
            pixels, width, warps = size
            blocks = images * -(-channels // width)
            resident = max(1.0, blocks * warps / (target.multiprocessors * 32))
            return resident * (600.0 + -(-length // pixels) * pixels * width / warps)

        return [{"pixels": p, "channels": c, "warps": w} for p, c, w in sorted(sizes, key=cost)]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_rows(region)
        axis = None if isinstance(found, str) else _channel_axis(region, found)
        if isinstance(found, str) or axis is None:
            raise ValueError(f"no reduction of pixels: {found}")
        printer, shape = Printer(region), found.data.known_shape
        pixels, width = int(config["pixels"]), int(config["channels"])
        outer = tuple(a for a in found.other if a != axis)
        length, channels = product(shape[a] for a in found.row), shape[axis]
        combine, start, finish = FOLDS[found.anchor.op]
        whole = isinstance(channels, int) and channels % width == 0
        present = None if whole else f"(channels < {printer.dim(channels)})"
        full = isinstance(length, int) and length % pixels == 0
        inner = None if full else f"(inner < {printer.dim(length)})[:, None]"
        column = Group((axis,), "channels[None, :]", present and f"{present}[None, :]")
        groups = [Group(outer, "image"), Group(found.row, "inner[:, None]", inner), column]
        statements, names = printer.pointwise([found.data], shape, groups, {})
        data = f"{names[found.data]}.to(tl.float32)"
        data = data if inner is None else f"tl.where({inner}, {data}, {start})"
        early = [
            f"channels = tl.program_id(0) * {width} + tl.arange(0, {width})",
            "image = tl.program_id(1)",
        ]
        lines = [
            f"total = tl.full(({pixels}, {width}), {start}, tl.float32)",
            f"for step in range(0, {printer.dim(ceildiv(length, pixels))}):",
            *indent([f"inner = step * {pixels} + tl.arange(0, {pixels})", *statements]),
            *indent([f"total = {combine.format(a='total', b=data)}"]),
            f"total = {finish.format(n=printer.dim(length))}",
        ]
        space = found.anchor.output.known_shape
        place = _kept(found, len(space))
        groups = [
            Group(tuple(place[a] for a in outer), "image"),
            Group((place[axis],), "channels", present),
        ]
        values = [operand.value for operand in region.outputs]
        statements, names = printer.pointwise(values, space, groups, {found.anchor.output: "total"})
        lines += statements
        lines += [
            printer.store(printer.output(i), space, groups, names[v]) for i, v in enumerate(values)
        ]
        grid = (ceildiv(channels, width), product(shape[a] for a in outer))
        return printer.kernel(lines, grid, warps=int(config["warps"]), early=early)


def _channel_axis(region: Region, found: Rows) -> int | None:
    """Return the axis that is not reduced and contiguous in every operand of the data's rank."""
    rank = len(found.data.known_shape)
    if not found.row:
        return None
    operands = [o for o in region.inputs if len(o.shape) == rank and o.shape[found.row[0]] != 1]
    for axis in found.other:
        if operands and all(o.strides[axis] == 1 and o.shape[axis] != 1 for o in operands):
            return axis
    return None


def _kept(found: Rows, rank: int) -> dict[int, int]:
    """Return the axes of the result by those of the data that stay."""
    if rank == len(found.data.known_shape):
        return {axis: axis for axis in found.other}
    return {axis: position for position, axis in enumerate(sorted(found.other))}
