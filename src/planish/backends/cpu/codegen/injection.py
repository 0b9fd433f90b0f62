"""Kernels whose every output element comes from known input elements: no accumulation.

An `Injection` describes (part of) an operator as a nest: where its inputs are read, and where the
result goes. Transpose, Slice, Concat, Gather, Pad and all pointwise regions are lists of
injections; prologue and epilogue are printed around them, and `loops.py` decides how to walk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from planish.backends.cpu.codegen.access import print_load
from planish.backends.cpu.codegen.body import (
    Body,
    Load,
    Pointwise,
    ancestors,
    body_reason,
    same_shape,
    split_body,
)
from planish.backends.cpu.codegen.indexing import IndexMap, identity_map, operand_access
from planish.backends.cpu.codegen.loops import Nest, print_nests
from planish.backends.cpu.codegen.scalar import compute_type, literal, scalar_constant
from planish.backends.cpu.codegen.vector_form import VectorForm
from planish.backends.cpu.codegen.writer import KernelWriter
from planish.ir.graph import Node, Value
from planish.ir.shape import Shape
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Kernel, Region, Support, Tactic, no
from planish.tactics.target import Target


@dataclass(frozen=True)
class Injection:
    """One nest of an operator that moves or makes elements.

    Attributes
    ----------
    extents : Shape
        The nest's axes.
    reads : tuple of (Value, IndexMap)
        Inputs of the anchor and the index at which each is read.
    write : IndexMap
        Index in the anchor's output.
    output : int
        Which output of the anchor.
    expression : callable or None
        From the C names of the values read to the element; None: the only value read.
    used : frozenset of int
        Axes whose index ``i<k>`` the expression uses.
    """

    extents: Shape
    reads: tuple[tuple[Value, IndexMap], ...]
    write: IndexMap
    output: int = 0
    expression: Callable[[Sequence[str]], str] | None = None
    used: frozenset[int] = frozenset()


class Builder:
    """What the functions that describe an operator receive: the node, and a writer for C text."""

    def __init__(self, node: Node, writer: KernelWriter) -> None:
        self.node = node
        self.writer = writer
        self.pointwise = Pointwise(writer)

    def shape(self, index: int) -> Shape:
        """Return the shape of input `index`."""
        value = self.node.inputs[index]
        return value.known_shape if value is not None else ()

    def value(self, index: int) -> Value:
        """Return input `index`, which is there."""
        return self.node.present_inputs[index]

    def scalar(self, value: Value) -> str | None:
        """Return C for a tensor of one element, or None where a node of the region computes it."""
        constant = scalar_constant(value)
        if constant is not None:
            return literal(constant, value.dtype)
        known = contents(value)
        if known is not None and len(known) == 1:
            return f"({compute_type(value.dtype)}){self.writer.dim(known[0])}"
        if not self.is_operand(value):
            return None
        rank = value.rank
        return self.element(value, value.known_shape, identity_map(rank), 0)[0]

    def is_operand(self, value: Value) -> bool:
        """Whether `value` is read directly: an input of the region or a constant."""
        return value.producer is None

    def element(
        self, value: Value, space: Shape, index: IndexMap, rank: int
    ) -> tuple[str, set[int]]:
        """Return C that reads one element of a direct operand, and the loop axes it uses."""
        constant = scalar_constant(value)
        if constant is not None:
            return literal(constant, value.dtype), set()
        from_memory = self.pointwise.memory_of(value)
        access = operand_access(self.writer, from_memory, space, index, rank)
        axes = {k for k, stride in enumerate(access.strides) if stride != 0}
        for term in access.terms:
            axes |= term.axes
        return print_load(self.writer, access), axes


# describes an operator; a string says why it cannot
Describe = Callable[[Builder], "list[Injection] | str"]


class InjectiveTactic(Tactic):
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
        if reason is not None:
            return no(reason)
        found = self.describe[region.kind](Builder(body.anchor, KernelWriter(region)))
        return no(found) if isinstance(found, str) else YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return the only configuration."""
        return [{}]

    def build(self, region: Region, config: Config, target: Target) -> Kernel:
        """Return the kernel."""
        writer, body = KernelWriter(region, target), split_body(region)
        if body.anchor is None:
            raise ValueError("supports() was not asked")
        injections = self.describe[region.kind](Builder(body.anchor, writer))
        if isinstance(injections, str):
            raise ValueError(injections)
        nests = injection_nests(writer, body, injections)
        lines, items, scratch = print_nests(writer, nests)
        return writer.kernel(lines, items, scratch_bytes=scratch)


