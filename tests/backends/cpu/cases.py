"""Single-node regions from the operators' samples, in several layouts, dtypes and with symbols."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from planish.errors import PlanishError
from planish.ir.graph import Graph, Node
from planish.ir.layout import Layout
from planish.ir.shape import Dim, evaluate, symbol, symbols_of
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_graph
from planish.ops.op import OPS, Op, Sample, op_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Region

CONTROL = ("If", "Loop", "Region", "Scan")  # their bodies are tested node by node
BF16 = np.dtype(ml_dtypes.bfloat16)


@dataclass
class Variant:
    """A region made of one sample, with inputs and the reference's outputs."""

    label: str
    op: str
    region: Region
    inputs: list[np.ndarray]
    expected: list[np.ndarray]
    bindings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Element type, symbolic axis (None: none), and layouts ("rows", "channels")."""

    dtype: str
    axis: int | None
    layouts: tuple[str, ...]


QUICK = (
    Setting("f32", None, ("rows",)),
    Setting("f32", 0, ("channels",)),
    Setting("bf16", None, ("channels",)),
)
THOROUGH = tuple(
    Setting(dtype, axis, ("rows", "channels"))
    for dtype in ("f32", "bf16")
    for axis in (None, 0, -1)
)


def variants(
    names: Sequence[str] | None = None, settings: Sequence[Setting] = THOROUGH
) -> Iterator[Variant]:
    """Yield every variant of every sample of the operators `names` (all by default)."""
    for name in sorted(OPS if names is None else names):
        if name in CONTROL:
            continue
        for number, sample in enumerate(OPS[name].samples()):
            label = f"{name}[{sample.name or number}]"
            for setting in settings:
                yield from _variants(OPS[name], sample, label, setting)


def _variants(op: type[Op], sample: Sample, label: str, setting: Setting) -> Iterator[Variant]:
    arrays = [_converted(array, setting.dtype) for array in sample.inputs]
    if setting.dtype == "bf16" and not any(a is not None and a.dtype == BF16 for a in arrays):
        return
    body = _body(op, sample, arrays, setting.axis)
    if body is None:
        return
    graph, bindings = body
    inputs = [
        array
        for position, array in enumerate(arrays)
        if array is not None and position not in sample.constant
    ]
    expected = run_graph(graph, inputs)
    shapes = [tuple(evaluate(d, bindings) for d in v.known_shape) for v in graph.outputs]
    if any(shape != array.shape for shape, array in zip(shapes, expected, strict=True)):
        return
    where = "static" if setting.axis is None else f"symbol{setting.axis}"
    possible = _layouts(graph)
    for layout in setting.layouts:
        if layout not in possible and len(setting.layouts) > 1:
            continue
        chosen = layout if layout in possible else "rows"
        region = _region(graph, op.name, chosen, bindings)
        tag = f"{label}/{setting.dtype}/{where}/{chosen}"
        yield Variant(tag, op.name, region, inputs, expected, bindings)


def _converted(array: np.ndarray | None, dtype: str) -> np.ndarray | None:
    if array is None or dtype == "f32" or array.dtype != np.float32:
        return array
    return array.astype(BF16)


def _body(
    op: type[Op], sample: Sample, arrays: list[np.ndarray | None], axis: int | None
) -> tuple[Graph, dict[str, int]] | None:
    graph = Graph("sample")
    bindings: dict[str, int] = {}
    values = []
    extent = _symbolic_extent(sample, arrays, axis)
    if axis is not None and extent is None:
        return None
    for position, array in enumerate(arrays):
        if array is None:
            values.append(None)
            continue
        if position in sample.constant:
            values.append(graph.constant(array))
            continue
        if array.dtype.kind in "OUS":
            return None
        shape: list[Dim] = list(array.shape)
        if axis is not None and array.ndim and shape[axis] == extent:
            shape[axis] = symbol("N")
            bindings["N"] = int(extent or 0)
        constant = graph.constant(array)  # for its dtype
        values.append(graph.add_input(f"x{position}", constant.dtype, tuple(shape)))
    attributes = {**op.attributes, **sample.attributes}
    from_first = next(v for v in [*values, graph.constant(np.float32(0))] if v is not None)
    outputs = [graph.new_value(from_first.dtype, None, "y") for _ in range(sample.outputs)]
    node = graph.append(Node(op.name, values, outputs, attributes))
    try:
        infer_node(node)
    except PlanishError:
        if axis is None and not any(a is not None and a.dtype == BF16 for a in arrays):
            raise
        return None
    if any(output.shape is None for output in outputs):
        return None
    unknown = {s for o in outputs for d in o.known_shape for s in symbols_of(d)} - set(bindings)
    if unknown:
        return None
    for output in outputs:
        graph.add_output(output)
    return graph, bindings


def _symbolic_extent(
    sample: Sample, arrays: list[np.ndarray | None], axis: int | None
) -> int | None:
    if axis is None:
        return None
    for position, array in enumerate(arrays):
        if array is not None and position not in sample.constant and array.ndim:
            extent = int(array.shape[axis])
            return extent if extent > 1 else None  # a symbol is never taken to be broadcast
    return None


def _layouts(graph: Graph) -> list[str]:
    floats = [v for v in (*graph.inputs, *graph.outputs) if v.dtype.is_float and v.rank >= 3]
    return ["rows", "channels"] if floats else ["rows"]


def _region(graph: Graph, kind: str, layout: str, bindings: dict[str, int]) -> Region:
    layouts = {}
    if layout == "channels":
        layouts = {
            value.name: Layout.channels_last(value.rank)
            for value in (*graph.inputs, *graph.outputs)
            if value.dtype.is_float and value.rank >= 3
        }
    ranges = {name: (1, size, max(2 * size, 2)) for name, size in bindings.items()}
    pointwise = OPS[kind].pointwise and op_of(next(iter(graph))).pointwise
    return make_region(graph, "pointwise" if pointwise else kind, layouts, ranges)
