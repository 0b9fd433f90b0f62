"""Reductions over all pixels of channels-last data: global pooling, squeeze-and-excite.

    y[n, c] = finish(sum over pixels p of x[n, p, c])

A block is one image by a vector of channels; it walks the pixels in tiles, whose rows are together
in memory, and adds the tile up at the end. Bound by memory, by latency where there is one image:
there several blocks share the pixels, and the last to arrive adds their sums up.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, indent, unprintable
from planish.backends.cuda.tactics.rows import Rows, read_rows
from planish.ir.shape import ceildiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

SUM = ("{a} + {b}", "0.0", "tl.sum(total, axis=0)")
MAXIMUM = ("tl.maximum({a}, {b})", 'float("-inf")', "tl.max(total, axis=0)")
# combination of two tiles, what to begin with, reduction of a tile, result
FOLDS = {
    "ReduceSum": (*SUM, "total"),
    "ReduceMean": (*SUM, "total / {n}"),
    "GlobalAveragePool": (*SUM, "total / {n}"),
    "ReduceMax": (*MAXIMUM, "total"),
    "GlobalMaxPool": (*MAXIMUM, "total"),
}
SPLITS = (1, 2, 4, 8, 16, 32)
MOST_CONFIGS = 16


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

        def cost(config: Config) -> float:
            """Return about how many cycles a configuration takes."""
            pixels, width, split = config["pixels"], config["channels"], config["split"]
            blocks = images * -(-channels // width) * split
            resident = max(1.0, blocks * config["warps"] / (target.multiprocessors * 32))
            steps = -(-length // (pixels * split))
            each = 700.0 + pixels * width / config["warps"]
            return float(resident * (600.0 + steps * each) + (1500.0 if split > 1 else 0.0))

        configs: list[Config] = [
            {"pixels": p, "channels": c, "warps": w, "split": split}
            for p, c, w in sizes
            for split in SPLITS
            if split == 1 or split * p <= length
        ]
        return sorted(configs, key=cost)[:MOST_CONFIGS]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        found = read_rows(region)
        axis = None if isinstance(found, str) else _channel_axis(region, found)
        if isinstance(found, str) or axis is None:
            raise ValueError(f"no reduction of pixels: {found}")
        return _Writer(region, found, axis, config).kernel()


class _Writer:
    """Prints one kernel."""

    def __init__(self, region: Region, found: Rows, axis: int, config: Config) -> None:
        self.region, self.found, self.axis, self.config = region, found, axis, config
        self.printer, self.shape = Printer(region), found.data.known_shape
        self.outer = tuple(a for a in found.other if a != axis)
        self.length = product(self.shape[a] for a in found.row)
        self.width, self.split = int(config["channels"]), int(config["split"])
        channels = self.shape[axis]
        whole = isinstance(channels, int) and channels % self.width == 0
        self.present = None if whole else f"(channels < {self.printer.dim(channels)})"

    def kernel(self) -> TritonKernel:
        """Return the kernel."""
        printer, width = self.printer, self.width
        early = [
            f"channels = tl.program_id(0) * {width} + tl.arange(0, {width})",
            "image = tl.program_id(1)",
        ]
        _, _, reduce, _ = FOLDS[self.found.anchor.op]
        lines = [*self._sums(), f"total = {reduce}"]
        lines += _together(self.split, width, reduce, self._epilogue())
        tiles = ceildiv(self.shape[self.axis], width)
        images = product(self.shape[a] for a in self.outer)
        sums = printer.largest(tiles * images) if self.split > 1 else 0
        return printer.kernel(
            lines, (tiles, images, self.split), warps=int(self.config["warps"]), early=early,
            workspace_bytes=4 * sums * self.split * width, counters=sums,
        )  # fmt: skip

    def _sums(self) -> list[str]:
        """Return the loop over tiles of pixels, which adds them up element by element."""
        printer, pixels = self.printer, int(self.config["pixels"])
        combine, start, _, _ = FOLDS[self.found.anchor.op]
        full = isinstance(self.length, int) and self.length % pixels == 0
        inner = None if full else f"(inner < {printer.dim(self.length)})[:, None]"
        groups = [
            Group(self.outer, "image"),
            Group(self.found.row, "inner[:, None]", inner),
            Group((self.axis,), "channels[None, :]", self.present and f"{self.present}[None, :]"),
        ]
        statements, names = printer.pointwise([self.found.data], self.shape, groups, {})
        data = f"{names[self.found.data]}.to(tl.float32)"
        data = data if inner is None else f"tl.where({inner}, {data}, {start})"
        steps = printer.dim(ceildiv(self.length, pixels))
        return [
            f"total = tl.full(({pixels}, {self.width}), {start}, tl.float32)",
            f"for step in range(tl.program_id(2), {steps}, {self.split}):",
            *indent([f"inner = step * {pixels} + tl.arange(0, {pixels})", *statements]),
            *indent([f"total = {combine.format(a='total', b=data)}"]),
        ]

    def _epilogue(self) -> list[str]:
        """Return the statements from ``total``, a vector of channels, to the region's outputs."""
        printer, result = self.printer, self.found.anchor.output
        space = result.known_shape
        place = _kept(self.found, len(space))
        groups = [
            Group(tuple(place[a] for a in self.outer), "image"),
            Group((place[self.axis],), "channels", self.present),
        ]
        values = [operand.value for operand in self.region.outputs]
        statements, names = printer.pointwise(values, space, groups, {result: "total"})
        finish = FOLDS[self.found.anchor.op][3].format(n=printer.dim(self.length))
        stores = [
            printer.store(printer.output(i), space, groups, names[v]) for i, v in enumerate(values)
        ]
        return [f"total = {finish}", *statements, *stores]


def _together(split: int, width: int, reduce: str, epilogue: list[str]) -> list[str]:
    """Return `epilogue`, run once by the last of `split` blocks, on the sums of all of them."""
    if split == 1:
        return epilogue
    return [
        "number = image * tl.num_programs(0) + tl.program_id(0)",
        f"place = workspace + number * {split * width} + tl.arange(0, {width})",
        f"tl.store(place + tl.program_id(2) * {width}, total)",
        "tl.debug_barrier()",
        'arrived = tl.atomic_add(counters + number, 1, sem="acq_rel")',
        f"if arrived == {split - 1}:",
        *indent(
            [
                f"parts = place[None, :] + tl.arange(0, {split})[:, None] * {width}",
                f"total = {reduce}".replace("(total", '(tl.load(parts, cache_modifier=".cg")'),
                "tl.store(counters + number, 0)",
                *epilogue,
            ]
        ),
    ]


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
