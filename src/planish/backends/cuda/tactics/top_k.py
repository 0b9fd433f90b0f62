"""TopK: every element counts how many of its row are better, and writes itself to that place.

rank[j] = #{i: x[i] better than x[j], or equal and i < j}; element j goes to place rank[j] if that
is below k. No sorting, no order between blocks, ties as the reference has them, NaN larger than any
number. A row of n elements costs n^2 comparisons, spread over all multiprocessors: bound by
arithmetic.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cuda.codegen.elements import anchor_of
from planish.backends.cuda.codegen.printer import Group, Printer, indent, unprintable
from planish.backends.cuda.tactics.cumulative import row_places
from planish.ir.dtypes import BOOL
from planish.ir.shape import ceildiv, product
from planish.tactics.tactic import YES, Config, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target

LARGEST_ROW = 1 << 17


class TopK(Tactic):
    """See the module's docstring."""

    name: ClassVar[str] = "triton_top_k"
    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 30

    def supports(self, region: Region, target: Target) -> Support:
        """Accept rows of moderate length, alone."""
        if region.kind != "TopK" or region.anchor is None:
            return no("it is no TopK")
        if len(region.body) != 1:
            return no("there are operations around it")
        x = region.anchor.present_inputs[0]
        axis = int(region.anchor.attributes["axis"]) % x.rank
        if x.dtype is BOOL or Printer(region).largest(x.known_shape[axis]) > LARGEST_ROW:
            return no("its rows are too long, or booleans")
        reason = unprintable(region, region.anchor)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return elements of a block, by those compared at once."""
        return [{"own": 32, "others": 128, "warps": 4}, {"own": 16, "others": 256, "warps": 4}]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node, printer = anchor_of(region), Printer(region)
        own, others = int(config["own"]), int(config["others"])
        x = node.present_inputs[0]
        axis = int(node.attributes["axis"]) % x.rank
        shape, result = x.known_shape, node.outputs[0].known_shape
        length, k = printer.dim(shape[axis]), printer.dim(result[axis])
        lines, places = row_places(printer, shape, axis)
        groups = [Group((a,), place) for a, place in places.items()]
        memory = printer.memory_of(x)

        def load(name: str, place: str, mask: str) -> str:
            return printer.load(memory, shape, [*groups, Group((axis,), place, mask)], name)

        better, same = _order(bool(node.attributes["largest"]), x.dtype.is_float)
        lines += [
            f"j = tl.program_id(1) * {own} + tl.arange(0, {own})",
            f"j_exists = j < {length}",
            load("mine", "j", "j_exists"),
            f"place = tl.zeros(({own},), tl.int32)",
            f"for start in range(0, {length}, {others}):",
            *indent(
                [
                    f"i = start + tl.arange(0, {others})",
                    f"i_exists = i < {length}",
                    load("theirs", "i", "i_exists"),
                    "a, b = theirs[None, :], mine[:, None]",
                    f"earlier = ({same}) & (i[None, :] < j[:, None])",
                    f"counts = (({better}) | earlier) & i_exists[None, :]",
                    "place += tl.sum(counts.to(tl.int32), axis=1)",
                ]
            ),
            f"chosen = j_exists & (place < {k})",
        ]
        at = [*groups, Group((axis,), "place", "chosen")]
        for index, operand in enumerate(region.outputs):
            text = "mine" if operand.value is node.outputs[0] else "j"
            lines.append(printer.store(printer.output(index), result, at, text))
        count = product(extent for a, extent in enumerate(shape) if a != axis)
        grid = (count, ceildiv(shape[axis], own))
        return printer.kernel(lines, grid, warps=int(config["warps"]))


def _order(largest: bool, has_nan: bool) -> tuple[str, str]:
    """Return whether ``a`` is better than ``b``, and whether they are equal."""
    sign, first, second = (">", "a", "b") if largest else ("<", "b", "a")
    if not has_nan:
        return f"a {sign} b", "a == b"
    better = f"(a {sign} b) | (({first} != {first}) & ({second} == {second}))"
    return better, "(a == b) | ((a != a) & (b != b))"
