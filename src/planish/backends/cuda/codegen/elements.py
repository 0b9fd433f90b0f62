"""Kernels whose every lane computes one element of an operator's output, from its coordinates.

A block is one vector of output elements in the order in which they lie, so that stores are
contiguous. An operator is a function that prints how an element is found: which elements of the
inputs it reads (`read` at coordinates that are text), and what it makes of them. Prologue,
epilogue, strides and masks are the printer's. This is the general way, not the fastest: nothing is
shared between elements but what the caches keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from planish.backends.cuda.codegen.printer import Group, Printer, unprintable
from planish.backends.cuda.codegen.triton_types import compute_type, literal
from planish.errors import TacticError
from planish.ir.dtypes import DType
from planish.ir.graph import Node, Value
from planish.ir.shape import Dim, Shape, ceildiv, evaluate, product
from planish.ops.content import contents
from planish.tactics.tactic import YES, Config, Operand, Region, Support, Tactic, TritonKernel, no
from planish.tactics.target import Target


class Elements:
    """What the function that describes an operator receives.

    Attributes
    ----------
    node : Node
        The anchor.
    at : list of str
        Coordinates of the lane's element of the anchor's output.
    mask : str or None
        Which lanes have an element; None for all.
    """

    def __init__(self, region: Region, node: Node, config: Config) -> None:
        self.region, self.node = region, node
        self.printer = Printer(region)
        self.block, self.warps = int(config["block"]), int(config["warps"])
        self.at: list[str] = []
        self.mask: str | None = None
        self._groups: list[Group] = []
        self._lines: list[str] = []
        self._depth = 0

    # -- statements ------------------------------------------------------------------------------

    def say(self, line: str) -> None:
        """Add a statement."""
        self._lines.append("    " * self._depth + line)

    def let(self, stem: str, expression: str) -> str:
        """Add the definition of a new name and return the name."""
        name = self.printer.fresh(stem)
        self.say(f"{name} = {expression}")
        return name

    @contextmanager
    def block_of(self, header: str) -> Iterator[None]:
        """Put what is said inside into the block behind `header`."""
        self.say(header)
        self._depth += 1
        yield
        self._depth -= 1

    def dim(self, dim: Dim) -> str:
        """Return an extent as text."""
        return self.printer.dim(dim)

    def full(self, value: str, kind: str) -> str:
        """Return a vector of one number of a Triton type."""
        return f"tl.full(({self.block},), {value}, {kind})"

    # -- the index space -------------------------------------------------------------------------

    def walk(self, space: Shape, order: tuple[int, ...]) -> None:
        """Define the coordinates of the lanes in `space`, whose axes lie in `order`."""
        total = product(space)
        whole = isinstance(total, int) and total % self.block == 0
        wide = self.printer.largest(total) >= 1 << 31
        start = "tl.program_id(0).to(tl.int64)" if wide else "tl.program_id(0)"
        index = self.let("index", f"{start} * {self.block} + tl.arange(0, {self.block})")
        self.mask = None if whole else self.let("mask", f"{index} < {self.dim(total)}")
        self._groups = [Group(order, index, self.mask)]
        names = {}
        inner: Dim = 1
        for axis in reversed(order):
            text = index if inner == 1 else f"({index} // {self.dim(inner)})"
            inner = inner * space[axis]
            if inner != total:
                text = f"({text} % {self.dim(space[axis])})"
            names[axis] = self.let("i", text)
        self.at = [names[axis] for axis in range(len(space))]

    # -- reading ---------------------------------------------------------------------------------

    def read(
        self, value: Value, at: Sequence[str | Dim], where: str | None = None, *, bare: bool = False
    ) -> str:
        """Return the name of the element of `value` at coordinates, in its compute type.

        Lanes without an element, and those where `where` is false, read nothing and get 0. With
        `bare`, the coordinates are scalars that exist for all lanes: no mask is applied.
        """
        conditions = [text for text in (None if bare else self.mask, where) if text is not None]
        mask = " & ".join(f"({text})" for text in conditions) or None
        shape = value.known_shape
        groups = [
            Group((axis,), self._coordinate(place), mask)
            for axis, place in enumerate(at)
            if shape[axis] != 1
        ]
        return self._load(value, groups)

    def read_flat(self, value: Value, position: str) -> str:
        """Return the name of the element at a row-major position."""
        axes = tuple(range(value.rank))
        return self._load(value, [Group(axes, position, self.mask)])

    def scalar(self, value: Value) -> str:
        """Return a tensor of one element as text; extents, where it holds one."""
        known = contents(value)
        if known is not None and len(known) == 1:
            if value.dtype.is_float:
                return f"{self.dim(known[0])}.0" if isinstance(known[0], int) else self._one(value)
            return self.dim(known[0])
        return self._one(value)

    def _one(self, value: Value) -> str:
        return self.read(value, [0] * value.rank, bare=True)

    def _coordinate(self, place: str | Dim) -> str:
        return place if isinstance(place, str) else f"(tl.program_id(0) * 0 + {self.dim(place)})"

    def _load(self, value: Value, groups: Sequence[Group]) -> str:
        lines, names = self.printer.pointwise([value], value.known_shape, groups, {})
        for line in lines:
            self.say(line)
        return names[value]

    # -- writing ---------------------------------------------------------------------------------

    def finish(self, results: Sequence[str]) -> TritonKernel:
        """Return the kernel that stores what the region makes of the anchor's outputs."""
        given = dict(zip(self.node.outputs, results, strict=False))
        space = self.node.outputs[0].known_shape
        values = [operand.value for operand in self.region.outputs]
        lines, names = self.printer.pointwise(values, space, self._groups, given)
        for line in lines:
            self.say(line)
        for index, value in enumerate(values):
            memory = self.printer.output(index)
            self.say(self.printer.store(memory, space, self._groups, names[value]))
        return self.kernel(ceildiv(product(space), self.block))

    def store(self, index: int, text: str) -> None:
        """Write to region output `index` at the lanes' coordinates; nothing follows the anchor."""
        memory = self.printer.output(index)
        self.say(self.printer.store(memory, memory.shape, self._groups, text))

    def kernel(self, *grid: Dim) -> TritonKernel:
        """Return the kernel of what was said."""
        return self.printer.kernel(self._lines, grid, warps=self.warps)


