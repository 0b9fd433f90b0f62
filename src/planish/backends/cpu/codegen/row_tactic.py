"""The base of tactics that are row programs: reductions, softmax, normalizations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from planish.backends.cpu.codegen.access import Access
from planish.backends.cpu.codegen.body import (
    Body,
    Load,
    Part,
    Pointwise,
    body_reason,
    same_shape,
    split_body,
)
from planish.backends.cpu.codegen.indexing import IndexMap, operand_access
from planish.backends.cpu.codegen.injection import anchor_reason, depends
from planish.backends.cpu.codegen.rows import Accumulator, RowProgram, print_rows
from planish.backends.cpu.codegen.scalar import compute_type
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.dtypes import DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, product
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


@dataclass(frozen=True)
class Finish:
    """The epilogue of some results: loads, statements and stores of the region's outputs."""

    loads: tuple[Load, ...]
    statements: tuple[str, ...]
    stores: tuple[tuple[Access, str], ...]


class RowBuilder:
    """What the functions that describe a row program receive."""

    def __init__(self, node: Node, body: Body, writer: KernelWriter) -> None:
        self.node = node
        self.body = body
        self.writer = writer
        self.pointwise = Pointwise(writer)

    @property
    def x(self) -> Value:
        """The anchor's first input."""
        return self.node.present_inputs[0]

    @property
    def ctype(self) -> str:
        """The C type in which the anchor computes."""
        return compute_type(self.x.dtype)

    @property
    def suffix(self) -> str:
        """Suffix of prelude functions for that type."""
        return "_f64" if self.ctype == "double" else ""

    def number(self, value: float) -> str:
        """Return a floating-point constant of the compute type."""
        return f"{float(value)!r}" + ("" if self.ctype == "double" else "f")

    def accumulator(self, stem: str, initial: str, operator: str, ctype: str = "") -> Accumulator:
        """Return a new row variable."""
        return Accumulator(self.writer.fresh(stem), ctype or self.ctype, initial, operator)

    def read(self, value: Value, space: Shape, index: IndexMap, rank: int) -> tuple[Part, str]:
        """Return the C that reads an input of the anchor, its prologue included, and its name."""
        part = self.pointwise.part([value], space, index, rank)
        return part, part.names[value]

    def count(self, extents: Sequence[Dim]) -> str:
        """Return the number of elements of a row in the compute type."""
        total = product(extents)
        if isinstance(total, int):
            return self.number(float(max(total, 0)))
        return f"({self.ctype}){self.writer.dim(total)}"

    def finish(
        self,
        result: Value,
        name: str,
        index: IndexMap,
        rank: int,
        known: Mapping[Value, str] | None = None,
    ) -> Finish:
        """Return the epilogue and stores of `result`, one output of the anchor.

        `known` are further values with names at this point (the anchor's input); outputs of the
        region that depend on them alone are stored as well.
        """
        given = {result: name, **(known or {})}
        outputs = [
            (k, value)
            for k, value in enumerate(self.writer.region.body.outputs)
            if any(value is source or depends(value, source) for source in given)
            and not self._of_other_result(value, result)
        ]
        space = result.known_shape
        part = self.pointwise.part([v for _, v in outputs], space, index, rank, given)
        stores = []
        for k, value in outputs:
            memory = self.pointwise.output_memory(k)
            access = operand_access(self.writer, memory, space, index, rank)
            stores.append((access, part.names[value]))
        return Finish(part.loads, part.statements, tuple(stores))

    def _of_other_result(self, value: Value, result: Value) -> bool:
        others = [output for output in self.node.outputs if output is not result]
        return any(value is other or depends(value, other) for other in others)


Describe = Callable[[RowBuilder], "RowProgram | str"]


class RowTactic(Tactic):
    """Base of tactics that are tables of `Describe` functions by operator."""

    describe: ClassVar[Mapping[str, Describe]] = {}

    def supports(self, region: Region, target: Target) -> Support:
        """Accept the table's operators with printable prologue and epilogue."""
        if region.kind not in self.describe:
            return no(f"it does not do {region.kind}")
        body = split_body(region)
        if body.anchor is None:
            return no(f"the body has no {region.kind}")
        reason = body_reason(region, body) or anchor_reason(region, body)
        reason = reason or _outputs_reason(region, body.anchor)
        if reason is not None:
            return no(reason)
        found = self.describe[region.kind](RowBuilder(body.anchor, body, KernelWriter(region)))
        return no(found) if isinstance(found, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        program = self.describe[region.kind](RowBuilder(body.anchor, body, writer))
        if isinstance(program, str):
            raise ValueError(program)
        printed = print_rows(writer, program, target.threads)
        return writer.kernel(printed.lines, printed.items, scratch_bytes=printed.scratch_bytes)


def _outputs_reason(region: Region, anchor: Node) -> str | None:
    """Return why an output that does not come from the anchor cannot be stored, or None."""
    x = anchor.present_inputs[0]
    for output in region.body.outputs:
        if any(output is value or depends(output, value) for value in anchor.outputs):
            continue
        on_x = output is x or depends(output, x)
        if not on_x or not same_shape(output.known_shape, anchor.outputs[0].known_shape):
            return "an output does not depend on the anchor"
    return None


def is_plain(part: Part, dtype: DType) -> bool:
    """Whether reading again costs no more than recalling from a row buffer."""
    return not part.statements and dtype.bits >= 32 and len(part.loads) <= 1
