"""A whole model as one reference step: for graphs whose extents only data decides."""

from __future__ import annotations

import re

from planish.backends.reference.kernel import reference_kernel
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ir.shape import Shape, symbol, symbols_of
from planish.plan.plan import Binding, MemoryReport, Operand, Plan, Step, TensorInfo
from planish.plan.weights import WeightPool

UNKNOWN_RANGE = (0, 1, 1 << 31)  # of symbols that only data decides


def reference_plan(graph: Graph) -> tuple[Plan, WeightPool]:
    """Return a plan that runs `graph` in one external step, and its constants.

    Outputs may have extents that depend on data; the engine then returns what the step made.
    """
    kernel = reference_kernel(graph)
    pool = WeightPool()
    bindings = [Binding("input", index, 0) for index in range(len(graph.inputs))]
    bindings += [Binding("output", index, 0) for index in range(len(graph.outputs))]
    bindings += [Binding("weights", 0, pool.add(array)) for array in kernel.packed]
    values = [*graph.inputs, *graph.outputs]
    step = Step(
        name="reference",
        layers=graph.name,
        function=None,
        external=0,
        bindings=tuple(bindings),
        operands=tuple(_operand(value) for value in values),
        outputs=len(graph.outputs),
        items=1,
    )
    names = {name for value in values for dim in _shape(value) for name in symbols_of(dim)}
    symbols = tuple(sorted(names))
    plan = Plan(
        inputs=tuple(map(_info, graph.inputs, graph.input_names)),
        outputs=tuple(map(_info, graph.outputs, graph.output_names)),
        symbols=symbols,
        ranges={name: graph.ranges.get(name, UNKNOWN_RANGE) for name in symbols},
        steps=(step,),
        memory=MemoryReport(0, 0, 0, pool.bytes),
        externals=((kernel.kind, kernel.parameters),),
    )
    return plan, pool


def _info(value: Value, name: str) -> TensorInfo:
    return TensorInfo(name, value.dtype.name, _shape(value))


def _operand(value: Value) -> Operand:
    shape = _shape(value)
    return Operand(value.dtype.name, shape, Layout.row_major(len(shape)).strides(shape))


def _shape(value: Value) -> Shape:
    """Return the shape; an unknown rank is shown as one axis that only data decides."""
    if value.shape is not None:
        return value.shape
    return (symbol("?" + re.sub(r"\W", "_", f"{value.name}_rank")),)
