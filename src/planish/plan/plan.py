"""The plan: what the runtime executes, in order, with every address decided.

A plan is data. It is made by `plan/schedule.py` and `plan/memory.py`, proved by `plan/verify.py`,
printed into the driver's C source, and stored in the engine as `plan.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planish.ir.requirement import Requirement
from planish.ir.shape import Dim, Shape

UNLIMITED = 1 << 31  # iterations of a loop that only data ends


@dataclass(frozen=True)
class Binding:
    """One pointer of a step.

    Attributes
    ----------
    space : str
        "input" or "output" (a caller's array), "arena", or "weights".
    index : int
        Which input or output; 0 for arena and weights.
    offset : Dim
        Bytes from the start of the array, the arena or the weights; may hold symbols.
    """

    space: str
    index: int
    offset: Dim


@dataclass(frozen=True)
class HaloFill:
    """Memory around a value that the driver zeroes before the step that first writes the value.

    `binding` addresses the allocation's first byte (halo included). Axes are in memory order,
    outermost first; `sizes` includes the halo.
    """

    binding: Binding
    sizes: Shape
    halo: tuple[tuple[int, int], ...]
    itemsize: int


@dataclass(frozen=True)
class Operand:
    """How an external kernel sees one pointer: an array view."""

    dtype: str
    shape: Shape
    strides: Shape  # in elements


@dataclass(frozen=True)
class Step:
    """One region in execution order.

    Attributes
    ----------
    name : str
        C identifier of the region.
    layers : str
        The user's node names that the region covers.
    function : str or None
        Symbol of the native kernel; None for an external kernel.
    external : int or None
        Index into `Plan.externals`.
    bindings : tuple of Binding
        Inputs, outputs, packed constants, in the kernel's order.
    operands : tuple of Operand
        One for each input and output (external kernels need them; native ones know).
    outputs : int
        How many of the operands, at the end, are written.
    items : Dim
        Independent work items.
    fills : tuple of HaloFill
        Halos to zero along with this step.
    guard : tuple of (Binding, bool) pairs
        The step runs only when every boolean at these addresses has the given value (If).
    loop : int or None
        Index into `Plan.loops` of the innermost loop around the step.
    grid : tuple of Dim
        Blocks of the launch on a GPU; empty elsewhere.
    stream : int
        The stream of a GPU on which it runs.
    after : tuple of int
        Steps on other streams that it waits for.
    """

    name: str
    layers: str
    function: str | None
    external: int | None
    bindings: tuple[Binding, ...]
    operands: tuple[Operand, ...]
    outputs: int
    items: Dim
    scratch_bytes: int = 0
    fills: tuple[HaloFill, ...] = ()
    guard: tuple[tuple[Binding, bool], ...] = ()
    loop: int | None = None
    grid: Shape = ()
    stream: int = 0
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loop:
    """Consecutive steps [first, last) that run several times; `symbol` holds the iteration.

    Attributes
    ----------
    count : Dim
        The most iterations, as far as shapes tell; `UNLIMITED` where only the data does.
    limit : Binding or None
        An int64 that the loop reads when it starts: it runs at most that often.
    condition : Binding or None
        A boolean that is read before every iteration: the loop goes on while it is true.
    counter : Binding or None
        Where the number of the iteration is stored for kernels that read it as data (int64).
    guard : tuple of (Binding, bool) pairs
        The loop runs only when every boolean at these addresses has the given value (If).
    parent : int or None
        Index of the loop around it.
    """

    first: int
    last: int
    count: Dim
    symbol: str
    parent: int | None = None
    limit: Binding | None = None
    condition: Binding | None = None
    counter: Binding | None = None
    guard: tuple[tuple[Binding, bool], ...] = ()


@dataclass(frozen=True)
class TensorInfo:
    """A public input or output: name, dtype name and logical shape (row-major in memory)."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class MemoryReport:
    """Arena bytes against the sum of all tensors and the largest live set (the lower bound)."""

    arena: int
    sum_of_tensors: int
    largest_live_set: int
    weights: int


@dataclass(frozen=True)
class Plan:
    """Everything the runtime needs besides code and weights.

    `symbols` are in the order in which kernels receive their values; `ranges` gives each symbol's
    (min, opt, max). Loop symbols come last. `externals` holds (kind, parameters) of external
    kernels. Kernels rely on `requirements`, so the runtime checks them for every set of shapes.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbols: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int, int]]
    steps: tuple[Step, ...]
    memory: MemoryReport
    loops: tuple[Loop, ...] = ()
    externals: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    arena_bytes: int = 0
    scratch_bytes: int = 0
    layers: Mapping[str, Any] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()

    def loop_at(self, first: int, last: int, around: int) -> int | None:
        """Return the loop that starts at step `first` directly inside loop `around` (-1: none).

        It ends at step `last` at the latest.
        """
        for index, loop in enumerate(self.loops):
            parent = -1 if loop.parent is None else loop.parent
            if parent == around and loop.first == first and first < loop.last <= last:
                return index
        return None
