"""Engines on a real GPU (marker gpu): results, arrays of PyTorch, streams, memory, fallbacks."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import planish
from planish.errors import InputError
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.cuda.driver import device
from planish.runtime.engine import Engine
from tests import small_models

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.gpu
OPTIONS: dict[str, Any] = {"device": "cuda", "tune": "off"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "model.onnx"
    onnx.save(small_models.convolutions(), path)
    return path


@pytest.fixture(scope="module")
def plan(model: Path) -> Path:
    path = model.with_suffix(".plan")
    planish.build(model, planish.BuildConfig(**OPTIONS)).save(path)
    return path


@pytest.fixture
def engine(plan: Path) -> Engine:
    return planish.load(plan)


@pytest.fixture(scope="module")
def reference(model: Path) -> Engine:
    return planish.build(model, planish.BuildConfig(tune="off", threads=1))


def given(engine: Engine, batch: int, seed: int = 0) -> Array:
    shape = [dim if isinstance(dim, int) else batch for dim in engine.inputs[0].shape]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(got: Any, x: Array, reference: Engine) -> None:
    array = got.numpy() if isinstance(got, DeviceArray) else np.asarray(got)
    expected = np.asarray(reference(x))
    assert np.abs(array - expected).max() <= 2e-3 * np.abs(expected).max()


def only(results: dict[str, Any]) -> Any:
    return next(iter(results.values()))


def test_shapes_and_places(engine: Engine, reference: Engine) -> None:
    for batch in (1, 4, 32, 3, 4):
        x = given(engine, batch, batch)
        check(engine(x), x, reference)
        check(engine(DeviceArray.of(x)), x, reference)
        check(engine(DeviceArray.of(x)), x, reference)  # another address


def test_tensors_of_pytorch(engine: Engine, reference: Engine) -> None:
    torch = pytest.importorskip("torch")
    name, output = engine.inputs[0].name, engine.outputs[0].name
    x = given(engine, 4)
    tensor = torch.from_numpy(x).cuda()
    result = only(engine.run({name: tensor}))
    check(torch.from_dlpack(result).cpu().numpy(), x, reference)
    check(torch.as_tensor(result, device="cuda").cpu().numpy(), x, reference)
    target = torch.empty(result.shape, device="cuda")
    assert engine.run({name: tensor}, {output: target})[output] is target
    check(target.cpu().numpy(), x, reference)
    with pytest.raises(InputError, match="not C-contiguous"):
        engine.run({name: tensor.transpose(-1, -2)})
    shifted = torch.empty(x.size + 1, device="cuda")[1:].view(x.shape)
    shifted.copy_(tensor)
    check(only(engine.run({name: shifted})), x, reference)


def test_streams_of_pytorch(engine: Engine, reference: Engine) -> None:
    torch = pytest.importorskip("torch")
    name, output = engine.inputs[0].name, engine.outputs[0].name
    x = given(engine, 4)
    tensor, side = torch.from_numpy(x).cuda(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    expected = only(engine.run({name: tensor})).numpy()
    for stream in (side, torch.cuda.default_stream()):
        for _ in range(10):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(1_000_000)
                late = tensor * 1.0
                np.testing.assert_array_equal(only(engine.run({name: late})).numpy(), expected)
                torch.cuda._sleep(1_000_000)
                late = tensor * 1.0
                pending = engine.run_async({name: late}, stream=stream)
                doubled = torch.from_dlpack(pending.arrays[output]) * 2
            stream.synchronize()
            np.testing.assert_array_equal(doubled.cpu().numpy(), expected * 2)


def test_types_through_dlpack(engine: Engine) -> None:
    torch = pytest.importorskip("torch")
    from planish.runtime.cuda import arrays

    names = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int64", "bool", "uint8")
    for dtype in (getattr(torch, name) for name in names):
        tensor = torch.ones(3, 5, device="cuda").to(dtype)
        taken = arrays.take(tensor, "x")
        assert taken is not None
        back = torch.from_dlpack(taken)
        assert (back.dtype, back.data_ptr()) == (dtype, tensor.data_ptr())


def test_threads(engine: Engine, reference: Engine) -> None:
    inputs = [given(engine, 1 + seed % 3, seed) for seed in range(6)]
    wrong: list[object] = []
    stop = time.monotonic() + 5

    def work(number: int) -> None:
        try:
            while time.monotonic() < stop:
                for x in inputs:
                    check(engine(x if number % 2 else DeviceArray.of(x)), x, reference)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_device_memory_is_given_back(plan: Path) -> None:
    def once() -> None:
        loaded = planish.load(plan)
        x = given(loaded, 2)
        loaded(x)
        loaded(DeviceArray.of(x))

    once()
    gc.collect()
    before = device().free_bytes()
    for _ in range(50):
        once()
    gc.collect()
    assert before - device().free_bytes() < 64 << 20  # others may use the GPU at the same time


def test_a_step_on_the_host_between_kernels(tmp_path: Path) -> None:
    """Det has no kernel anywhere: numpy runs it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Det", ["e"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    opset = [helper.make_opsetid("", 20)]
    proto = helper.make_model(helper.make_graph(nodes, "det", [x], [y]), opset_imports=opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = planish.build(proto, planish.BuildConfig(**OPTIONS))
    kinds = {layer.tactic for layer in engine.report.layers}
    assert "reference" in kinds
    assert len(kinds) > 1
    for batch in (1, 5):
        array = np.random.default_rng(batch).standard_normal((batch, 3, 3)).astype(np.float32)
        expected = np.tanh(np.linalg.det(np.exp(array)))
        np.testing.assert_allclose(np.asarray(engine(array)), expected, rtol=2e-3, atol=2e-3)
        got = engine(DeviceArray.of(array))
        assert isinstance(got, DeviceArray)
        np.testing.assert_allclose(got.numpy(), expected, rtol=2e-3, atol=2e-3)
