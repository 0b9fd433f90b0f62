"""Running sums and products along an axis.

y[i] = y[i-1] + x[i]: a chain of dependent additions along the axis. The loop runs over it from
outside, and inside over a block of elements that are contiguous across it, which is vectorised;
along the last axis of memory it is four cycles an element. Bound by that latency or by memory.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.access import print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import identity_map
from planish.backends.cpu.codegen.injection import anchor_reason
from planish.backends.cpu.codegen.loops import decompose_names, split_items
from planish.backends.cpu.codegen.row_tactic import RowBuilder
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.vector_loop import Span, vector_loop
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.graph import Node
from planish.ir.shape import ceildiv, product
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

KINDS = {"CumProd": ("1", "*"), "CumSum": ("0", "+")}
BLOCK = 256


class CumulativeTactic(Tactic):
    """Running totals, side by side where memory allows."""

    name: ClassVar[str] = "cumulative"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every type and flag when the axis is known."""
        if region.kind not in KINDS:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no(f"the body has no {region.kind}")
        if _axis(body.anchor) is None:
            return no("the axis is known only at run time")
        if len(body.prologue) > 0:
            return no("pointwise nodes are fused before it")
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
        return _print(writer, RowBuilder(body.anchor, body, writer), body.anchor)


def _axis(node: Node) -> int | None:
    known = contents(node.present_inputs[1])
    if known is None or not isinstance(known[0], int):
        return None
    return known[0] % max(node.present_inputs[0].rank, 1)


def _print(writer: KernelWriter, builder: RowBuilder, node: Node) -> Kernel:
    x, axis = builder.x, _axis(node) or 0
    extents, rank = x.known_shape, x.rank
    start, operator = KINDS[node.op]
    strides = writer.region.outputs[0].strides
    others = [k for k in range(rank) if k != axis]
    others.sort(key=lambda k: (-abs(writer.size(strides[k])), k))
    vector = others[-1] if others and strides[others[-1]] == 1 else None
    element = _element(builder, operator, bool(node.attributes["exclusive"]))
    total = f"totals[i{vector} - low]" if vector is not None else "total"
    element = [line.replace("TOTAL", total) for line in element]
    length = writer.dim(extents[axis])
    position = f"{length} - 1 - step" if node.attributes["reverse"] else "step"
    index = f"const int64_t i{axis} = {position};"
    header = f"for (int64_t step = 0; step < {length}; ++step)"
    ctype = builder.ctype
    if vector is None:
        lines = [f"{ctype} total = {start};", *block(header, [index, *element])]
        split = split_items(writer, extents, others, max(writer.size(extents[axis]), 1))
        body = split.wrap(writer, extents, split.inside, lines)
        items = split.items
    else:
        extent = extents[vector]
        span = Span("low", "high", extent)
        lines = [
            f"const int64_t low = part * {BLOCK};",
            f"const int64_t high = planish_min_i64({writer.dim(extent)}, low + {BLOCK});",
            f"{ctype} totals[{BLOCK}] __attribute__((aligned(64)));",
            f"for (int64_t j = 0; j < {BLOCK}; ++j) totals[j] = {start};",
            *block(
                header,
                [index, *vector_loop(writer, f"i{vector}", span, element, "#pragma GCC ivdep")],
            ),
        ]
        outer = [k for k in others if k != vector]
        parts = ceildiv(extent, BLOCK)
        names = [(f"i{k}", extents[k]) for k in outer] + [("part", parts)]
        body = [*decompose_names(writer, names), *lines]
        items = product(n for _, n in names)
    return writer.kernel(block("for (int64_t item = begin; item < end; ++item)", body), items)


def _element(builder: RowBuilder, operator: str, exclusive: bool) -> list[str]:
    """Return what happens at one element; TOTAL stands for the running total."""
    x, writer = builder.x, builder.writer
    index = identity_map(x.rank)
    part, name = builder.read(x, x.known_shape, index, x.rank)
    result = builder.node.outputs[0]
    y = writer.fresh("y")
    end = builder.finish(result, y, index, x.rank)
    lines = [
        f"const {compute_type(a.dtype)} {load} = {print_load(writer, a)};" for load, a in part.loads
    ]
    ctype = builder.ctype
    add = f"TOTAL = TOTAL {operator} {name};"
    seen = f"const {ctype} {y} = TOTAL;"
    lines += [*part.statements, *((seen, add) if exclusive else (add, seen))]
    lines += [
        f"const {compute_type(a.dtype)} {load} = {print_load(writer, a)};" for load, a in end.loads
    ]
    lines += end.statements
    return lines + [print_store(writer, access, text) for access, text in end.stores]
