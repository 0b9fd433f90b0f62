"""Models and engines of sizes that do not fit old limits."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import planish
from planish.config import BuildConfig
from tests import small_models

GIB = 1 << 30


@pytest.mark.slow
def test_more_than_2_gb_of_weights(tmp_path: Path) -> None:
    """Three matrices of 768 MiB in one external file; most of them is a hole that reads as zero."""
    if shutil.disk_usage(tmp_path).free < 8 * GIB:
        pytest.skip("needs 8 GB of disk")
    rows, columns, count = 4096, 49152, 3
    size = rows * columns * 4
    tensors, nodes = [], []
    with (tmp_path / "m.data").open("wb") as file:
        file.truncate(count * size)
        for index in range(count):
            tensor = TensorProto(
                name=f"w{index}",
                data_type=TensorProto.FLOAT,
                dims=[rows, columns],
                data_location=TensorProto.EXTERNAL,
            )
            for key, value in (("location", "m.data"), ("offset", index * size), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            file.seek(index * size + 4 * columns * index)  # row `index` of matrix `index`
            file.write(np.full(columns, index + 1, np.float32).tobytes())
            nodes.append(helper.make_node("MatMul", ["x", f"w{index}"], [f"y{index}"]))
    outputs = {f"y{index}": (1, columns) for index in range(count)}
    proto = small_models.model(nodes, {"x": (1, rows)}, outputs)
    proto.graph.initializer.extend(tensors)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())

    engine = planish.build(tmp_path / "m.onnx", BuildConfig(tune="off"))
    engine.save(tmp_path / "m.plan")
    del engine
    assert (tmp_path / "m.plan").stat().st_size > 2 * GIB
    x = np.arange(rows, dtype=np.float32)[None] + 1
    results = planish.load(tmp_path / "m.plan").run({"x": x})
    for index in range(count):
        np.testing.assert_array_equal(results[f"y{index}"], (index + 1) * (index + 1))


def test_external_data(tmp_path: Path) -> None:
    proto = small_models.convolutions(batch=2)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    assert (tmp_path / "weights.bin").stat().st_size > 1000
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    engine = planish.build(tmp_path / "m.onnx", BuildConfig(tune="off"))
    proto = small_models.convolutions(batch=2)
    np.testing.assert_allclose(engine(x), small_models.expected(proto, {"x": x})["y"], atol=1e-5)
