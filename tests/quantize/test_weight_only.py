"""Weight-only quantization: requests, accuracy, engines against ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish
from planish.errors import ConfigError
from planish.ir.dtypes import F32, I4, I8, U4, U8, DType
from planish.ops.quantize import LIMITS
from planish.ops.tolerance import TOLERANCES, mismatch

DEPTH, COLUMNS = 300, 96
Array = np.ndarray


def model_of(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    shape: Sequence[int | str],
    columns: int,
    opset: int = 21,
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """Return a model from x (floats, or the indices of rows) to y."""
    outer = shape[:-1] if dtype == TensorProto.FLOAT else shape
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*outer, columns])],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def packed(name: str, array: Array, dtype: DType) -> onnx.TensorProto:
    """Return integers of four or eight bits."""
    return helper.make_tensor(name, dtype.onnx, array.shape, array.reshape(-1).tolist())


def block_wise(dtype: DType, block: int, zeros: bool, transposed: bool = False) -> bytes:
    """Return a product by block-wise dequantized weights."""
    random = np.random.default_rng(block)
    low, high = LIMITS[dtype]
    shape = (COLUMNS, DEPTH) if transposed else (DEPTH, COLUMNS)
    axis = int(transposed)
    blocks = list(shape)
    blocks[axis] = -(-DEPTH // block)
    scales = random.uniform(0.01, 0.02, blocks).astype(np.float32)
    constants = [
        packed("w", random.integers(low, high + 1, shape), dtype),
        numpy_helper.from_array(scales, "s"),
    ]
    if zeros:
        constants.append(packed("z", random.integers(low, high + 1, blocks), dtype))
    names = [constant.name for constant in constants]
    nodes = [helper.make_node("DequantizeLinear", names, ["r"], axis=axis, block_size=block)]
    if transposed:
        bias = random.standard_normal(COLUMNS).astype(np.float32)
        constants.append(numpy_helper.from_array(bias, "b"))
        nodes.append(helper.make_node("Gemm", ["x", "r", "b"], ["y"], transB=1))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "r"], ["y"]))
    return model_of(nodes, constants, ["N", DEPTH], COLUMNS)


def few_bits(bits: int, block: int, zeros: bool) -> bytes:
    """Return a com.microsoft.MatMulNBits."""
    random = np.random.default_rng(bits)
    blocks = -(-DEPTH // block)
    weights = random.integers(0, 256, (COLUMNS, blocks, block * bits // 8)).astype(np.uint8)
    scales = random.uniform(0.01, 0.02, COLUMNS * blocks).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")]
    if zeros:
        points = random.integers(0, 256, COLUMNS * -(-blocks * bits // 8)).astype(np.uint8)
        constants.append(numpy_helper.from_array(points, "z"))
    names = [constant.name for constant in constants]
    node = helper.make_node(
        "MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", K=DEPTH, N=COLUMNS, bits=bits,
        block_size=block,
    )  # fmt: skip
    return model_of([node], constants, ["N", DEPTH], COLUMNS)


def onnx_runtime(model: bytes, x: Array) -> Array:
    """Return what ONNX Runtime computes with activations in float32."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # its own default multiplies activations that were rounded to eight bits
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


