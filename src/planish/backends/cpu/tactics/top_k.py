"""TopK: the k best elements of every row and their positions, in order.

A heap of the k best so far, worst on top: an element is compared with the top only, and few get in
once the heap is full, so that the scan runs at memory speed for k much smaller than the row. The
heap is then sorted in place. Of equal elements the one with the lower position is better.
"""

from __future__ import annotations

from typing import ClassVar

from planish.backends.cpu.codegen.access import print_load, print_store
from planish.backends.cpu.codegen.body import body_reason, split_body
from planish.backends.cpu.codegen.indexing import IndexMap, identity_map, operand_access, term_index
from planish.backends.cpu.codegen.injection import Builder
from planish.backends.cpu.codegen.loops import decompose_names
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.writer import KernelWriter, block
from planish.ir.shape import product
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

HELPERS = """
typedef struct {{ {ctype} value; int32_t at; }} @NAME@_entry;
/* Whether a is better than b. */
static inline int @NAME@_better(@NAME@_entry a, @NAME@_entry b) {{
    return a.value {sign} b.value || (a.value == b.value && a.at < b.at);
}}
/* Let heap[i] sink until no child is worse: the worst entry is heap[0]. */
static inline void @NAME@_sink(@NAME@_entry *heap, int64_t i, int64_t n) {{
    const @NAME@_entry moved = heap[i];
    for (int64_t child = 2 * i + 1; child < n; child = 2 * i + 1) {{
        if (child + 1 < n && @NAME@_better(heap[child], heap[child + 1])) ++child;
        if (!@NAME@_better(moved, heap[child])) break;
        heap[i] = heap[child];
        i = child;
    }}
    heap[i] = moved;
}}
"""


class TopKTactic(Tactic):
    """A heap for every row."""

    name: ClassVar[str] = "top_k"

    def supports(self, region: Region, target: Target) -> Support:
        """Accept every numeric type when k is an extent."""
        if region.kind != "TopK":
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None or body.pointwise:
            return no("pointwise nodes are fused with it")
        if len(region.body.outputs) != len(set(region.body.outputs)):
            return no("an output is there twice")
        reason = body_reason(region, body)
        return YES if reason is None else no(reason)

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel: an item is a row."""
        writer, node = KernelWriter(region, target), split_body(region).anchor
        if node is None:
            raise ValueError("supports() was not asked")
        builder = Builder(node, writer)
        x, y = builder.value(0), node.outputs[0]
        axis = int(node.attributes["axis"]) % x.rank
        ctype = compute_type(x.dtype)
        sign = ">" if node.attributes["largest"] else "<"
        writer.helpers.append(HELPERS.format(ctype=ctype, sign=sign))
        k, n = y.known_shape[axis], x.known_shape[axis]
        names = [(f"i{a}", extent) for a, extent in enumerate(y.known_shape) if a != axis]
        lines = ["@NAME@_entry *restrict const heap = (@NAME@_entry *)scratch;"]
        body = [
            *decompose_names(writer, names),
            *_select(builder, axis, writer.dim(k), writer.dim(n)),
            *_write(builder, axis, writer.dim(k)),
        ]
        lines += block("for (int64_t item = begin; item < end; ++item)", body)
        entry = 16 if ctype in ("double", "int64_t", "uint64_t") else 8
        scratch = -(-writer.largest(k) * entry // 64) * 64
        return writer.kernel(lines, product(e for _, e in names), scratch_bytes=scratch)


def _at(rank: int, axis: int, name: str) -> IndexMap:
    index = list(identity_map(rank))
    index[axis] = term_index(rank, name, ())
    return tuple(index)


def _select(builder: Builder, axis: int, k: str, n: str) -> list[str]:
    """Return C that fills the heap with the k best elements."""
    x = builder.value(0)
    memory = builder.pointwise.memory_of(x)
    access = operand_access(builder.writer, memory, x.known_shape, _at(x.rank, axis, "j"), x.rank)
    entry = f"const @NAME@_entry e = {{{print_load(builder.writer, access)}, (int32_t)j}};"
    return [
        *block(f"for (int64_t j = 0; j < {k}; ++j)", [entry, "heap[j] = e;"]),
        f"for (int64_t i = {k} / 2 - 1; i >= 0; --i) @NAME@_sink(heap, i, {k});",
        *block(
            f"for (int64_t j = {k}; j < {n} && {k} > 0; ++j)",
            [entry, "if (!@NAME@_better(e, heap[0])) continue;", "heap[0] = e;",
             f"@NAME@_sink(heap, 0, {k});"],
        ),
        *block(
            f"for (int64_t m = {k} - 1; m > 0; --m)",
            ["const @NAME@_entry worst = heap[0];", "heap[0] = heap[m];", "heap[m] = worst;",
             "@NAME@_sink(heap, 0, m);"],
        ),
    ]  # fmt: skip


def _write(builder: Builder, axis: int, k: str) -> list[str]:
    node, writer = builder.node, builder.writer
    shape = node.outputs[0].known_shape
    rank = len(shape)
    body = []
    for position, value in enumerate(writer.region.body.outputs):
        text = "heap[j].value" if value is node.outputs[0] else "heap[j].at"
        memory = builder.pointwise.output_memory(position)
        access = operand_access(writer, memory, shape, _at(rank, axis, "j"), rank)
        body.append(print_store(writer, access, text))
    return block(f"for (int64_t j = 0; j < {k}; ++j)", body)
