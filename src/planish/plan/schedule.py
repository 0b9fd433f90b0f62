"""From a graph with chosen kernels to a plan: order, addresses, weights.

Regions run in the graph's order. If branches become guarded steps one after the other; their
outputs lie in the If's own outputs, so nothing is copied when the branches meet. Intermediate
values get offsets in one arena (plan/memory.py); graph inputs and outputs are the caller's arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from planish.errors import PlanError
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout
from planish.ir.shape import Dim, symbols_of
from planish.ops.content import contents
from planish.ops.region import works_in_place
from planish.passes.native_loops import is_counted, loop_symbol
from planish.plan.arrange import arrange
from planish.plan.lifetimes import (
    Guard,
    Lifetimes,
    LoopSpan,
    accesses_of,
    collect_lifetimes,
    root_of,
    root_size,
)
from planish.plan.memory import largest_live_set
from planish.plan.plan import (
    UNLIMITED,
    Binding,
    HaloFill,
    Loop,
    MemoryReport,
    Operand,
    Plan,
    Step,
    TensorInfo,
)
from planish.plan.streams import Streams, assign_streams
from planish.plan.verify import verify_accesses, verify_placements, verify_plan
from planish.tactics.region import Ranges, regions_of
from planish.tactics.tactic import Choice, ExternalKernel, Kernel, TritonKernel, layout_of

Array = np.ndarray[Any, Any]
UNKNOWN_RANGE = (0, 1, 1 << 31)  # of symbols that only data decides


def make_plan(
    graph: Graph, choices: Mapping[Node, Choice], weights_bytes: int = 0, streams: int = 1
) -> Plan:
    """Return the verified plan of `graph`.

    Parameters
    ----------
    graph : Graph
        With layouts and storage assigned.
    choices : dict
        For every node of `regions_of(graph)`, the kernel that runs it.
    weights_bytes : int
        Size of the memory that `Choice.constants` are offsets into.
    streams : int
        How many of a GPU's streams independent steps may use.

    Raises
    ------
    PlanError
        When an extent has no upper bound, or the finished plan breaks an invariant.
    """
    return _Scheduler(graph, choices, weights_bytes, streams).plan()


def symbols_in_order(graph: Graph) -> tuple[str, ...]:
    """Return the symbols of `graph` in the order in which kernels receive their values."""
    return tuple(sorted(graph.ranges))


class _Scheduler:
    """One planning run."""

    def __init__(
        self, graph: Graph, choices: Mapping[Node, Choice], weights_bytes: int, streams: int
    ) -> None:
        self.graph = graph
        self.stream_count = streams
        self.choices = choices
        self.ranges: Ranges = graph.ranges
        self.inputs = {value: index for index, value in enumerate(graph.inputs)}
        self.outputs = {value: index for index, value in enumerate(graph.outputs)}
        self.weights_bytes = weights_bytes
        self.externals: list[tuple[str, Mapping[str, Any]]] = []
        self.functions: dict[str, str] = {}  # kernel digest -> the first step that runs it
        self.order: list[tuple[Node, Guard]] = []
        self.loops: list[LoopSpan] = []  # outer ones before those inside
        self.loop_of: list[int | None] = []  # the innermost loop around each step of `order`
        self.offsets: dict[Value, Dim] = {}  # roots in the arena
        self.filled: dict[Value, list[Guard]] = {}  # roots whose halo some step has zeroed

    def plan(self) -> Plan:
        """Schedule, place, print, verify."""
        self._linearize(self.graph, (), frozenset(regions_of(self.graph)), None)
        self._drop_empty_loops()
        streams = self._streams()
        lifetimes = collect_lifetimes(
            self.order, self.inputs, self.outputs, self.ranges, self.loops, streams.sections,
            self._overwrites,
        )  # fmt: skip
        sizes = [root_size(roots[0]) for roots in lifetimes.owners]
        arrangement = arrange(lifetimes.buffers, sizes, self.ranges)
        for roots, offset in zip(lifetimes.owners, arrangement.offsets, strict=True):
            self.offsets.update(dict.fromkeys(roots, offset))
        arena = arrangement.arena_bytes
        names = _unique_names([self._choice(node).region.name for node, _ in self.order])
        steps = tuple(
            self._step(name, node, guard, loop)
            for name, (node, guard), loop in zip(names, self.order, self.loop_of, strict=True)
        )
        steps = tuple(
            replace(step, stream=stream, after=after)
            for step, stream, after in zip(steps, streams.of, streams.after, strict=True)
        )
        unknown = _unknown_symbols(steps, self.ranges)
        plan = Plan(
            inputs=_tensors(self.graph.input_names, self.graph.inputs),
            outputs=_tensors(self.graph.output_names, self.graph.outputs),
            symbols=(*symbols_in_order(self.graph), *unknown),
            ranges={**self.graph.ranges, **dict.fromkeys(unknown, UNKNOWN_RANGE)},
            steps=steps,
            memory=self._report(lifetimes, arena),
            loops=tuple(map(self._loop, self.loops)),
            externals=tuple(self.externals),
            arena_bytes=arena,
            scratch_bytes=max((step.scratch_bytes for step in steps), default=0),
            layers=self._layers(names),
            requirements=tuple(self.graph.requirements),
        )
        for section in arrangement.sections:
            verify_placements(section.placements, section.size)
        counters = [loop.counter for loop in self.loops if loop.counter is not None]
        verify_accesses(lifetimes.accesses, [*self.graph.inputs, *counters])
        verify_plan(plan)
        return plan

    def _overwrites(self, node: Node, index: int) -> bool:
        """Whether the result of `node` may take the memory of its operand `index`."""
        kernel = self._choice(node).kernel
        if works_in_place(node, index):
            return True
        return isinstance(kernel, Kernel) and len(node.outputs) == 1 and index in kernel.overwrites

    # -- order -----------------------------------------------------------------------------------

    def _linearize(
        self, graph: Graph, guard: Guard, live: frozenset[Node], loop: int | None
    ) -> None:
        for node in graph:
            if node in live:
                self.order.append((node, guard))
                self.loop_of.append(loop)
            elif node.op == "If":
                condition = node.inputs[0]
                if condition is None:
                    raise PlanError("an If has no condition", where=str(node))
                for name, subgraph in node.attributes.items():  # the order of `regions_of`
                    expected = (condition, name == "then_branch")
                    self._linearize(subgraph, (*guard, expected), live, loop)
            elif node.op == "Loop":
                self._linearize_loop(node, guard, live, loop)

    def _linearize_loop(
        self, node: Node, guard: Guard, live: frozenset[Node], parent: int | None
    ) -> None:
        number, condition = node.body.inputs[:2]
        limit = node.input(0)
        span = LoopSpan(
            node=node,
            first=len(self.order),
            last=len(self.order),
            guard=guard,
            parent=parent,
            limit=limit if limit is not None and contents(limit) is None else None,
            condition=None if is_counted(node) else condition,
        )
        self.loops.append(span)
        self._linearize(node.body, guard, live, len(self.loops) - 1)
        span.last = len(self.order)
        inside = self.order[span.first :]
        if any(root_of(value) is number for step, _ in inside for value in step.present_inputs):
            span.counter = number

    def _drop_empty_loops(self) -> None:
        """Forget loops without steps, and renumber the others."""
        kept = [index for index, loop in enumerate(self.loops) if loop.first < loop.last]
        number = {old: new for new, old in enumerate(kept)}
        self.loops = [self.loops[index] for index in kept]
        for loop in self.loops:
            loop.parent = None if loop.parent is None else number[loop.parent]
        self.loop_of = [None if loop is None else number[loop] for loop in self.loop_of]

    def _choice(self, node: Node) -> Choice:
        if node not in self.choices:
            raise PlanError("no kernel was chosen for a region", where=str(node))
        return self.choices[node]

    def _streams(self) -> Streams:
        choices = [self._choice(node) for node, _ in self.order]
        alone = {
            step
            for step, ((_, guard), loop) in enumerate(zip(self.order, self.loop_of, strict=True))
            if guard or loop is not None or isinstance(choices[step].kernel, ExternalKernel)
        }
        times = [choice.microseconds or 1.0 for choice in choices]
        return assign_streams(accesses_of(self.order), times, self.stream_count, alone)

    # -- addresses -------------------------------------------------------------------------------

    def _binding(self, value: Value) -> Binding:
        storage = value.storage
        if storage is None:
            raise PlanError(f"%{value.name} has no storage", where=str(value.producer))
        offset = storage.offset * value.dtype.itemsize
        root = storage.root
        if root in self.inputs:
            return Binding("input", self.inputs[root], offset)
        if root in self.outputs:
            return Binding("output", self.outputs[root], offset)
        if root not in self.offsets:
            raise PlanError(f"%{root.name} has no place in the arena", where=str(root.producer))
        return Binding("arena", 0, offset + self.offsets[root])

    def _loop(self, span: LoopSpan) -> Loop:
        count = contents(span.node.input(0))
        return Loop(
            first=span.first,
            last=span.last,
            count=UNLIMITED if count is None else count[0],
            symbol=loop_symbol(span.node),
            parent=span.parent,
            limit=None if span.limit is None else self._binding(span.limit),
            condition=None if span.condition is None else self._binding(span.condition),
            counter=None if span.counter is None else self._binding(span.counter),
            guard=self._guards(span.guard),
        )

    def _guards(self, guard: Guard) -> tuple[tuple[Binding, bool], ...]:
        return tuple((self._binding(value), expected) for value, expected in guard)

    def _step(self, name: str, node: Node, guard: Guard, loop: int | None) -> Step:
        choice = self._choice(node)
        values = [*node.present_inputs, *node.outputs]
        bindings = [self._binding(value) for value in values]
        bindings += [Binding("weights", 0, offset) for offset in choice.constants]
        fills = tuple(fill for root in _roots(node) for fill in self._fills(root, guard))
        shared: dict[str, Any] = {
            "name": name,
            "layers": str(node.source),
            "bindings": tuple(bindings),
            "operands": tuple(map(_operand, values)),
            "outputs": len(node.outputs),
            "fills": fills,
            "guard": self._guards(guard),
            "loop": loop,
        }
        kernel = choice.kernel
        if isinstance(kernel, ExternalKernel):
            self.externals.append((kernel.kind, kernel.parameters))
            return Step(function=None, external=len(self.externals) - 1, items=1, **shared)
        return Step(
            function=self.functions.setdefault(kernel.digest, name),
            external=None,
            items=kernel.items,
            scratch_bytes=kernel.scratch_bytes,
            grid=kernel.grid if isinstance(kernel, TritonKernel) else (),
            **shared,
        )

    def _fills(self, root: Value, guard: Guard) -> list[HaloFill]:
        """Return the halo to zero when a step under `guard` is the first to write `root`."""
        layout = layout_of(root)
        done = self.filled.setdefault(root, [])
        if not layout.has_halo or any(guard[: len(earlier)] == earlier for earlier in done):
            return []
        done.append(guard)
        sizes = layout.padded(root.known_shape)
        itemsize = root.dtype.itemsize
        binding = Binding("arena", 0, self.offsets[root])
        return [
            HaloFill(
                binding,
                tuple(sizes[axis] for axis in layout.order),
                tuple(layout.halo[axis] for axis in layout.order),
                itemsize,
            )
        ]

    # -- results ---------------------------------------------------------------------------------

    def _report(self, lifetimes: Lifetimes, arena: int) -> MemoryReport:
        return MemoryReport(
            arena=arena,
            sum_of_tensors=lifetimes.sum_of_tensors,
            largest_live_set=largest_live_set(lifetimes.buffers),
            weights=self.weights_bytes,
        )

    def _layers(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what reports show of every step: kind, tactic, and configuration."""
        layers = {}
        for name, (node, _) in zip(names, self.order, strict=True):
            choice = self._choice(node)
            layers[name] = {
                "kind": choice.region.kind,
                "tactic": choice.tactic,
                "config": {key: choice.config[key] for key in sorted(choice.config)},
                "dtype": node.outputs[0].dtype.name if node.outputs else "",
            }
        return layers


def _unknown_symbols(steps: Sequence[Step], ranges: Ranges) -> list[str]:
    """Return the symbols of external steps' results whose extents only data decides."""
    dims = {dim for step in steps for operand in step.operands for dim in operand.shape}
    return sorted({name for dim in dims for name in symbols_of(dim)} - set(ranges))


def _roots(node: Node) -> list[Value]:
    return list(dict.fromkeys(o.storage.root for o in node.outputs if o.storage is not None))


def _operand(value: Value) -> Operand:
    storage = value.storage
    strides = Layout.row_major(value.rank).strides(value.known_shape)
    return Operand(
        value.dtype.name, value.known_shape, strides if storage is None else storage.strides
    )


def _tensors(names: Sequence[str], values: Sequence[Value]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name, value.dtype.name, value.known_shape)
        for name, value in zip(names, values, strict=True)
    )


def _unique_names(names: Sequence[str]) -> list[str]:
    """Return `names` with a number appended to repeated ones."""
    seen: dict[str, int] = {}
    taken = set(names)
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        candidate = name
        while seen[name] > 1 and candidate in taken:
            candidate = f"{name}_{seen[name]}"
            seen[name] += candidate in taken
        taken.add(candidate)
        unique.append(candidate)
    return unique
