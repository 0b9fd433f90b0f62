"""When every piece of memory is written first and read last, and what may be overwritten in place.

The unit is the *root*: a value that owns memory, together with everything that aliases it. A root
lives from the first step that writes any part of it to the last step that reads any part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from planish.errors import PlanError
from planish.ir.graph import Node, Value
from planish.ir.layout import Halo, Layout
from planish.ir.shape import Dim
from planish.ops.region import works_in_place
from planish.plan.memory import Buffer, Ranges, upper_bound

Guard = tuple[tuple[Value, bool], ...]


@dataclass
class LoopSpan:
    """Consecutive steps [first, last) that a Loop node repeats.

    Attributes
    ----------
    node : Node
    guard : tuple
        The conditions under which the loop runs.
    parent : int or None
        Index of the loop around it.
    limit, condition, counter : Value or None
        What the driver reads once, reads before every iteration, and writes in every iteration.
    """

    node: Node
    first: int
    last: int
    guard: Guard
    parent: int | None = None
    limit: Value | None = None
    condition: Value | None = None
    counter: Value | None = None

    @property
    def given(self) -> list[Value]:
        """Return what the driver reads."""
        return [
            v for v in (self.limit, self.condition, *(c for c, _ in self.guard)) if v is not None
        ]


@dataclass(frozen=True)
class Access:
    """Roots that one step reads and writes; `guard` tells under which conditions it runs."""

    step: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    guard: Guard


@dataclass
class Lifetimes:
    """Requests for arena memory.

    Attributes
    ----------
    buffers : list of Buffer
        One a group of roots that share memory.
    owners : list of list of Value
        The roots of each buffer: several when later ones take an earlier one's place.
    accesses : list of Access
        One a step.
    sum_of_tensors : int
        Bytes that all roots would take without sharing.
    """

    buffers: list[Buffer] = field(default_factory=list)
    owners: list[list[Value]] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    sum_of_tensors: int = 0


def collect_lifetimes(
    order: Sequence[tuple[Node, Guard]],
    inputs: Mapping[Value, int],
    outputs: Mapping[Value, int],
    ranges: Ranges,
    loops: Sequence[LoopSpan] = (),
    sections: Sequence[tuple[int, int]] = (),
    overwrites: Callable[[Node, int], bool] = works_in_place,
) -> Lifetimes:
    """Return lifetimes of all roots in the arena: those that are no graph input or output.

    What is read or written both inside and outside a loop keeps its memory for the whole loop.
    `loops` are in order, outer ones before those inside. In `sections` [first, last) steps run
    beside each other. `overwrites` tells whether a node's result may take an operand's memory.
    """
    accesses = accesses_of(order)
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for step, access in enumerate(accesses):
        for root in (*access.writes, *access.reads):
            if root not in inputs and root not in outputs:
                first.setdefault(root, step)
                last[root] = step
    _extend_over_loops(first, last, loops, {*inputs, *outputs})
    for start, end in sections:
        for root, step in last.items():
            if start <= step < end:
                last[root] = end - 1
    beside = {step for start, end in sections for step in range(start, end)}
    replaced = _in_place(order, first, last, loops, beside, overwrites)
    result = Lifetimes(accesses=accesses)
    place: dict[Value, int] = {}
    for root in first:  # in order of first use
        size = upper_bound(root_size(root), ranges)
        result.sum_of_tensors += size
        if root not in replaced:
            place[root] = len(result.buffers)
            result.buffers.append(Buffer(root.name, size, first[root], last[root]))
            result.owners.append([root])
            continue
        index = place[root] = place[replaced[root]]
        old = result.buffers[index]
        result.buffers[index] = Buffer(old.label, max(old.size, size), old.first, last[root])
        result.owners[index].append(root)
    return result


def root_size(root: Value) -> Dim:
    """Return the bytes that `root` takes, halo included."""
    layout = root.layout or Layout.row_major(root.rank)
    return layout.elements(root.known_shape) * root.dtype.itemsize


def root_of(value: Value) -> Value:
    """Return the owner of the memory in which `value` lies."""
    if value.storage is None:
        raise PlanError(
            f"%{value.name} is read or written but has no storage", where=str(value.producer)
        )
    return value.storage.root


def accesses_of(order: Sequence[tuple[Node, Guard]]) -> list[Access]:
    """Return what each step reads and writes."""
    return [_access(node, guard) for node, guard in order]


def _access(node: Node, guard: Guard) -> Access:
    reads = [root_of(value) for value in node.present_inputs]
    reads += [root_of(condition) for condition, _ in guard]
    writes = [root_of(value) for value in node.outputs]
    return Access(str(node.source), _distinct(reads), _distinct(writes), guard)


def _distinct(values: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(values))


def _extend_over_loops(
    first: dict[Value, int],
    last: dict[Value, int],
    loops: Sequence[LoopSpan],
    foreign: Collection[Value],
) -> None:
    """Widen lifetimes to the loops that they reach into, innermost loops first."""
    for loop in reversed(loops):
        for value in (*loop.given, *([] if loop.counter is None else [loop.counter])):
            root = root_of(value)
            if root not in foreign:
                first[root] = min(first.get(root, loop.first), loop.first)
                last[root] = max(last.get(root, loop.first), loop.last - 1)
        for root, begin in first.items():
            end = last[root]
            if end < loop.first or begin >= loop.last:
                continue
            if begin < loop.first or end >= loop.last:
                first[root] = min(begin, loop.first)
                last[root] = max(end, loop.last - 1)


def _innermost_start(loops: Sequence[LoopSpan], step: int) -> int:
    """Return the first step of the innermost loop around `step`; 0 outside of loops."""
    return max((loop.first for loop in loops if loop.first <= step < loop.last), default=0)


def _in_place(
    order: Sequence[tuple[Node, Guard]],
    first: Mapping[Value, int],
    last: Mapping[Value, int],
    loops: Sequence[LoopSpan] = (),
    beside: Collection[int] = (),
    overwrites: Callable[[Node, int], bool] = works_in_place,
) -> dict[Value, Value]:
    """Return, for outputs that can overwrite an operand that dies with their step, that operand.

    `overwrites` says whether they can, provided that both lie there with the same
    strides. What comes from outside a loop is read again in the next iteration; what a step in
    `beside` reads may be read at the same time by another.
    """
    replaced: dict[Value, Value] = {}
    for step, (node, _) in enumerate(order):
        if not node.outputs or step in beside:
            continue
        output = node.outputs[0]
        if root_of(output) is not output or first.get(output) != step:
            continue
        readers = [root_of(value) for value in node.present_inputs]
        start = _innermost_start(loops, step)
        for index, (value, root) in enumerate(zip(node.present_inputs, readers, strict=True)):
            if not overwrites(node, index):
                continue
            dies = last.get(root) == step and start <= first[root] < step
            if dies and readers.count(root) == 1 and _same_place(value, root, output):
                replaced[output] = root
                break
    return replaced


def _same_place(value: Value, root: Value, output: Value) -> bool:
    """Whether `value` fills its root, halo included, exactly as `output` will fill its memory."""
    if value.storage is None or output.storage is None:
        return False
    same_view = (
        value.shape == output.shape
        and value.storage.offset == output.storage.offset
        and value.storage.strides == output.storage.strides
    )
    return same_view and (
        root.dtype.itemsize == output.dtype.itemsize
        and _halo(value) == _halo(output)
        and _elements(root) == _elements(output)
    )


def _halo(value: Value) -> Halo:
    return value.layout.halo if value.layout is not None else ((0, 0),) * value.rank


def _elements(root: Value) -> Dim:
    layout = root.layout or Layout.row_major(root.rank)
    return layout.elements(root.known_shape)
