"""Real models through the pipeline up to fusion, run by numpy, against their recorded outputs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.config import BuildConfig, Profile
from planish.importers.importer import read_model
from planish.ir.dtypes import F32, I8, U8
from planish.ir.graph import Graph, Node
from planish.ops.interpreter import run_graph
from planish.passes.building import emit
from planish.passes.graph_pass import PassStatistics, count_layers, run_pipeline
from planish.passes.pipeline import pipeline
from planish.passes.quantized import PRODUCTS, is_quantized_product

ROOT = Path(__file__).parents[3] / "shared" / "models"
PHYSICAL = ("assign_layouts", "assign_storage")

# model, and the layers it may have at most after fusion (views included)
MODELS = {
    "mnist/mnist-8.onnx": 7,
    "mnist/burn_mnist.onnx": 8,
    "cifar10_resnet/resnet20.onnx": 31,
    "cifar10_resnet/resnet20_qdq_minmax_pc.onnx": 60,
    "hand_gesture/point_history_classifier_lstm.onnx": 16,
    "magika/model.onnx": 33,
    "openwakeword/embedding_model.onnx": 28,
    "silero_vad/silero_vad.onnx": 24,
    "super_resolution/espcn_x3_core.onnx": 8,
    "tf2onnx/vww_96_float.onnx": 33,
    "tf2onnx/vww_96_int8_qdq.onnx": 36,
    "ultraface/version-RFB-320.onnx": 84,
    "yunet/yunet_n_320_320.onnx": 80,
}

needs_models = pytest.mark.skipif(not ROOT.is_dir(), reason=f"{ROOT} is not here")


def recorded(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    for suffix in (".io.npz", ".ort_io.npz"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            return dict(np.load(file))
    raise FileNotFoundError(path)


def optimized(graph: Graph) -> list[PassStatistics]:
    passes = [each for each in pipeline(BuildConfig()) if each.name not in PHYSICAL]
    return run_pipeline(graph, passes)


@needs_models
@pytest.mark.parametrize("name", MODELS)
def test_results_are_the_recorded_ones(name: str) -> None:
    arrays = recorded(ROOT / name)
    inputs = {key[3:]: array for key, array in arrays.items() if key.startswith("in:")}
    profiles = {key: Profile(a.shape, a.shape, a.shape) for key, a in inputs.items()}
    graph = read_model(ROOT / name, profiles=profiles)
    before = count_layers(graph)

    record = optimized(graph)

    assert record[0].before == before
    assert record[-1].after == count_layers(graph) <= MODELS[name]
    results = run_graph(graph, [inputs[key] for key in graph.input_names])
    for key, got in zip(graph.output_names, results, strict=True):
        want = arrays[f"out:{key}"]
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if want.dtype.kind in "iub":
            assert np.abs(got.astype(np.int64) - want).max() <= 1
            continue
        scale = max(1.0, float(np.abs(want).max()))
        steps = 100 if "qdq" in name else 1  # one quantization step may go the other way
        assert float(np.abs(got - want).max()) <= 5e-4 * scale * steps


@needs_models
def test_quantized_layers_become_regions_of_integers() -> None:
    graph = read_model(ROOT / "tf2onnx/vww_96_int8_qdq.onnx")
    optimized(graph)
    regions = [node for node in graph if node.op == "Region"]
    products = [inner for node in regions for inner in node.body if inner.op in PRODUCTS]
    assert len(products) == 28
    assert all(map(is_quantized_product, products))
    between = [value for node in regions for value in node.present_inputs]
    assert all(value.dtype in (I8, U8) for value in between)


def chain(blocks: int) -> Graph:
    """Return a graph of `blocks` times ten nodes, most of which the passes remove."""
    graph = Graph("chain")
    x = graph.add_input("x", F32, (1, 8, 6, 6))
    end = graph.append(Node("Identity", [x], [graph.new_value(F32, x.shape)], {}))
    weights = graph.constant(np.full((8, 8, 1, 1), 0.1, np.float32))
    vector = graph.constant(np.ones(8, np.float32))
    for _ in range(blocks):
        residual = x
        x = emit(graph, end, "Conv", [x, weights], {"kernel_shape": (1, 1)})
        x = emit(graph, end, "BatchNormalization", [x, vector, vector, vector, vector])
        x = emit(graph, end, "Mul", [x, emit(graph, end, "Sigmoid", [x])])
        x = emit(graph, end, "Reshape", [x, emit(graph, end, "Shape", [x])])
        x = emit(graph, end, "Identity", [x])
        x = emit(graph, end, "Transpose", [x], {"perm": (0, 2, 3, 1)})
        x = emit(graph, end, "Transpose", [x], {"perm": (0, 3, 1, 2)})
        x = emit(graph, end, "Add", [x, residual])
    graph.remove(end)
    graph.add_output(x, "y")
    return graph


def test_a_block_of_ten_nodes_becomes_one_region() -> None:
    graph = chain(20)
    assert len(graph) == 200
    optimized(graph)
    assert [node.attributes["kind"] for node in graph] == ["Conv"] * 20


@pytest.mark.slow
def test_time_grows_linearly_with_nodes() -> None:
    seconds = []
    for blocks in (250, 1000, 4000):
        graph = chain(blocks)
        start = time.perf_counter()
        optimized(graph)
        seconds.append(time.perf_counter() - start)
    # sixteen times the nodes: quadratic passes would take 256 times as long
    assert seconds[2] < 50 * seconds[0]
    assert seconds[1] < 10
