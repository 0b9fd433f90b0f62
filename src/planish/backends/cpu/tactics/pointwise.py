"""Pointwise regions: any number of pointwise nodes in one pass over memory.

y[i] = f(a[i], b[i], ...), operands broadcast, any strides on both sides; a region with a single
Identity is a copy between layouts. Bound by memory: every operand is read once, every output
written once, and everything in between stays in registers. Loops are the compiler's (see
codegen/loops.py); tried and dropped: non-temporal stores, which lose as soon as the next region
finds its input in a cache.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.body import body_reason
from planish.backends.cpu.codegen.injection import pointwise_nests
from planish.backends.cpu.codegen.loops import print_nests
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.shape import Shape
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


class PointwiseTactic(Tactic):
    """Vectorised loops over any pointwise body."""

    name: ClassVar[str] = "pointwise"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every body whose nodes have a scalar C form."""
        if region.anchor is not None:
            return no(f"the region has an anchor, {region.kind}")
        reason = body_reason(region) or _shapes_reason(region)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer = KernelWriter(region, target)
        nests = pointwise_nests(writer, list(dict.fromkeys(region.body.outputs)))
        lines, items, scratch = print_nests(writer, nests)
        return writer.kernel(lines, items, scratch_bytes=scratch)


def _shapes_reason(region: Region) -> str | None:
    """Return why an input cannot be broadcast to the outputs, or None."""
    largest = max((operand.value.rank for operand in region.outputs), default=0)
    for node in region.body:
        for value in (*node.present_inputs, *node.outputs):
            if value.rank > largest and not _scalar_like(value.known_shape):
                return "an output is smaller than what it is computed from"
    return None


def _scalar_like(shape: Shape) -> bool:
    return all(dim == 1 for dim in shape)
