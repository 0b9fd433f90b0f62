"""oneDNN kernels against the numpy reference: every post-operation, every way memory can lie."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from planish.backends.cpu.device import detect
from planish.backends.cpu.onednn.library import OneDnnError
from planish.backends.cpu.onednn.lower import supported_functions
from planish.backends.cpu.tactics.onednn import OneDnn
from planish.errors import EngineFileError, PlanError
from planish.ir.dtypes import BF16, F32
from planish.ir.graph import Graph, Value
from planish.ir.layout import Layout
from planish.ops.interpreter import run_graph
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.tactic import Operand, Region
from tests.backends.cpu.convolution_cases import region_of_case
from tests.backends.cpu.onednn.harness import (
    DTYPES,
    IR,
    add_node,
    convolution_region,
    make_runner,
    needs_bf16,
    needs_onednn,
    product_region,
    random_inputs,
    run,
)
from tests.backends.cpu.test_convolution import CASES
from tests.backends.cpu.test_matmul import PRODUCTS, region_of_product

pytestmark = needs_onednn

TACTIC = OneDnn()
TARGET = detect(2)
ATTRIBUTES = {
    "LeakyRelu": {"alpha": 0.1}, "Elu": {"alpha": 0.7}, "Swish": {"alpha": 1.7},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
}  # fmt: skip


def check(region: Region, dtype: str, arrays: list[np.ndarray] | None = None) -> list[int]:
    """Compare every configuration with the reference; return how many copies each needs."""
    support = TACTIC.supports(region, TARGET)
    assert support, support.reason
    arrays = random_inputs(region) if arrays is None else arrays
    (expected,) = run_graph(region.body, arrays)
    copies = []
    for config in TACTIC.configs(region, TARGET):
        runner = make_runner(region, TACTIC.build(region, config, TARGET), TARGET.threads)
        for _ in range(2):
            got = run(runner, region, arrays)
            problem = mismatch(got, expected, tolerance_of(IR[dtype]))
            assert problem is None, f"{dict(config)} {runner.program.implementation}: {problem}"
        assert not runner.program.implementation.startswith("ref")
        copies.append(runner.program.copies)
    return copies


def refusal(region: Region) -> str:
    return str(TACTIC.supports(region, TARGET).reason)


# -- whole regions -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label.replace(" ", "_"))
def test_convolutions(case, dtype: str) -> None:
    region, arrays, bindings = region_of_case(case, dtype)
    if bindings:
        assert refusal(region) == "extents are dynamic"
        return
    check(region, dtype, arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PRODUCTS, ids=lambda case: case.label.replace(" ", "_"))
def test_products(case, dtype: str) -> None:
    region, arrays, bindings = region_of_product(case, dtype)
    if bindings or case.constant == "a":
        assert refusal(region) in ("extents are dynamic", "the left operand is a constant")
        return
    check(region, dtype, arrays)


# -- epilogues -----------------------------------------------------------------------------------


def function(op: str) -> Callable[[Graph, Value], Value]:
    def append(graph: Graph, value: Value) -> Value:
        if op in ("Sqrt", "Log"):
            value = add_node(graph, "Softplus", [value])
        return add_node(graph, op, [value], **ATTRIBUTES.get(op, {}))

    return append


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", supported_functions())
def test_functions(op: str, dtype: str) -> None:
    check(convolution_region(dtype, function(op)), dtype)
    check(product_region(dtype, function(op)), dtype)


def test_tanh_gelu_and_clip_bounds() -> None:
    def append(graph: Graph, value: Value) -> Value:
        low, high = graph.constant(np.float32(-0.5)), graph.constant(np.float32(0.8))
        clipped = add_node(graph, "Clip", [value, low, high])
        return add_node(graph, "Gelu", [clipped], approximate="tanh")

    check(convolution_region("f32", append), "f32")


SCALARS = [("Add", 0.3), ("Sub", 0.3), ("Mul", -1.5), ("Div", 3.0), ("Max", 0.2), ("Min", 0.2)]


@pytest.mark.parametrize("order", ["result first", "number first"])
@pytest.mark.parametrize(("op", "number"), SCALARS)
def test_numbers(op: str, number: float, order: str) -> None:
    def append(graph: Graph, value: Value) -> Value:
        value = add_node(graph, "Exp", [value])
        operands = [value, graph.constant(np.array([number], np.float32))]
        return add_node(graph, op, operands if order == "result first" else operands[::-1])

    check(product_region("f32", append), "f32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Div", "Max", "Min"])
def test_one_number_a_channel(op: str, dtype: str) -> None:
    def with_shape(*shape: int) -> Callable[[Graph, Value], Value]:
        def append(graph: Graph, value: Value) -> Value:
            numbers = np.linspace(0.5, 2.0, int(np.prod(shape))).reshape(shape)
            constant = graph.constant(numbers.astype(value.dtype.numpy))
            first = add_node(graph, op, [value, constant])
            return add_node(graph, "Relu", [add_node(graph, op, [first, constant])])

        return append

    check(convolution_region(dtype, with_shape(16, 1, 1)), dtype)
    check(product_region(dtype, with_shape(20)), dtype)


def residual(graph: Graph, value: Value) -> Value:
    other = graph.add_input("r", value.dtype, value.known_shape)
    return add_node(graph, "Relu", [add_node(graph, "Add", [other, value])])


def gate(graph: Graph, value: Value) -> Value:
    other = graph.add_input("r", value.dtype, value.known_shape)
    return add_node(graph, "Mul", [add_node(graph, "Sigmoid", [value]), other])


HALO = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (1, 1), (1, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epilogue", [residual, gate])
def test_second_tensors_wherever_they_lie(epilogue, dtype: str) -> None:
    rows = Layout.row_major(4)
    assert check(convolution_region(dtype, epilogue), dtype) == [0]
    assert check(convolution_region(dtype, epilogue, layouts={"r": HALO}), dtype) == [1]
    assert check(convolution_region(dtype, epilogue, layouts={"r": rows, "y": HALO}), dtype) == [2]
    check(product_region(dtype, epilogue), dtype)


def test_epilogues_that_are_no_chain_are_refused() -> None:
    def twice(graph: Graph, value: Value) -> Value:
        return add_node(graph, "Mul", [value, add_node(graph, "Sigmoid", [value])])

    def divided(graph: Graph, value: Value) -> Value:
        other = graph.add_input("r", value.dtype, value.known_shape)
        return add_node(graph, "Div", [other, value])

    def unknown(graph: Graph, value: Value) -> Value:
        return add_node(graph, "Softsign", [value])

    assert "reads a result twice" in refusal(convolution_region("f32", twice))
    assert "does not divide by the result" in refusal(convolution_region("f32", divided))
    assert "Softsign is not one" in refusal(convolution_region("f32", unknown))


# -- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_read_where_it_lies(dtype: str) -> None:
    wide = Layout((0, 2, 3, 1), ((0, 0), (0, 0), (2, 2), (2, 2)))
    rows = Layout.row_major(4)
    assert check(convolution_region(dtype), dtype) == [0]
    assert check(convolution_region(dtype, layouts={"x": HALO}), dtype) == [0]
    assert check(convolution_region(dtype, layouts={"x": wide}), dtype) == [1]
    assert check(convolution_region(dtype, layouts={"x": rows}), dtype) == [1]
    assert check(convolution_region(dtype, layouts={"x": HALO, "y": HALO}), dtype) == [1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pixel_convolutions_are_products_without_copies(dtype: str) -> None:
    layouts = {"x": HALO, "y": HALO}
    region = convolution_region(dtype, kernel=1, pad=0, layouts=layouts)
    assert check(region, dtype) == [2, 0]  # as convolution, as product


@pytest.mark.parametrize("dtype", DTYPES)
def test_slices_of_a_concat(dtype: str) -> None:
    region = convolution_region(dtype)
    inputs, outputs = map(widened, region.inputs), map(widened, region.outputs)
    check(dataclasses.replace(region, inputs=tuple(inputs), outputs=tuple(outputs)), dtype)


def widened(operand: Operand) -> Operand:
    """Return an operand whose pixels have room for 5 more channels."""
    channels = operand.shape[1]
    strides = [s if axis == 1 else s // channels * (channels + 5)
               for axis, s in enumerate(operand.strides)]  # fmt: skip
    return dataclasses.replace(operand, strides=tuple(strides))


@needs_bf16
def test_casts_at_the_border_of_a_bf16_model() -> None:
    def to_float(graph: Graph, value: Value) -> Value:
        return add_node(graph, "Cast", [add_node(graph, "Relu", [value])], to=F32.onnx)

    first = convolution_region("bf16", cast_input=True)
    assert [operand.dtype for operand in first.inputs] == [F32]
    check(first, "bf16")
    last = convolution_region("bf16", to_float)
    assert last.outputs[0].dtype is F32
    assert last.inputs[0].dtype is BF16
    check(last, "bf16")


def test_an_operand_in_the_place_of_the_result_is_refused() -> None:
    region = product_region("f32", residual, left=(4, 8), right=(8, 8))
    (config,) = TACTIC.configs(region, TARGET)
    runner = make_runner(region, TACTIC.build(region, config, TARGET))
    a, r = np.ones((4, 8), np.float32), np.ones((4, 8), np.float32)
    with pytest.raises(PlanError, match="cannot overwrite an operand"):
        runner([a, r], [r])


# -- parameters ----------------------------------------------------------------------------------


def test_damaged_parameters_are_refused() -> None:
    region = convolution_region("f32", residual)
    kernel = TACTIC.build(region, TACTIC.configs(region, TARGET)[0], TARGET)
    changes = [
        {"anchor": "matmul"}, {"dtype": "f64"}, {"source": 7}, {"source": "x"}, {"weights": [0]},
        {"weights": [99, 8, 3, 3]}, {"strides": [1]}, {"group": 0}, {"halo": 3}, {"post": [["x"]]},
        {"post": [["binary", "add", {"operand": 9}]]}, {"post": [["binary", "add", {}]]},
        {"post": [["eltwise", "relu", None, 0]]},
    ]  # fmt: skip
    for change in changes:
        damaged = dataclasses.replace(kernel, parameters={**kernel.parameters, **change})
        with pytest.raises((EngineFileError, OneDnnError)):  # what we see, what oneDNN sees
            make_runner(region, damaged)


# -- threads -------------------------------------------------------------------------------------


def test_many_threads_share_one_runner() -> None:
    region = convolution_region("f32", residual, layouts={"r": HALO, "y": HALO})
    runner = make_runner(region, TACTIC.build(region, TACTIC.configs(region, TARGET)[0], TARGET), 2)

    def work(seed: int) -> str | None:
        random = np.random.default_rng(seed)
        arrays = [random.standard_normal(o.shape).astype(np.float32) for o in region.inputs]
        (expected,) = run_graph(region.body, arrays)
        results = [run(runner, region, arrays) for _ in range(9)]
        found = [mismatch(got, expected, tolerance_of(F32)) for got in results]
        return next((text for text in found if text is not None), None)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(12))) == [None] * 12


FORK = """
import os, sys
import numpy as np
from tests.backends.cpu.onednn.harness import convolution_region, make_runner, random_inputs, run
from planish.backends.cpu.device import detect
from planish.backends.cpu.tactics.onednn import OneDnn
region = convolution_region("f32")
config = OneDnn().configs(region, detect(2))[0]
runner = make_runner(region, OneDnn().build(region, config, detect(2)), 2)
before = run(runner, region, random_inputs(region))
child = os.fork()
if child == 0:
    after = run(runner, region, random_inputs(region))
    os._exit(0 if np.allclose(before, after) and runner.program.threads == 1 else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_runs_alone() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], timeout=60, check=False, env=os.environ)
    assert done.returncode == 0
