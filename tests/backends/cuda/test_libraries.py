"""NVIDIA's libraries as tactics: what regions they take, and on a GPU their results."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import planish
from planish import BuildConfig
from planish.backends.backend import backend_for
from planish.backends.cuda.libraries.find import is_installed, load_library
from planish.backends.cuda.libraries.linear import read_linear
from planish.backends.cuda.tactics.cublaslt_matmul import CublasLtMatmul
from planish.backends.cuda.tactics.cudnn_convolution import CudnnConvolution, read_cudnn
from planish.build_clock import BuildClock
from planish.builder import lower
from planish.errors import CompatibilityError
from planish.importers.importer import read_model
from planish.ir.dtypes import F16
from planish.ops.tolerance import mismatch, tolerance_of
from planish.tactics.region import region_of, regions_of
from planish.tactics.tactic import Region

Array = np.ndarray[Any, Any]
Spec = dict[str, Any]
MATMULS: list[Spec] = [
    {"shape": (1, 37, 64), "outputs": 96},
    {"shape": (2, 19, 128), "outputs": 64, "bias": True, "then": "Relu"},
    {"shape": (1, 50, 128), "outputs": 128, "bias": True, "residual": True},
]
CONVOLUTIONS: list[Spec] = [
    {"shape": (1, 32, 14, 14), "outputs": 64, "kernel": 1},
    {"shape": (2, 64, 15, 13), "outputs": 32, "kernel": 3, "bias": True, "then": "Relu"},
    {"shape": (1, 64, 16, 16), "outputs": 64, "kernel": 3, "bias": True, "residual": True,
     "then": "Relu"},
    {"shape": (1, 32, 20, 20), "outputs": 48, "kernel": 3, "stride": 2, "bias": True},
]  # fmt: skip


def random(generator: np.random.Generator, shape: tuple[int, ...], depth: int) -> Array:
    return (generator.standard_normal(shape) / np.sqrt(depth)).astype(np.float32)


class _Writer:
    """An ONNX model being written."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, shape: tuple[int, ...], depth: int) -> str:
        array = random(self.generator, shape, depth)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def product(self, given: str, name: str, inside: int, outside: int, spec: Spec) -> str:
        if "kernel" not in spec:
            weights = self.constant(f"{name}_w", (inside, outside), inside)
            value = self.node("MatMul", [given, weights], name)
            if not spec.get("bias"):
                return value
            return self.node("Add", [value, self.constant(f"{name}_b", (outside,), 1)], f"{name}_y")
        k, step = spec["kernel"], spec.get("stride", 1)
        inputs = [given, self.constant(f"{name}_w", (outside, inside, k, k), inside * k * k)]
        if spec.get("bias"):
            inputs.append(self.constant(f"{name}_b", (outside,), 1))
        return self.node("Conv", inputs, name, pads=[k // 2] * 4, strides=[step] * 2)


def model_of(spec: Spec) -> onnx.ModelProto:
    """Return the product between two others, so that its data lies as inside of a network."""
    writer, shape = _Writer(), spec["shape"]
    plain = {"kernel": 1} if "kernel" in spec else {}
    inside, outside = shape[1] if plain else shape[-1], spec["outputs"]
    start = writer.product("x", "first", inside, inside, plain)
    value = writer.product(start, "mine", inside, outside, spec)
    if spec.get("residual"):
        value = writer.node("Add", [value, start], "added")
    if "then" in spec:
        value = writer.node(spec["then"], [value], "activated")
    value = writer.product(value, "last", outside, 8, plain)
    graph = helper.make_graph(
        writer.nodes, "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)], writer.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def regions(model: onnx.ModelProto) -> list[Region]:
    """Return the regions of a model for a GPU in float16."""
    config = BuildConfig(device="cuda", target="sm_90", precision="fp16", tune="off")
    backend, clock = backend_for("cuda"), BuildClock(config)
    target = backend.detect(None, "sm_90")
    graph = read_model(model, config.profiles, None, None)
    lower(graph, config, backend, target, clock)
    symbols = tuple(sorted(graph.ranges))
    return [region_of(node, symbols, graph.ranges) for node in regions_of(graph)]


@pytest.mark.parametrize("spec", MATMULS, ids=str)
def test_matrix_products_are_read(spec: Spec) -> None:
    every = [x for x in map(read_linear, regions(model_of(spec))) if not isinstance(x, str)]
    (found,) = [x for x in every if x.bias is not None or not spec.get("bias")][-1:]
    rows = int(np.prod(spec["shape"][:-1]))
    assert (found.source.rows, found.source.columns) == (rows, spec["shape"][-1])
    assert (found.target.columns, found.weights.shape[0]) == (spec["outputs"], spec["outputs"])
    assert (found.bias is not None) == bool(spec.get("bias"))
    assert (found.residual is not None) == bool(spec.get("residual"))
    assert found.activation == spec.get("then", "")


@pytest.mark.parametrize("spec", CONVOLUTIONS, ids=str)
def test_convolutions_are_read(spec: Spec) -> None:
    found = [x for x in map(read_cudnn, regions(model_of(spec))) if not isinstance(x, str)]
    mine = [given for given, _, _ in found if given["weights"][0] == spec["outputs"]]
    wanted = [given for given in mine if given["weights"][2] == spec["kernel"]]
    assert wanted, "the convolution is not taken"
    assert wanted[0]["strides"] == [spec.get("stride", 1)] * 2
    if spec.get("residual"):
        assert any(given["residual"] is not None for given in wanted)


def test_a_library_that_is_not_there_is_named() -> None:
    if is_installed("cudnn"):
        pytest.skip("cuDNN is installed here")
    with pytest.raises(CompatibilityError, match="pip install nvidia-cudnn"):
        load_library("cudnn")


@pytest.mark.gpu
@pytest.mark.parametrize("spec", [*MATMULS, *CONVOLUTIONS], ids=str)
def test_results_are_those_of_generated_kernels(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    tactic = CudnnConvolution if "kernel" in spec else CublasLtMatmul
    if not is_installed("cudnn" if "kernel" in spec else "cublasLt"):
        pytest.skip("the library is not installed")
    model = model_of(spec)
    options = {"device": "cuda", "precision": "fp16", "tune": "off"}
    usual = planish.build(model, BuildConfig(**options))
    monkeypatch.setattr(tactic, "rank", 1)
    engine = planish.build(model, BuildConfig(**options, tactic_sources=("default", tactic.name)))
    assert any(kind == tactic.name for kind, _ in engine.plan.externals)
    generator = np.random.default_rng(1)
    feeds = {
        info.name: generator.standard_normal([int(str(n)) for n in info.shape]).astype(np.float32)
        for info in engine.inputs
    }
    (want,), (got,) = usual.run(feeds).values(), engine.run(feeds).values()
    assert mismatch(got, want, tolerance_of(F16)) is None
    (got,) = planish.load(engine.to_bytes()).run(feeds).values()
    assert mismatch(got, want, tolerance_of(F16)) is None
