"""The arena simulator: runs a plan's steps with numpy on one poisoned arena.

Every region is computed by the interpreter from operands that are read through the plan's
addresses and strides, and its results are written the same way. Memory starts as NaN and values
overwrite each other exactly as the plan says, so a wrong offset, stride, lifetime, halo or guard
changes the result. It is the main test of layout, storage and memory planning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from planish.ir.dtypes import dtype_by_name
from planish.ir.graph import Graph, Node
from planish.ir.shape import Dim, evaluate
from planish.ops.interpreter import run_graph
from planish.plan.plan import Binding, HaloFill, Operand, Plan, Step
from planish.plan.schedule import make_plan, symbols_in_order
from planish.tactics.region import region_of, regions_of
from planish.tactics.tactic import Choice, ExternalKernel

Array = np.ndarray[Any, Any]
POISON = 0xFF  # NaN in every floating-point type, -1 in integers
SLACK = 256  # poisoned bytes around the caller's arrays


def simulated_choices(graph: Graph) -> dict[Node, Choice]:
    """Return a choice for every region that stands for its reference."""
    symbols = symbols_in_order(graph)
    choices = {}
    for index, node in enumerate(regions_of(graph)):
        region = region_of(node, symbols, graph.ranges)
        kernel = ExternalKernel("simulated", {"index": index})
        choices[node] = Choice(region, "simulated", {}, kernel)
    return choices


@dataclass
class Simulator:
    """A graph with layouts and storage, its plan, and the means to run it."""

    graph: Graph
    plan: Plan
    nodes: list[Node]

    @staticmethod
    def of(graph: Graph) -> Simulator:
        """Plan `graph`."""
        plan = make_plan(graph, simulated_choices(graph))
        return Simulator(graph, plan, regions_of(graph))

    def run(self, inputs: Sequence[Array], symbols: Mapping[str, int] | None = None) -> list[Array]:
        """Return the graph's outputs, computed step by step in the arena."""
        memory = _Memory(self.plan, inputs, dict(symbols or {}))
        self._run_steps(memory, 0, len(self.plan.steps), None)
        return memory.results()

    def _run_steps(self, memory: _Memory, first: int, last: int, around: int | None) -> None:
        position = first
        while position < last:
            inner = next(
                (
                    index
                    for index, loop in enumerate(self.plan.loops)
                    if loop.first == position and loop.parent == around
                ),
                None,
            )
            if inner is not None:
                self._run_loop(memory, inner)
                position = self.plan.loops[inner].last
                continue
            step, node = self.plan.steps[position], self.nodes[position]
            assert step.loop == around
            if all(memory.condition(binding) == value for binding, value in step.guard):
                memory.run(step, node)
            position += 1

    def _run_loop(self, memory: _Memory, index: int) -> None:
        loop = self.plan.loops[index]
        if not all(memory.condition(binding) == value for binding, value in loop.guard):
            return
        count = memory.number(loop.count)
        if loop.limit is not None:
            count = min(count, int(memory.view(loop.limit, Operand("i64", (), ()))))
        for iteration in range(count):
            if loop.condition is not None and not memory.condition(loop.condition):
                break
            memory.symbols[loop.symbol] = iteration
            if loop.counter is not None:
                memory.view(loop.counter, Operand("i64", (), ()))[...] = iteration
            self._run_steps(memory, loop.first, loop.last, index)
        memory.symbols[loop.symbol] = 0


def symbol_values(graph: Graph, inputs: Sequence[Array]) -> dict[str, int]:
    """Return the symbols' values for given inputs, from axes that are plain symbols."""
    values: dict[str, int] = {}
    for value, array in zip(graph.inputs, inputs, strict=True):
        for dim, size in zip(value.known_shape, array.shape, strict=True):
            if str(dim) in graph.ranges:
                values[str(dim)] = size
    return values


