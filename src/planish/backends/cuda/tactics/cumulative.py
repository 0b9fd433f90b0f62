"""Running sums and products along an axis: a scan over chunks of a row, with a carry.

y[i] = y[i-1] + x[i]. A block has one row; bound by memory for long rows, by the chain of chunks.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.elements import anchor_of
from planish.backends.cuda.codegen.printer import Group, Printer, indent, unprintable
from planish.backends.cuda.codegen.row_program import LONGEST_CHUNK
from planish.backends.cuda.codegen.triton_types import compute_type
from planish.ir.dtypes import BOOL
from planish.ir.graph import Node
from planish.ir.shape import Dim, product
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

KINDS = {
    "CumProd": ("1", "planish_multiply", "{a} * {b}"),
    "CumSum": ("0", "planish_add", "{a} + {b}"),
}


class Cumulative(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_cumulative"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 30

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every numeric type and flag when the axis is known."""
        if region.kind not in KINDS or region.anchor is None:
            return no(f"it is no operator of {self.name}")
        if _axis(region.anchor) is None:
            return no("the axis is known only at run time")
        if region.anchor.output.dtype is BOOL or not region.anchor.output.rank:
            return no("it is of booleans, or of one element")
        reason = unprintable(region, region.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return chunks of a row."""
        node = anchor_of(region)
        length = Printer(region).tune_size(node.output.known_shape[_axis(node) or 0])
        chunk = max(32, min(1 << max(length - 1, 0).bit_length(), LONGEST_CHUNK))
        return [{"chunk": chunk, "warps": max(1, chunk // 256)}]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node, printer = anchor_of(region), Printer(region)
        axis, chunk = _axis(node) or 0, int(config["chunk"])
        shape, dtype = node.output.known_shape, node.output.dtype
        neutral, function, combine = KINDS[node.op]
        length, kind = printer.dim(shape[axis]), compute_type(dtype)
        lines, places = row_places(printer, shape, axis)
        groups = [Group((k,), place) for k, place in places.items()]
        late = int(node.attributes["exclusive"])
        last = f"{length} - 1 - " if node.attributes["reverse"] else ""

        def at(step: str, mask: str) -> list[Group]:
            return [*groups, Group((axis,), f"({last}({step}))", mask)]

        inside = [
            f"step = start + tl.arange(0, {chunk})",
            f"exists = (step >= {late}) & (step < {length})",
        ]
        x = node.present_inputs[0]
        statements, names = printer.pointwise([x], shape, at(f"step - {late}", "exists"), {})
        inside += [
            *statements,
            f"x = tl.where(exists, {names[x]}, {neutral}).to({kind})",
            f"scan = tl.associative_scan(x, 0, {function})",
            f"total = ({combine.format(a='carry', b='scan')}).to({kind})",
            f"ahead = tl.reduce(x, 0, {function})",
            f"carry = ({combine.format(a='carry', b='ahead')}).to({kind})",
        ]
        values = [operand.value for operand in region.outputs]
        here = at("step", f"(step < {length})")
        statements, names = printer.pointwise(values, shape, here, {node.output: "total"})
        inside += statements
        inside += [
            printer.store(printer.output(index), shape, here, names[value])
            for index, value in enumerate(values)
        ]
        lines += [
            f"carry = tl.full((1,), {neutral}, {kind})",
            f"for start in range(0, {length}, {chunk}):",
            *indent(inside),
        ]
        count = product(extent for k, extent in enumerate(shape) if k != axis)
        return printer.kernel(lines, (count,), warps=int(config["warps"]))


def _axis(node: Node) -> int | None:
    known = contents(node.present_inputs[1])
    if known is None or not isinstance(known[0], int):
        return None
    return known[0] % max(node.present_inputs[0].rank, 1)


def row_places(
    printer: Printer, shape: tuple[Dim, ...], axis: int
) -> tuple[list[str], dict[int, str]]:
    """Return the coordinates of a block's row along all axes but `axis`."""
    lines, places = [], {}
    inner: Dim = 1
    for k in reversed(range(len(shape))):
        if k == axis:
            continue
        text = f"(tl.program_id(0) // {printer.dim(inner)}) % {printer.dim(shape[k])}"
        lines.append(f"i{k} = {text}")
        places[k] = f"i{k}"
        inner = inner * shape[k]
    return lines, places
