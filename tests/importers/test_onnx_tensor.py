"""Tensors of every encoding, and external data."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.errors import ModelError
from planish.importers.importer import read_model
from planish.importers.onnx_tensor import TensorReader, has_nan
from planish.ir.dtypes import DTYPES, STRING
from planish.ops.interpreter import run_graph
from tests.importers.models import model

NUMBERS = [0.0, 1.0, 3.0, 2.0, 5.0]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("name", [dtype.name for dtype in DTYPES if dtype is not STRING])
def test_every_element_type(name: str, raw: bool) -> None:
    dtype = next(dtype for dtype in DTYPES if dtype.name == name)
    array = np.array(NUMBERS).astype(dtype.numpy)
    data = numpy_helper.from_array(array, "t").raw_data if raw else array.astype(np.float64)
    if not raw and dtype.kind != "float":
        data = array.astype(np.int64)
    tensor = helper.make_tensor("t", dtype.onnx, array.shape, data, raw=raw)
    got = TensorReader(None).read(tensor, "here")
    assert got.dtype == dtype.numpy
    assert got.tolist() == array.tolist()


def test_negative_four_bit_numbers() -> None:
    array = np.array([-8, 7, -1]).astype(ml_dtypes.int4)
    tensor = numpy_helper.from_array(array, "t")
    assert TensorReader(None).read(tensor, "here").astype(int).tolist() == [-8, 7, -1]


def test_strings() -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, [2], ["a", "ü"])
    assert TensorReader(None).read(tensor, "here").tolist() == ["a", "ü"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_nan_is_found_and_infinities_are_not_nan(dtype: type) -> None:
    assert not has_nan(np.array([np.inf, -np.inf, 1]).astype(dtype))
    assert has_nan(np.array([np.inf, np.nan, 1]).astype(dtype))
    assert not has_nan(np.zeros(0, dtype))


@pytest.mark.parametrize("field", ["float_data", "int32_data"])
def test_wrong_counts_are_refused(field: str) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3])
    getattr(tensor, field).extend([1, 2])
    with pytest.raises(ModelError, match=r"3 f32 elements has [02] in float_data"):
        TensorReader(None).read(tensor, "here")


# -- external data --------------------------------------------------------------------------------

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def save(folder: Path, **entries: str) -> Path:
    """Save x + WEIGHTS with the weights in a file of their own, 8 bytes from its start."""
    proto = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (3, 4)}, ["y"])
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHTS.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "8", **entries}.items():
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    proto.graph.initializer.append(tensor)
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(b"\0" * 8 + WEIGHTS.tobytes())
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    graph = read_model(save(tmp_path))
    (value,) = graph.constants()
    assert not value.array.flags.writeable
    assert value.array.base is not None
    np.testing.assert_array_equal(run_graph(graph, [np.ones((3, 4), np.float32)])[0], WEIGHTS + 1)


def test_links_into_a_download_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    real = save(blobs)
    snapshot.mkdir()
    for name in ("model.onnx", "w.bin"):
        (snapshot / name).symlink_to(blobs / name)
    assert len(read_model(snapshot / "model.onnx")) == 1
    assert real.exists()


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model")
    outside = tmp_path / "secret"
    (tmp_path / "model" / "w.bin").rename(outside)
    (tmp_path / "model" / "w.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="links out of the folder"):
        read_model(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../w.bin"}, "not inside the model's folder"),
        ({"location": "/etc/passwd"}, "not inside the model's folder"),
        ({"location": "a/../../w.bin"}, "not inside the model's folder"),
        ({"location": "C:\\w.bin"}, "not inside the model's folder"),
        ({"location": ""}, "not inside the model's folder"),
        ({"location": "none.bin"}, "none.bin is missing"),
        ({"offset": "12"}, "too short: 56 bytes, needed 60"),
        ({"offset": "-1"}, "offset '-1'"),
        ({"length": "4"}, "4 bytes for a tensor of 48 bytes"),
    ],
)
def test_bad_external_data_is_refused(
    tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_model(save(tmp_path, **entries))


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="came as bytes"):
        read_model(save(tmp_path).read_bytes())


# -- weights that stay in the file ----------------------------------------------------------------


def large_model() -> onnx.ModelProto:
    weights = {
        "big": np.arange(300_000, dtype=np.float32),
        "small": np.float32([2]),
        "other": np.full(300_000, 3, np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["big", "small"], ["a"]),
        helper.make_node("Add", ["a", "other"], ["b"]),
        helper.make_node("Add", ["b", "x"], ["y"]),
    ]
    return model(nodes, {"x": (1,)}, ["y"], weights)


def test_weights_of_large_files_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(large_model().SerializeToString())
    graph = read_model(path)
    big, small, _ = graph.constants()
    assert not big.array.flags.owndata
    assert isinstance(_root(big.array), np.memmap)
    assert not isinstance(_root(small.array), np.memmap)
    (got,) = run_graph(graph, [np.float32([1])])
    np.testing.assert_array_equal(got, np.arange(300_000, dtype=np.float32) * 2 + 4)


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_truncated_large_files_are_refused(tmp_path: Path, keep: float) -> None:
    data = large_model().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match="cannot be parsed"):
        read_model(path)


def test_large_files_with_repeated_names_are_parsed_whole(tmp_path: Path) -> None:
    proto = large_model()
    proto.graph.initializer.append(proto.graph.initializer[0])
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert len(read_model(path)) == 3


def _root(array: np.ndarray) -> object:
    """Return what holds the memory of `array`: a map of a file, or something else."""
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return base