class _Memory:
    """The arena, and the caller's arrays with poison around them."""

    def __init__(self, plan: Plan, inputs: Sequence[Array], symbols: dict[str, int]) -> None:
        self.plan = plan
        self.symbols = symbols
        self.spaces: dict[tuple[str, int], Array] = {
            ("arena", 0): np.full(plan.arena_bytes, POISON, np.uint8)
        }
        for index, array in enumerate(inputs):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            padded = np.full(data.size + SLACK, POISON, np.uint8)
            padded[: data.size] = data
            self.spaces["input", index] = padded
        for index, info in enumerate(plan.outputs):
            size = int(np.prod(self.shape(info.shape))) * dtype_by_name(info.dtype).itemsize
            self.spaces["output", index] = np.full(size + SLACK, POISON, np.uint8)

    def number(self, dim: Dim) -> int:
        """Return an extent as a number."""
        return evaluate(dim, self.symbols)

    def shape(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        """Return extents as numbers."""
        return tuple(map(self.number, dims))

    def view(self, binding: Binding, operand: Operand) -> Array:
        """Return an operand as a strided view of its memory."""
        dtype = dtype_by_name(operand.dtype).numpy
        shape = self.shape(operand.shape)
        strides = [stride * dtype.itemsize for stride in self.shape(operand.strides)]
        return self._strided(binding, dtype, shape, strides)

    def _strided(
        self, binding: Binding, dtype: Any, shape: Sequence[int], strides: Sequence[int]
    ) -> Array:
        space = self.spaces[binding.space, binding.index]
        offset = self.number(binding.offset)
        reach = [(n - 1) * s for n, s in zip(shape, strides, strict=True) if n]
        low = offset + sum(r for r in reach if r < 0)
        high = offset + sum(r for r in reach if r > 0) + dtype.itemsize
        if 0 not in shape:
            assert low >= 0, binding
            assert high <= space.size, binding
        base = np.ndarray((), dtype, space.data, offset) if 0 not in shape else np.zeros((), dtype)
        return as_strided(base, shape, strides)

    def condition(self, binding: Binding) -> bool:
        """Return the boolean at an address."""
        value = self.view(binding, Operand("bool", (), ()))
        assert value.view(np.uint8) in (0, 1), "a condition is read before it is written"
        return bool(value)

    def run(self, step: Step, node: Node) -> None:
        """Zero the step's halos, compute the region, and write its results."""
        for fill in step.fills:
            self._fill(fill)
        views = [self.view(b, o) for b, o in zip(step.bindings, step.operands, strict=False)]
        count = len(views) - step.outputs
        self._check_halos(step, node)
        inputs = [view.copy() for view in views[:count]]
        results = run_graph(node.body, inputs)
        for view, result in zip(views[count:], results, strict=True):
            assert view.shape == result.shape, (node, view.shape, result.shape)
            assert view.dtype == result.dtype, (node, view.dtype, result.dtype)
            if view.size:
                view[...] = result

    def _fill(self, fill: HaloFill) -> None:
        sizes = self.shape(fill.sizes)
        strides = [fill.itemsize] * len(sizes)
        for axis in reversed(range(len(sizes) - 1)):
            strides[axis] = strides[axis + 1] * sizes[axis + 1]
        dtype = np.dtype(f"V{fill.itemsize}")
        whole = self._strided(fill.binding, dtype, sizes, strides)
        inside = tuple(
            slice(before, size - after)
            for (before, after), size in zip(fill.halo, sizes, strict=True)
        )
        outside = np.ones(sizes, bool)
        outside[inside] = False
        whole[outside] = np.zeros((), dtype)

    def _check_halos(self, step: Step, node: Node) -> None:
        """Check that what a kernel may read around its inputs is zero."""
        region = region_of(node, self.plan.symbols, self.plan.ranges)
        for binding, operand in zip(step.bindings, region.inputs, strict=False):
            if not any(pair != (0, 0) for pair in operand.halo):
                continue
            dtype = operand.dtype.numpy
            shape, strides = self.shape(operand.shape), self.shape(operand.strides)
            before = [pair[0] for pair in operand.halo]
            start = -sum(b * s for b, s in zip(before, strides, strict=True)) * dtype.itemsize
            around = self._strided(
                Binding(binding.space, binding.index, binding.offset + start),
                dtype,
                [n + b + a for n, (b, a) in zip(shape, operand.halo, strict=True)],
                [stride * dtype.itemsize for stride in strides],
            ).copy()
            inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
            around[inside] = 0
            assert not around.astype(np.float64).any(), f"the halo of {node} is not zero"

    def results(self) -> list[Array]:
        """Return the outputs, checking that nothing was written around them."""
        arrays = []
        for index, info in enumerate(self.plan.outputs):
            dtype, shape = dtype_by_name(info.dtype).numpy, self.shape(info.shape)
            space = self.spaces["output", index]
            size = int(np.prod(shape)) * dtype.itemsize
            assert (space[size:] == POISON).all(), f"written past the end of {info.name}"
            arrays.append(space[:size].view(dtype).reshape(shape))
        return arrays


def assert_simulation(
    graph: Graph, inputs: Sequence[Array], expected: Sequence[Array], tolerance: float = 1e-5
) -> Plan:
    """Plan and run a placed graph, compare its outputs with `expected`, and return the plan."""
    simulator = Simulator.of(graph)
    results = simulator.run(inputs, symbol_values(graph, inputs))
    for name, want, got in zip(graph.output_names, expected, results, strict=True):
        assert got.dtype == want.dtype, name
        assert got.shape == want.shape, name
        if want.dtype.kind in "biu":
            np.testing.assert_array_equal(got, want, err_msg=name)
            continue
        found, wanted = got.astype(np.float64), want.astype(np.float64)
        scale = max(float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)), 1e-3)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * scale, err_msg=name)
    return simulator.plan
