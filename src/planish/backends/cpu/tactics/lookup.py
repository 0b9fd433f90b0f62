"""Pointwise functions of one byte as a table of 256 bytes.

    y[i] = table[x[i]]

Whatever stands between DequantizeLinear and QuantizeLinear of one tensor (an activation, a clip, a
change of scale) is a function of eight bits. The reference computes the table at build time, so the
results are exactly its own. With AVX512_VBMI a register pair is a table of 128 bytes: two look-ups,
one choice for 64 elements, which leaves memory as the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from planish.backends.cpu.codegen.access import offset_of, prune_axes
from planish.backends.cpu.codegen.indexing import Memory, identity_map, operand_access
from planish.backends.cpu.codegen.loops import Nest, print_nests
from planish.backends.cpu.codegen.vector_form import Loads, Stores
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.dtypes import I8, U8
from planish.ops.interpreter import run_graph
from planish.ops.op import op_of
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target

BYTES = (I8, U8)


class LookupTactic(Tactic):
    """Pointwise regions from one tensor of bytes to one of bytes."""

    name: ClassVar[str] = "lookup"
    rank: ClassVar[int] = 10

    def supports(self, region: Region, target: Target) -> Support:
        """Accept one operand of bytes on either side, and constants of one element."""
        if region.anchor is not None:
            return no(f"the region has an anchor, {region.kind}")
        if len(region.inputs) != 1 or len(region.outputs) != 1 or not len(region.body):
            return no("it is no function of one tensor")
        x, y = region.inputs[0], region.outputs[0]
        if x.dtype not in BYTES or y.dtype not in BYTES or x.shape != y.shape:
            return no("it is no function from bytes to bytes")
        if not all(op_of(node).pointwise for node in region.body):
            return no("not every node is pointwise")
        if any(value.array.size != 1 for value in region.body.constants()):
            return no("it is not the same function for every element")
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer = KernelWriter(region, target)
        x, y = region.inputs[0], region.outputs[0]
        index, rank = identity_map(len(x.shape)), len(x.shape)
        table = writer.pack(table_of(region))
        source = Memory(writer.input_pointer(0), x.dtype, x.shape, x.strides)
        result = Memory(writer.output_pointer(0), y.dtype, y.shape, y.strides)
        name = writer.fresh("a")
        read = operand_access(writer, source, x.shape, index, rank)
        write = operand_access(writer, result, x.shape, index, rank)
        store = (write, f"{table}[(uint8_t){name}]")
        nest = Nest(x.shape, ((name, read),), (), (store,), vectors=TableForm(table))
        lines, items, scratch = print_nests(writer, [nest])
        return writer.kernel(lines, items, scratch_bytes=scratch)


def table_of(region: Region) -> np.ndarray[Any, Any]:
    """Return the function's results in the order of the bytes that stand for its arguments."""
    dtype = region.inputs[0].dtype
    bytes_ = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    rank = region.inputs[0].value.rank
    if rank == 0:
        return np.stack([run_graph(region.body, [np.asarray(byte)])[0] for byte in bytes_])
    return run_graph(region.body, [bytes_.reshape((1,) * (rank - 1) + (256,))])[0].reshape(256)


@dataclass(frozen=True)
class TableForm:
    """Looks up whole runs; see `planish_lookup`."""

    table: str

    def fits(self, loads: Loads, stores: Stores, axis: int) -> bool:
        """Whether both sides are contiguous along `axis`."""
        accesses = [access for _, access in loads] + [access for access, _ in stores]
        return all(access.strides[axis] == 1 and not access.terms for access in accesses)

    def print_loop(
        self, writer: KernelWriter, loads: Loads, stores: Stores, axis: int, low: str, high: str
    ) -> list[str]:
        """Return the call for positions `low` to `high`."""
        (_, read), (write, _) = loads[0], stores[0]
        x, y = (
            f"{access.pointer} + {offset_of(writer, prune_axes(access, (axis,)))} + {low}"
            for access in (read, write)
        )
        return [f"planish_lookup({y}, {x}, {self.table}, {high} - {low});"]