# prints the elements of an anchor's outputs and returns their names; raises TacticError to refuse
Describe = Callable[[Elements], Sequence[str]]


class ElementTactic(Tactic):
    """Base of tactics that are tables of `Describe` functions by operator."""

    device: ClassVar[str] = "cuda"
    rank: ClassVar[int] = 30
    describe: ClassVar[Mapping[str, Describe]] = {}

    def supports(self, region: Region, target: Target) -> Support:
        """Accept the table's operators with printable prologue and epilogue."""
        if region.kind not in self.describe:
            return no(f"it is no operator of {self.name}")
        reason = anchor_reason(region)
        if reason is not None:
            return no(reason)
        try:
            self.build(region, {"block": 128, "warps": 4}, target)
        except TacticError as error:
            return no(error.what)
        return YES

    def configs(self, region: Region, target: Target) -> list[Config]:
        """Return elements of a block, by warps."""
        total = Printer(region).tune_size(product(region.outputs[0].shape))
        sizes = [(512, 4), (256, 4), (1024, 8)] if total > 1 << 18 else [(128, 4), (256, 4)]
        return [{"block": block, "warps": warps} for block, warps in sizes]

    def build(self, region: Region, config: Config, target: Target) -> TritonKernel:
        """Return the kernel."""
        node = anchor_of(region)
        elements = Elements(region, node, config)
        space = node.outputs[0].known_shape
        elements.walk(space, memory_order(region.outputs[0], region))
        return elements.finish(self.describe[node.op](elements))


def anchor_of(region: Region) -> Node:
    """Return the region's anchor; raise TacticError when there is none."""
    if region.anchor is None:
        raise TacticError("it has no anchor", where=region.name)
    return region.anchor


def anchor_reason(region: Region) -> str | None:
    """Return why a kernel over the anchor's elements cannot print `region`, or None."""
    if region.anchor is None:
        return "it has no anchor"
    space = region.anchor.outputs[0].known_shape
    if any(operand.shape != space for operand in region.outputs):
        return "the epilogue changes the shape"
    return unprintable(region, region.anchor)


def memory_order(operand: Operand, region: Region) -> tuple[int, ...]:
    """Return an operand's axes in the order in which they lie, outermost first."""
    sizes = {name: bounds[1] for name, bounds in region.ranges.items()}
    steps = [evaluate(stride, sizes) for stride in operand.strides]
    wide = [evaluate(extent, sizes) != 1 for extent in operand.shape]
    axes = sorted(range(len(steps)), key=lambda axis: (wide[axis], -steps[axis], axis))
    return tuple(axes)


def typed(text: str, dtype: DType) -> str:
    """Return a tensor's text in the compute type of `dtype`."""
    return f"({text}).to({compute_type(dtype)})"


def zero_of(dtype: DType) -> str:
    """Return 0 as a literal of `dtype`."""
    return literal(0, dtype)