MODELS = {
    "i4, 32": lambda: block_wise(I4, 32, zeros=False),
    "u4, 64, zero points": lambda: block_wise(U4, 64, zeros=True),
    "i8, 128": lambda: block_wise(I8, 128, zeros=False),
    "Gemm, i4, 16": lambda: block_wise(I4, 16, zeros=False, transposed=True),
    "Gemm, u8, zero points": lambda: block_wise(U8, 32, zeros=True, transposed=True),
    "MatMulNBits, 4": lambda: few_bits(4, 32, zeros=False),
    "MatMulNBits, 4, zero points": lambda: few_bits(4, 16, zeros=True),
    "MatMulNBits, 8, zero points": lambda: few_bits(8, 64, zeros=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_quantized_models_keep_their_weights_and_match_onnx_runtime(name: str) -> None:
    model = MODELS[name]()
    engine = planish.build(model, planish.BuildConfig(tune="off", threads=1))
    (layer,) = engine.report.layers
    assert layer.tactic == "compressed_matmul"
    assert engine.report.memory["weights"] < DEPTH * COLUMNS * 4 * 0.5
    for rows in (1, 5):
        x = np.random.default_rng(rows).standard_normal((rows, DEPTH)).astype(np.float32)
        problem = mismatch(engine(x), onnx_runtime(model, x), TOLERANCES[F32])
        assert problem is None, f"{rows} rows: {problem}"


# -- requests ------------------------------------------------------------------------------------

WIDTHS = (128, 640, 512, 160)
ROWS = 32


@cache
def network() -> bytes:
    """Return three layers, "fc0" to "fc2", whose last one is read by the user."""
    random = np.random.default_rng(3)
    constants, nodes, value = [], [], "x"
    for i, (a, b) in enumerate(itertools.pairwise(WIDTHS)):
        weights = (random.standard_normal((a, b)) / np.sqrt(a)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{i}"))
        result = "y" if i == len(WIDTHS) - 2 else f"m{i}"
        nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [result], name=f"fc{i}"))
        value = result
        if result != "y":
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"]))
            value = f"r{i}"
    return model_of(nodes, constants, [ROWS, WIDTHS[0]], WIDTHS[-1])


@cache
def batches() -> list[Array]:
    """Return inputs with few directions, as those of trained networks have."""
    random = np.random.default_rng(4)
    mix = random.standard_normal((16, WIDTHS[0]))
    return [
        (random.standard_normal((ROWS, 16)) @ mix + 0.2 * random.standard_normal((ROWS, WIDTHS[0])))
        .astype(np.float32)
        for _ in range(9)
    ]  # fmt: skip


def built(weights: object, **options: object) -> planish.Engine:
    """Return the network with its weights in few bits."""
    config = planish.BuildConfig(tune="off", threads=1, weights=weights, **options)
    return planish.build(network(), config)


def error(engine: planish.Engine) -> float:
    """Return the relative error of an engine on data that no calibration saw."""
    x = batches()[-1]
    want = onnx_runtime(network(), x)
    return float(np.linalg.norm(engine(x) - want) / np.linalg.norm(want))


def test_int8_is_close_and_four_times_smaller() -> None:
    engine = built("int8")
    assert {layer.bits for layer in engine.report.compressed} == {8}
    assert error(engine) < 0.02
    floats = sum(a * b for a, b in itertools.pairwise(WIDTHS)) * 4
    assert engine.report.memory["weights"] < floats * 0.27


def test_the_last_layer_gets_eight_bits_and_overrides_are_respected() -> None:
    engine = built(
        "int4", layer_precisions={"fc0": "fp32", "fc?": "fp32", "m1": "int8", "fc2": "int8"}
    )
    assert {layer.name: layer.bits for layer in engine.report.compressed} == {"fc1": 8, "fc2": 8}
    plain = {layer.name: layer for layer in built("int4").report.compressed}
    assert [layer.bits for layer in plain.values()] == [4, 4, 8]
    assert plain["fc0"].group == 32
    assert 15 < plain["fc0"].decibels < 30


def test_gptq_beats_rounding_in_output_error() -> None:
    rounded = error(built(planish.WeightOnly(group=128, last_bits=4)))
    options = planish.WeightOnly(group=128, last_bits=4, method="gptq")
    engine = built(options, calibrator=planish.MinMaxCalibrator(batches()[:-1]))
    assert {layer.method for layer in engine.report.compressed} == {"gptq"}
    assert error(engine) < 0.6 * rounded


def test_tables_become_rows_of_eight_bits() -> None:
    random = np.random.default_rng(5)
    table = random.standard_normal((600, 128)).astype(np.float32)
    constant = numpy_helper.from_array(table, "table")
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"], name="embed")]
    model = model_of(nodes, [constant], ["N", 7], 128, dtype=TensorProto.INT64)
    engine = planish.build(model, planish.BuildConfig(tune="off", threads=1, weights="int4"))
    x = random.integers(0, 600, (3, 7))
    assert np.abs(engine(x) - table[x]).max() < np.abs(table).max() / 250
    assert engine.report.memory["weights"] < table.nbytes * 0.3
    assert {layer.tactic for layer in engine.report.layers} <= {"gather", "pointwise"}


def test_reports_say_what_was_compressed() -> None:
    report = built("int4").report
    again = planish.BuildReport.from_dict(report.to_dict())
    assert again.compressed == report.compressed
    assert "fc0: 128 x 640, 4 bits in groups of 32, round" in report.to_text()


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ("int5", {}, "expected one of int8, int4"),
        (4, {}, "expected 'int4', 'int8' or a planish.WeightOnly"),
        ("int4", {"device": "cuda"}, "no kernels on device 'cuda'"),
    ],
)
def test_bad_requests_are_refused(weights: object, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planish.BuildConfig(weights=weights, **options)


@pytest.mark.parametrize(
    "options", [{"bits": 3}, {"group": 20}, {"method": "awq"}, {"last_bits": 16}]
)
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        planish.WeightOnly(**options)


def test_gptq_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="GPTQ needs calibration data"):
        built(planish.WeightOnly(method="gptq"))
    with pytest.raises(ConfigError, match="calibration data are empty"):
        built(planish.WeightOnly(method="gptq", data=[]))


def test_a_model_without_large_products_is_told_so() -> None:
    weights = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [weights], ["N", 8], 8)
    with pytest.warns(UserWarning, match="no layer has weights to compress"):
        planish.build(model, planish.BuildConfig(tune="off", weights="int4"))
