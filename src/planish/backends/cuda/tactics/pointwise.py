"""Pointwise regions, copies and casts: one vector of elements a block, bound by memory.

Elements are walked in the order in which the output lies, so that stores are contiguous; operands
that lie otherwise or broadcast are addressed through coordinates.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.ir.shape import ceildiv, evaluate, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


class Pointwise(Tactic):
    """Any region without an anchor."""

    name: ClassVar[str] = "triton_pointwise"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept regions whose outputs have one shape."""
        if region.kind != "pointwise":
            return no("it has an anchor")
        if len({operand.shape for operand in region.outputs}) > 1:
            return no("its outputs have several shapes")
        reason = unprintable(region)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return elements of a block, by warps."""
        total = Printer(region).tune_size(product(region.outputs[0].shape))
        sizes = [(1024, 4), (512, 4), (2048, 8), (256, 2), (4096, 8)]
        if total < 1 << 18:
            sizes = [(256, 2), (512, 4), (1024, 4), (128, 1)]
        return [{"block": block, "warps": warps} for block, warps in sizes]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        printer, block = Printer(region), int(config["block"])
        space = region.outputs[0].shape
        total = product(space)
        order = memory_order(region)
        whole = isinstance(total, int) and total % block == 0
        mask = None if whole else f"(index < {printer.dim(total)})"
        wide = printer.largest(total) >= 1 << 31
        start = "tl.program_id(0).to(tl.int64)" if wide else "tl.program_id(0)"
        groups = [Group(order, "index", mask)]
        values = [operand.value for operand in region.outputs]
        statements, names = printer.pointwise(values, space, groups, {})
        stores = [
            printer.store(printer.output(i), space, groups, names[value])
            for i, value in enumerate(values)
        ]
        lines = [f"index = {start} * {block} + tl.arange(0, {block})", *statements, *stores]
        return printer.kernel(lines, (ceildiv(total, block),), warps=int(config["warps"]))


def memory_order(region: Region) -> tuple[int, ...]:
    """Return the output's axes in the order in which they lie, outermost first."""
    operand = region.outputs[0]
    sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
    steps = [evaluate(stride, sizes) for stride in operand.strides]
    wide = [evaluate(extent, sizes) != 1 for extent in operand.shape]
    axes = sorted(range(len(steps)), key=lambda axis: (wide[axis], -steps[axis], axis))
    return tuple(axes)
