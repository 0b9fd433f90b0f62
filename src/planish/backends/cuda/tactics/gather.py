"""Gather along one axis: rows of a table chosen by indices (embeddings); bound by memory.

Indices count from the end where negative; those out of range are clamped, so that nothing outside
of the table is read.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, nodes_behind, unprintable
from planish.ir.shape import ceildiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


class Gather(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_gather"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 20

    def supports(self, region: Region, target: Target) -> Support:
        """Accept tables and indices that nothing is fused before."""
        anchor = region.anchor
        if anchor is None or anchor.op != "Gather":
            return no("it is no Gather")
        if nodes_behind(region, anchor.present_inputs, {}):
            return no("pointwise nodes are fused before it")
        reason = unprintable(region, anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return elements of a block, by warps."""
        return [{"block": b, "warps": w} for b, w in ((512, 4), (256, 2), (1024, 4), (2048, 8))]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        anchor = region.anchor
        if anchor is None:
            raise ValueError("no anchor")
        printer, block = Printer(region), int(config["block"])
        table, indices = map(printer.memory_of, anchor.present_inputs)
        space = anchor.output.known_shape
        axis = int(anchor.attributes.get("axis", 0)) % len(table.shape)
        last = axis + len(indices.shape)
        total = product(space)
        mask = f"(index < {printer.dim(total)})"
        everywhere = tuple(range(len(space)))
        index_space = Group(everywhere, "index", mask)
        inner = product(space[last:])
        middle = product(space[axis:last])
        lines = [f"index = tl.program_id(0).to(tl.int64) * {block} + tl.arange(0, {block})"]
        lines.append(f"place = (index // {printer.dim(inner)}) % {printer.dim(middle)}")
        chosen = Group(tuple(range(len(indices.shape))), "place", mask)
        lines.append(printer.load(indices, indices.shape, [chosen], "row"))
        extent = printer.dim(table.shape[axis])
        lines.append(f"row = tl.where(row < 0, row + {extent}, row)")
        lines.append(f"row = tl.minimum(tl.maximum(row, 0), {extent} - 1)")
        terms = [table.pointer, f"row * {printer.dim(table.strides[axis])}"]
        shape, strides = table.shape, table.strides
        before = printer.address(
            type(table)("0", table.dtype, shape[:axis], strides[:axis]), shape[:axis],
            [Group(tuple(range(axis)), f"(index // {printer.dim(inner * middle)})")],
        )[0]  # fmt: skip
        after = printer.address(
            type(table)("0", table.dtype, shape[axis + 1 :], strides[axis + 1 :]),
            shape[axis + 1 :],
            [Group(tuple(range(len(shape) - axis - 1)), f"(index % {printer.dim(inner)})")],
        )[0]
        pointer = " + ".join([*terms, before, after])
        lines.append(f"total = tl.load({pointer}, mask={mask}, other=0)")
        if table.dtype.is_float:
            lines.append("total = total.to(tl.float32)")
        values = [operand.value for operand in region.outputs]
        statements, names = printer.pointwise(
            values, space, [index_space], {anchor.output: "total"}
        )
        lines += statements
        lines += [
            printer.store(printer.output(i), space, [index_space], names[value])
            for i, value in enumerate(values)
        ]
        return printer.kernel(lines, (ceildiv(total, block),), warps=int(config["warps"]))