def anchor_reason(region: Region, body: Body) -> str | None:
    """Return why the region's outputs do not fit the anchor's, or None."""
    if body.anchor is None:
        return "there is no anchor"
    for output in region.body.outputs:
        sources = [
            value for value in body.anchor.outputs if value is output or depends(output, value)
        ]
        if len(sources) > 1:
            return "an output combines several outputs of the anchor"
        if sources and not same_shape(sources[0].known_shape, output.known_shape):
            return "the epilogue changes the shape"
    return None


def depends(value: Value, source: Value) -> bool:
    """Whether a node between them makes `value` depend on `source`."""
    nodes = ancestors([value], [source])
    return any(source in node.present_inputs for node in nodes)


def injection_nests(
    writer: KernelWriter, body: Body, injections: Sequence[Injection]
) -> list[Nest]:
    """Return the nests of an anchor with its prologue and epilogue."""
    anchor = body.anchor
    nests = []
    for injection in injections:
        if anchor is not None:
            nests.append(_nest(writer, anchor, injection))
    done = {output for output in writer.region.body.outputs if _of_anchor(output, anchor)}
    rest = [output for output in writer.region.body.outputs if output not in done]
    return nests + pointwise_nests(writer, rest)


def _of_anchor(output: Value, anchor: Node | None) -> bool:
    if anchor is None:
        return False
    return any(output is value or depends(output, value) for value in anchor.outputs)


def _nest(writer: KernelWriter, anchor: Node, injection: Injection) -> Nest:
    pointwise, region = Pointwise(writer), writer.region
    rank = len(injection.extents)
    loads: list[Load] = []
    statements: list[str] = []
    read_names: list[str] = []
    for value, index in injection.reads:
        space = value.known_shape if len(index) == value.rank else anchor.outputs[0].known_shape
        part = pointwise.part([value], space, index, rank)
        loads += part.loads
        statements += part.statements
        read_names.append(part.names[value])
    result = anchor.outputs[injection.output]
    name = read_names[0] if injection.expression is None else writer.fresh("r")
    if injection.expression is not None:
        ctype = compute_type(result.dtype)
        statements.append(f"const {ctype} {name} = {injection.expression(read_names)};")
    outputs = [
        (k, value)
        for k, value in enumerate(region.body.outputs)
        if value is result or depends(value, result)
    ]
    space = result.known_shape
    part = pointwise.part([v for _, v in outputs], space, injection.write, rank, {result: name})
    stores = []
    for k, value in outputs:
        memory = pointwise.output_memory(k)
        access = operand_access(writer, memory, space, injection.write, rank)
        stores.append((access, part.names[value]))
    return Nest(
        injection.extents,
        (*loads, *part.loads),
        (*statements, *part.statements),
        tuple(stores),
        injection.used,
    )


def pointwise_nests(writer: KernelWriter, outputs: Sequence[Value]) -> list[Nest]:
    """Return the nests that compute pointwise `outputs`, one for each distinct shape."""
    region, pointwise = writer.region, Pointwise(writer)
    groups: dict[Shape, list[Value]] = {}
    for output in outputs:
        groups.setdefault(output.known_shape, []).append(output)
    nests = []
    for space, values in groups.items():
        index = identity_map(len(space))
        part = pointwise.part(values, space, index, len(space))
        stores, stored = [], []
        for k, value in enumerate(region.body.outputs):
            if any(value is wanted for wanted in values):
                memory = pointwise.output_memory(k)
                access = operand_access(writer, memory, space, index, len(space))
                stores.append((access, part.names[value]))
                stored.append(value)
        form = VectorForm(part.nodes, part.loaded, tuple(stored))
        nests.append(
            Nest(space, part.loads, part.statements, tuple(stores), vectors=form.if_useful(writer))
        )
    return nests
