"""Writing at indices that are data: ScatterElements and ScatterND.

y = x; y[index(i)] = y[index(i)] (op) u[i], in the order of i, so that the last of several writes to
one element wins. That order makes it one item: the copy is vectorised, the writes are not. Bound by
the copy of x unless most elements are written, or y lies where x does (a loop that writes into what
it carries): then nothing is copied. Indices out of range are clamped.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.access import print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import (
    Index,
    IndexMap,
    fixed_index,
    identity_map,
    loop_index,
    operand_access,
    term_index,
)
from planish.backends.cpu.codegen.injection import Builder
from planish.backends.cpu.codegen.loops import Nest, print_nests
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.dtypes import BOOL
from planish.ir.graph import Value
from planish.ir.shape import Dim, Shape
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

KINDS = ("ScatterElements", "ScatterND")
COMBINE = {
    "none": "{new}",
    "add": "{old} + {new}",
    "mul": "{old} * {new}",
    "max": "{new} > {old} ? {new} : {old}",
    "min": "{new} < {old} ? {new} : {old}",
}


class ScatterTactic(Tactic):
    """A copy followed by writes in order."""

    name: ClassVar[str] = "scatter"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept scatters that stand alone in their region."""
        if region.kind not in KINDS:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None or body.pointwise:
            return no("pointwise nodes are fused with the scatter")
        node = body.anchor
        if node.op == "ScatterND" and not isinstance(node.present_inputs[1].known_shape[-1], int):
            return no("the length of the index tuples is symbolic")
        combine = str(node.attributes["reduction"])
        if combine not in COMBINE or (combine in ("add", "mul") and node.output.dtype is BOOL):
            return no(f"reduction {combine} of {node.output.dtype} is left to the reference")
        reason = body_reason(region, body)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, node = KernelWriter(region, target), split_body(region).anchor
        if node is None:
            raise ValueError("supports() was not asked")
        builder = Builder(node, writer)
        copy, items, scratch = print_nests(writer, [_copy(builder)])
        first = [f"const int64_t begin = 0, end = {writer.dim(items)};", *copy]
        lines = ["if (begin >= end) return;", *block(_unless_in_place(writer), first)]
        lines += _writes(builder)
        return writer.kernel(lines, 1, scratch_bytes=scratch)


def _unless_in_place(writer: KernelWriter) -> str:
    """Return the condition under which x has to be copied; empty for always."""
    region = writer.region
    x, y, anchor = region.inputs[0], region.outputs[0], region.anchor
    is_operand = anchor is not None and anchor.inputs[0] is x.value
    if not is_operand or x.strides != y.strides:
        return ""
    # as numbers: the pointers are restrict, and compilers may take them for different ones
    return f"if ((uintptr_t){writer.input_pointer(0)} != (uintptr_t){writer.output_pointer(0)})"


def _copy(builder: Builder) -> Nest:
    x, shape = builder.value(0), builder.shape(0)
    index = identity_map(len(shape))
    part = builder.pointwise.part([x], shape, index, len(shape))
    target = builder.pointwise.output_memory(0)
    access = operand_access(builder.writer, target, shape, index, len(shape))
    return Nest(shape, part.loads, part.statements, ((access, part.names[x]),))


def _writes(builder: Builder) -> list[str]:
    """Return the loops over all updates."""
    node, writer = builder.node, builder.writer
    updates = builder.value(2)
    space = updates.known_shape
    rank = len(space)
    at = _elements(builder, rank) if node.op == "ScatterElements" else _tuples(builder, rank)
    part = builder.pointwise.part([updates], space, identity_map(rank), rank)
    memory = builder.pointwise.output_memory(0)
    access = operand_access(writer, memory, node.output.known_shape, at, rank)
    combine = COMBINE[str(node.attributes["reduction"])]
    old = print_load(writer, access)
    ctype = compute_type(node.output.dtype)
    body = [
        f"const {compute_type(load.dtype)} {name} = {print_load(writer, load)};"
        for name, load in part.loads
    ]
    body.append(f"const {ctype} result = {combine.format(old=old, new=part.names[updates])};")
    body.append(print_store(writer, access, "result"))
    return _loops(writer, space, body)


def _loops(writer: KernelWriter, space: Shape, body: list[str]) -> list[str]:
    for axis in reversed(range(len(space))):
        header = f"for (int64_t i{axis} = 0; i{axis} < {writer.dim(space[axis])}; ++i{axis})"
        body = block(header, body)
    return body


def _looked_up(builder: Builder, where: Value, at: IndexMap, extent: Dim, rank: int) -> Index:
    text, axes = builder.element(where, where.known_shape, at, rank)
    wrapped = f"planish_index((int64_t)({text}), {builder.writer.dim(extent)})"
    return term_index(rank, wrapped, sorted(axes))


def _elements(builder: Builder, rank: int) -> IndexMap:
    axis = int(builder.node.attributes["axis"]) % rank
    index = list(identity_map(rank))
    where, extent = builder.value(1), builder.shape(0)[axis]
    index[axis] = _looked_up(builder, where, identity_map(rank), extent, rank)
    return tuple(index)


def _tuples(builder: Builder, rank: int) -> IndexMap:
    where, shape = builder.value(1), builder.shape(0)
    outer, length = where.rank - 1, int(str(where.known_shape[-1]))
    index = []
    for k in range(length):
        at = (*(loop_index(axis, rank) for axis in range(outer)), fixed_index(rank, k))
        index.append(_looked_up(builder, where, at, shape[k], rank))
    return (*index, *(loop_index(outer + k, rank) for k in range(len(shape) - length)))
