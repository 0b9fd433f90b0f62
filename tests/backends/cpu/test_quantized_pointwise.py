"""Pointwise regions around bytes: vector loops and look-up tables against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.lookup import LookupTactic
from planish.backends.cpu.tactics.pointwise import PointwiseTactic
from planish.ir.dtypes import BF16, F32, I8, U8, DType
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ops.interpreter import run_graph
from planish.tactics.region import make_region
from planish.tactics.tactic import Kernel, Region, Tactic
from planish.tactics.target import Target
from tests.backends.cpu.convolution_cases import add_node
from tests.backends.cpu.kernel_harness import Case, Library, run_case
from tests.backends.cpu.quantized_cases import dequantize, difference, quantize

WIDEST = Target("cpu", detect().features, threads=1)
TARGETS = {
    "widest": WIDEST,
    "no_vbmi": Target("cpu", WIDEST.features - {"avx512vbmi", "avx512_vbmi2"}),
    "avx2": Target("cpu", WIDEST.features - {"avx512f"}),
    "plain": Target("cpu", frozenset()),
}
SHAPES = [(1, 3, 9, 10), (2, 40, 5, 7), (1, 5, 1, 1), (3, 67)]
NHWC = Layout.channels_last(4)
HALO = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 2), (2, 1)))


def region_of(name: str, shape: tuple[int, ...], layouts: tuple[Layout, Layout]) -> Region:
    graph = Graph(name)
    types: dict[str, DType] = {"quantize": F32, "narrow": BF16}
    x = graph.add_input("x", types.get(name, U8), shape)
    inputs = [x]
    if name in ("quantize", "narrow"):
        y = quantize(graph, x, np.float32(0.017), I8, -3)
    elif name == "residual":
        inputs.append(graph.add_input("r", I8, shape))
        left = dequantize(graph, x, np.float32(0.03), 7)
        right = dequantize(graph, inputs[1], np.float32(0.05), 0)
        y = add_node(graph, "Relu", [add_node(graph, "Add", [left, right])])
        y = quantize(graph, y, np.float32(0.0613), U8, 4)
    elif name == "dequantize":
        y = dequantize(graph, x, np.float32(0.03), 7)
    elif name == "gate":
        inputs.append(graph.add_input("g", U8, (*shape[:2], *(1,) * (len(shape) - 2))))
        gate = dequantize(graph, inputs[1], np.float32(0.01), 0)
        y = add_node(graph, "Mul", [dequantize(graph, x, np.float32(0.03), 7), gate])
        y = quantize(graph, y, np.float32(0.0213), I8, 0)
    else:
        y = add_node(graph, name, [dequantize(graph, x, np.float32(0.03), 100)])
        y = quantize(graph, y, np.float32(0.0213), I8, 0)
    graph.add_output(y)
    found = {v.name: layouts[0] for v in inputs if v.rank == 4} | {y.name: layouts[1]}
    return make_region(graph, "pointwise", found if len(shape) == 4 else {})


def random_of(value: Value, random: np.random.Generator) -> np.ndarray:
    if value.dtype.is_float:
        return random.standard_normal(value.known_shape).astype(value.dtype.numpy)
    info = np.iinfo(value.dtype.numpy)
    return random.integers(info.min, info.max + 1, value.known_shape).astype(value.dtype.numpy)


def check(tactic: Tactic, names: tuple[str, ...], target: Target, most: float) -> None:
    random, cases = np.random.default_rng(3), []
    for name in names:
        for shape in SHAPES:
            for layouts in ((NHWC, HALO), (Layout.row_major(4), NHWC)):
                region = region_of(name, shape, layouts)
                support = tactic.supports(region, target)
                assert support, f"{name}: {support.reason}"
                kernel = tactic.build(region, {}, target)
                assert isinstance(kernel, Kernel)
                arrays = [random_of(value, random) for value in region.body.inputs]
                expected = run_graph(region.body, arrays)
                cases.append(Case(f"{name} {shape} {layouts}", region, kernel, arrays, expected))
    library = Library([case.kernel for case in cases], target.features)
    for index, case in enumerate(cases):
        (got,) = run_case(library, index, case)
        assert difference(got, case.expected[0], most) is None, case.label


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_loops_give_the_results_of_the_reference(target: Target) -> None:
    names = ("quantize", "narrow", "residual", "dequantize", "gate", "HardSwish", "Gelu")
    check(PointwiseTactic(), names, target, most=0.03)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_tables_give_the_results_of_the_reference(target: Target) -> None:
    check(LookupTactic(), ("HardSwish", "Gelu", "Relu"), target, most=0.0)


def test_infinities_saturate() -> None:
    region = region_of("quantize", (3, 67), (NHWC, NHWC))
    x = np.zeros((3, 67), np.float32)
    x[0], x[1] = np.inf, -np.inf
    kernel = PointwiseTactic().build(region, {}, WIDEST)
    assert isinstance(kernel, Kernel)
    case = Case("infinities", region, kernel, [x])
    (got,) = run_case(Library([kernel], WIDEST.features), 0, case)
    assert got[:, 0].tolist() == got[:, -1].tolist() == [127, -128, -3]


def test_functions_of_several_tensors_are_no_tables() -> None:
    region = region_of("residual", (3, 67), (NHWC, NHWC))
    assert "one tensor" in str(LookupTactic().supports(region, WIDEST).reason)
