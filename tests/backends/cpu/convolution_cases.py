"""Convolution regions for kernel tests, and the check of every configuration of a tactic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph, Node, Value
from planish.ir.layout import Layout
from planish.ir.shape import Dim, evaluate, symbol, symbols_of
from planish.ops.convolution import window_of
from planish.ops.infer import infer_node
from planish.ops.interpreter import run_graph
from planish.ops.op import OPS
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region, Tactic
from planish.tactics.target import Target
from tests.backends.cpu.kernel_harness import Case, Library, run_case

RANGE = (1, 5, 48)
SIZES = {"N": 3, "H": 9, "W": 21, "S": 43}


@dataclass(frozen=True)
class Convolution:
    """One convolution; extents may be symbols' names. `halo` None: exactly the padding."""

    label: str
    shape: tuple[int | str, ...]
    outputs: int
    kernel: tuple[int, ...]
    pad: int = 0
    stride: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    group: int = 1
    epilogue: str = ""
    halo: int | None = None
    out_nchw: bool = False
    in_nchw: bool = False
    op: str = "Conv"


def add_node(graph: Graph, op: str, inputs: Sequence[Value], **attributes: object) -> Value:
    """Append a node with inferred type and return its output."""
    full = {**OPS[op].attributes, **attributes}
    value = Value(graph.fresh_name("v"), F32, None)
    node = graph.append(Node(op, list(inputs), [value], full))
    infer_node(node)
    return value


def epilogue_of(graph: Graph, value: Value, kind: str, channels: int) -> Value:
    """Append one of the named epilogues and return the result."""
    dtype = value.dtype.numpy
    if kind in ("relu", "sigmoid", "hardswish", "gelu", "leaky"):
        op = {"relu": "Relu", "sigmoid": "Sigmoid", "hardswish": "HardSwish", "gelu": "Gelu",
              "leaky": "LeakyRelu"}[kind]  # fmt: skip
        return add_node(graph, op, [value], **({"alpha": 0.1} if kind == "leaky" else {}))
    if kind == "residual":
        other = graph.add_input("r", value.dtype, value.known_shape)
        return add_node(graph, "Relu", [add_node(graph, "Add", [value, other])])
    ones = (1,) * (value.rank - 2)
    if kind == "scale":
        factor = np.linspace(0.5, 1.5, channels).reshape(channels, *ones).astype(dtype)
        shifted = add_node(graph, "Add", [value, graph.constant(factor)])
        return add_node(graph, "Mul", [shifted, graph.constant(factor)])
    if kind == "gate":
        gate = graph.add_input("g", value.dtype, (value.known_shape[0], channels, *ones))
        return add_node(graph, "Mul", [add_node(graph, "Relu", [value]), gate])
    assert not kind
    return value


def region_of_case(
    case: Convolution, dtype: str
) -> tuple[Region, list[np.ndarray], dict[str, int]]:
    """Return the region, its inputs, and the symbols' values."""
    numpy_type = np.dtype(np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    random = np.random.default_rng(len(case.label))
    rank = len(case.shape) - 2
    shape: tuple[Dim, ...] = tuple(symbol(e) if isinstance(e, str) else e for e in case.shape)
    graph = Graph("conv")
    x = graph.add_input("x", F32 if dtype == "f32" else BF16, shape)
    channels = int(str(shape[1]))
    weights = (case.outputs, channels // case.group, *case.kernel)
    if case.op == "ConvTranspose":
        weights = (channels, case.outputs // case.group, *case.kernel)
    scale = 1 / np.sqrt(np.prod(weights[1:]))
    constants = [
        graph.constant((random.standard_normal(weights) * scale).astype(numpy_type)),
        graph.constant(random.standard_normal(case.outputs).astype(numpy_type)),
    ]
    attributes: dict[str, object] = {"group": case.group, "kernel_shape": case.kernel}
    attributes["pads"] = (case.pad,) * rank * 2
    attributes["strides"] = case.stride or (1,) * rank
    attributes["dilations"] = case.dilation or (1,) * rank
    y = add_node(graph, case.op, [x, *constants], **attributes)
    result = epilogue_of(graph, y, case.epilogue, case.outputs)
    graph.add_output(result)
    region = make_region(graph, case.op, layouts_of(case, graph), ranges_of(graph))
    bindings = {name: SIZES[name] for name in ranges_of(graph)}
    arrays = [
        random.standard_normal([evaluate(d, bindings) for d in v.known_shape]).astype(numpy_type)
        for v in graph.inputs
    ]
    return region, arrays, bindings


def ranges_of(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """Return the same range for every symbol of a graph's inputs."""
    names = {n for v in graph.inputs for d in v.known_shape for n in symbols_of(d)}
    return {name: RANGE for name in sorted(names)}


def layouts_of(case: Convolution, graph: Graph) -> Mapping[str, Layout]:
    """Return channels-last layouts, the input's with a halo as wide as its padding."""
    rank = len(case.shape)
    order = (0, *range(2, rank), 1)
    plain = ((0, 0),) * rank
    width = case.pad if case.halo is None else case.halo
    if case.op == "ConvTranspose":
        width = case.halo or 0
    halo = ((0, 0), (0, 0), *(((width, width),) * (rank - 2)))
    found = {v.name: Layout(order, plain) for v in (*graph.inputs, *graph.outputs)}
    found["x"] = Layout(tuple(range(rank)) if case.in_nchw else order, halo)
    if case.out_nchw:
        found[graph.outputs[0].name] = Layout(tuple(range(rank)), plain)
    return found


def check(
    tactic: Tactic,
    cases: Sequence[Convolution],
    dtype: str,
    target: Target,
    limit: int | None = None,
) -> None:
    """Build the configurations of every case, compile all at once, compare with the reference.

    `limit` is how many configurations of a case are tried (all by default).
    """
    found: list[Case] = []
    for case in cases:
        region, arrays, bindings = region_of_case(case, dtype)
        support = tactic.supports(region, target)
        assert support, f"{case.label}: {support.reason}"
        expected = run_graph(region.body, arrays)
        for config in tactic.configs(region, target)[:limit]:
            kernel = tactic.build(region, config, target)
            assert isinstance(kernel, Kernel)
            label = f"{case.label} {dict(config)}"
            found.append(Case(label, region, kernel, arrays, expected, bindings))
    library = Library([case.kernel for case in found], target.features)
    failures = []
    for index, case in enumerate(found):
        outputs = run_case(library, index, case)
        for got, want in zip(outputs, case.expected, strict=True):
            problem = mismatch(got, want, tolerance_of(BF16 if dtype == "bf16" else F32))
            if problem is not None:
                failures.append(f"{case.label}: {problem}")
    assert not failures, f"{len(failures)} of {len(found)} differ:\n" + "\n".join(failures[:12])


__all__ = ["Convolution", "check", "region_of_case", "window_of"]
