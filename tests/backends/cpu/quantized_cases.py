"""Quantized regions for kernel tests, and their exact results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planish.ir.dtypes import F32, I8, U8, DType
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ops.interpreter import run_graph
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region, Tactic
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import add_node
from tests.backends.cpu.kernel_harness import Case, Library, run_case

TYPES = {"i8": I8, "u8": U8}


@dataclass(frozen=True)
class Quantized:
    """One quantized product.

    `kernel` () is a MatMul of [*shape] by [shape[-1], outputs]. `zero` and `weight_zero` are zero
    points of input and weights, `result` the output's type (f32: no QuantizeLinear), `epilogue`
    names of operators, "residual" an addition of a quantized tensor, "byte" a QuantizeLinear with
    its DequantizeLinear. `runtime` makes scale and zero point of the input operands.
    """

    label: str
    shape: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...] = ()
    data: str = "u8"
    weights: str = "i8"
    zero: int = 0
    weight_zero: int = 0
    result: str = "i8"
    result_zero: int = 0
    pad: int = 0
    stride: int = 1
    dilation: int = 1
    group: int = 1
    epilogue: tuple[str, ...] = ()
    bias: bool = True
    per_channel: bool = True
    halo: int | None = None
    op: str = "Conv"
    include_pad: int = 0
    runtime: bool = False


def region_of(case: Quantized) -> tuple[Region, list[np.ndarray]]:
    """Return the region and random inputs."""
    random = np.random.default_rng(len(case.label) + case.outputs)
    graph = Graph("quantized")
    data = TYPES[case.data]
    x = graph.add_input("x", data, case.shape)
    if case.runtime:
        parameters = [graph.add_input("scale", F32, ()), graph.add_input("zero", data, ())]
        left = add_node(graph, "DequantizeLinear", [x, *parameters])
    else:
        left = dequantize(graph, x, np.float32(0.0317), case.zero)
    y = _product(graph, case, left, random)
    for index, name in enumerate(case.epilogue):
        y = _follow(graph, y, name, index)
    if case.result != "f32":
        spread = np.float32(0.11 if case.kernel else 0.2)
        y = quantize(graph, y, spread, TYPES[case.result], case.result_zero)
    graph.add_output(y)
    kind = case.op if case.kernel else "MatMul"
    region = make_region(graph, kind, _layouts(case, graph))
    return region, [_random(value, random) for value in graph.inputs]


def _random(value: Value, random: np.random.Generator) -> np.ndarray:
    shape = tuple(int(str(dim)) for dim in value.known_shape)
    if value.name == "scale":
        return np.array(0.0317, np.float32)
    if value.dtype is F32:
        return random.standard_normal(shape).astype(np.float32)
    info = np.iinfo(value.dtype.numpy)
    return random.integers(info.min, info.max + 1, shape).astype(value.dtype.numpy)


def _product(graph: Graph, case: Quantized, left: Value, random: np.random.Generator) -> Value:
    rank = len(case.kernel)
    window = {
        "kernel_shape": case.kernel, "pads": (case.pad,) * rank * 2,
        "strides": (case.stride,) * rank,
    }  # fmt: skip
    if case.op == "AveragePool":
        return add_node(graph, case.op, [left], count_include_pad=case.include_pad, **window)
    dtype = TYPES[case.weights]
    info = np.iinfo(dtype.numpy)
    channels = case.shape[1] if case.kernel else case.shape[-1]
    shape: tuple[int, ...] = (channels, case.outputs)
    if case.kernel:
        shape = (case.outputs, channels // case.group, *case.kernel)
    if case.op == "ConvTranspose":
        shape = (channels, case.outputs // case.group, *case.kernel)
    weights = random.integers(info.min + 4, info.max - 3, shape).astype(dtype.numpy)
    depth = weights.size / case.outputs
    scale = random.uniform(0.5, 1.5, case.outputs if case.per_channel else ())
    scale = (scale * 0.02 / np.sqrt(depth)).astype(np.float32)
    axis = 0 if case.kernel and case.op == "Conv" else 1
    right = dequantize(graph, graph.constant(weights), scale, case.weight_zero, axis)
    bias = random.standard_normal(case.outputs).astype(np.float32)
    if not case.kernel:
        y = add_node(graph, "MatMul", [left, right])
        return add_node(graph, "Add", [y, graph.constant(bias)]) if case.bias else y
    operands = [left, right, *([graph.constant(bias)] if case.bias else [])]
    dilations = (case.dilation,) * rank
    return add_node(graph, case.op, operands, group=case.group, dilations=dilations, **window)


def _follow(graph: Graph, value: Value, name: str, index: int) -> Value:
    if name.startswith("residual"):
        dtype = U8 if name.endswith("u8") else I8
        other = graph.add_input(f"r{index}", dtype, value.known_shape)
        return add_node(graph, "Add", [value, dequantize(graph, other, np.float32(0.02), 3)])
    if name == "byte":
        dtype = U8 if index % 2 else I8
        return dequantize(
            graph, quantize(graph, value, np.float32(0.05), dtype, 5), np.float32(0.05), 5
        )
    if name == "SiLU":
        return add_node(graph, "Mul", [value, add_node(graph, "Sigmoid", [value])])
    if name == "Clip":
        bounds = [graph.constant(np.array(bound, np.float32)) for bound in (0, 6)]
        return add_node(graph, "Clip", [value, *bounds])
    return add_node(graph, name, [value])


def dequantize(
    graph: Graph, value: Value, scale: np.ndarray | np.floating, zero: int, axis: int = 1
) -> Value:
    """Append a DequantizeLinear."""
    numbers = np.asarray(scale, np.float32)
    zeros = np.full(numbers.shape, zero, value.dtype.numpy)
    operands = [value, graph.constant(numbers)]
    operands += [graph.constant(zeros)] if zero else []
    return add_node(graph, "DequantizeLinear", operands, axis=axis)


def quantize(graph: Graph, value: Value, scale: np.floating, dtype: DType, zero: int) -> Value:
    """Append a QuantizeLinear."""
    operands = [value, graph.constant(np.array(scale)), graph.constant(np.array(zero, dtype.numpy))]
    return add_node(graph, "QuantizeLinear", operands)


def _layouts(case: Quantized, graph: Graph) -> dict[str, Layout]:
    if not case.kernel:
        return {}
    rank = len(case.shape)
    order = (0, *range(2, rank), 1)
    width = case.pad if case.halo is None else case.halo
    found = {
        v.name: Layout(order, ((0, 0),) * rank) for v in (*graph.inputs, *graph.outputs) if v.rank
    }
    found["x"] = Layout(order, ((0, 0), (0, 0), *(((width, width),) * (rank - 2))))
    return found


def check(
    tactic: Tactic, cases: Sequence[Quantized], target: Target, limit: int | None = None
) -> None:
    """Build the configurations of every case, compile all at once, compare with the reference.

    The reference sums floats, kernels sum integers: results may differ by a step where the exact
    number lies halfway between two, which a thousandth of the elements does at most.
    """
    found: list[Case] = []
    for case in cases:
        region, arrays = region_of(case)
        support = tactic.supports(region, target)
        assert support, f"{case.label}: {support.reason}"
        expected = run_graph(region.body, arrays)
        for config in tactic.configs(region, target)[:limit]:
            kernel = tactic.build(region, config, target)
            assert isinstance(kernel, Kernel)
            found.append(Case(f"{case.label} {dict(config)}", region, kernel, arrays, expected))
    library = Library([case.kernel for case in found], target.features)
    failures = []
    for index, case in enumerate(found):
        (got,) = run_case(library, index, case)
        problem = difference(got, case.expected[0])
        if problem is not None:
            failures.append(f"{case.label}: {problem}")
    assert not failures, f"{len(failures)} of {len(found)} differ:\n" + "\n".join(failures[:12])


def difference(got: np.ndarray, want: np.ndarray, most: float = 0.001) -> str | None:
    """Return how a result differs from the reference by more than rounding, or None.

    `most` is the share of elements that may be one step away.
    """
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
    if got.dtype == np.float32:
        close = np.isclose(got, want, rtol=1e-5, atol=1e-5)
        return None if close.all() else f"{(~close).sum()} floats differ"
    steps = np.abs(got.astype(np.int64) - want)
    share = (steps > 0).mean()
    if steps.max(initial=0) > 1 or share > most:
        return f"{share:.2%} differ, by up to {steps.max()} steps"
    spread = np.unique(want).size
    return None if spread > 3 or want.size < 50 else f"only {spread} different results"
