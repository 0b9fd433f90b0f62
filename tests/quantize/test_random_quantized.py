"""Random quantized models against ONNX Runtime, to one step of the final quantization."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

import planish
from planish.config import BuildConfig
from planish.ops.interpreter import run_graph
from tests.quantize.random_quantized import QuantizedModel
from tests.quantized_regions import quantized_graph


def expected(model: QuantizedModel) -> dict[str, np.ndarray]:
    """Return what ONNX Runtime computes without optimizing: floats between Q and DQ."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.proto.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, model.feeds()), strict=True))


def assert_within_one_step(got: np.ndarray, want: np.ndarray, steps: float) -> None:
    """Compare integers by one, real numbers by the step of the quantization before them."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    difference = np.abs(got.astype(np.float64) - want)
    limit = 1 if want.dtype.kind in "iu" else steps
    # a sum that lies between two steps may be rounded either way; behind it differences grow
    assert difference.max(initial=0) <= 3 * limit
    assert (difference > 1.01 * limit).mean() < 0.001


@pytest.mark.parametrize("seed", range(30))
def test_passes_keep_the_results(seed: int) -> None:
    model = QuantizedModel(seed, layers=4 + seed % 8)
    graph = quantized_graph(model.proto)
    results = run_graph(graph, [model.feeds()["x"]])
    for want, got in zip(expected(model).values(), results, strict=True):
        assert_within_one_step(got, want, 0.06)


@pytest.mark.parametrize("seed", range(40, 46))
def test_engines_keep_the_results(seed: int) -> None:
    model = QuantizedModel(seed, layers=3 + seed % 5)
    engine = planish.build(model.proto, BuildConfig(tune="off", threads=1))
    results = engine.run(model.feeds())
    for name, want in expected(model).items():
        assert_within_one_step(results[name], want, 0.06)
