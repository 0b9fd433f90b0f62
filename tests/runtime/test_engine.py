from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.errors import CompatibilityError, EngineFileError, InputError
from planish.runtime import native
from planish.runtime.engine import Engine, load
from planish.runtime.finite import NonFiniteWarning
from planish.runtime.native import NativeObject
from tests.runtime.engines import row_sums, row_sums_expected


def batch(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((rows, 48)).astype(np.float32)


@pytest.fixture
def engine() -> Engine:
    return Engine(row_sums())


def test_run_and_call_agree(engine: Engine):
    x = batch(5)
    named = engine.run({"x": x})
    assert list(named) == ["y"]
    np.testing.assert_array_equal(named["y"], engine(x))
    np.testing.assert_allclose(engine(x), row_sums_expected(x), rtol=1e-5, atol=1e-3)


def test_describes_itself(engine: Engine):
    assert [(info.name, info.dtype, str(info.shape)) for info in engine.inputs] == [
        ("x", "f32", "(N, 48)")
    ]
    assert engine.outputs[0].name == "y"
    assert engine.ranges == {"N": (1, 4, 512)}
    assert engine.memory.arena > 0
    assert "k_0_scale" in engine.source
    assert engine.report.layers == ()


def test_outputs_are_fresh_each_time(engine: Engine):
    first = engine(batch(3))
    kept = first.copy()
    engine(batch(3, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_writes_into_given_outputs(engine: Engine):
    x, y = batch(3), np.zeros(3, np.float32)
    assert engine.run({"x": x}, {"y": y})["y"] is y
    np.testing.assert_allclose(y, row_sums_expected(x), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"z": np.zeros(3, np.float32)}, "unknown output: z"),
        ({"y": np.zeros(4, np.float32)}, "expected a writable"),
        ({"y": np.zeros(3, np.float64)}, "float64"),
        ({"y": np.zeros(6, np.float32)[::2]}, "C-contiguous"),
        ({"y": np.frombuffer(bytes(12), np.float32)}, "writable"),
    ],
)
def test_wrong_outputs_are_refused(engine: Engine, outputs: Any, message: str):
    with pytest.raises(InputError, match=message):
        engine.run({"x": batch(3)}, outputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing: x"),
        ({"X": batch(1)}, "missing: x; unknown: X"),
        ({"x": batch(1), "y": batch(1)}, "unknown: y"),
        ({"x": batch(1).astype(np.float64)}, r'array.astype\("float32"\)'),
        ({"x": batch(1).astype(">f4")}, "expected float32"),
        ({"x": [[1, 2]]}, "int64"),
        ({"x": batch(513)}, "N from 1 to 512"),
        ({"x": batch(0)}, "N in 1..512"),
        ({"x": batch(1)[0]}, "rank 2"),
        ({"x": batch(4)[:, :47]}, "48 on axis 1"),
    ],
)
def test_wrong_inputs_are_refused(engine: Engine, inputs: Any, message: str):
    with pytest.raises(InputError, match=message):
        engine.run(inputs)


def test_wrong_number_of_arrays(engine: Engine):
    with pytest.raises(InputError, match="got 2 array"):
        engine(batch(1), batch(1))


def test_arrays_in_other_orders_are_copied(engine: Engine):
    x = batch(6)
    expected = engine(x)
    padded = np.zeros((6, 96), np.float32)
    padded[:, ::2] = x
    unaligned = np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (np.asfortranarray(x), padded[:, ::2], unaligned):
        np.testing.assert_array_equal(engine(same), expected)


def test_takes_dlpack(engine: Engine):
    class Tensor:
        """What torch and jax arrays look like to numpy."""

        def __init__(self, array: np.ndarray[Any, Any]) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    x = batch(4)
    np.testing.assert_array_equal(engine(Tensor(x)), engine(x))


def test_a_tensor_that_cannot_be_shared_is_refused(engine: Engine):
    class Tensor:
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("Can't export tensors that require gradient")

        def __dlpack_device__(self) -> Any:
            return (1, 0)

    with pytest.raises(InputError, match="require gradient"):
        engine(Tensor())


def test_accepts_tells_what_can_be_run(engine: Engine):
    assert engine.accepts([(1, 48)])
    assert engine.accepts([(512, 48)])
    for shapes in ([(0, 48)], [(513, 48)], [(4, 47)], [(4, 48, 1)], [], [(4, 48), (4, 48)]):
        assert not engine.accepts(shapes)


def test_execute_asks_for_memory_and_writes_into_it(engine: Engine):
    x, y = batch(3), np.zeros(3, np.float32)
    asked = []

    def allocate(index: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        asked.append((index, shape))
        return y

    (result,) = engine.execute([x], allocate)
    assert result is y
    assert asked == [(0, (3,))]
    np.testing.assert_allclose(y, row_sums_expected(x), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(engine.execute([x])[0], y)


@pytest.mark.parametrize(
    "memory",
    [np.zeros(3, np.float64), np.zeros(4, np.float32), np.zeros(6, np.float32)[::2]],
    ids=["dtype", "shape", "strides"],
)
def test_execute_refuses_wrong_memory(engine: Engine, memory: np.ndarray[Any, Any]):
    with pytest.raises(InputError, match="the array for output 'y'"):
        engine.execute([batch(3)], lambda index, shape: memory)


def test_execute_refuses_a_wrong_number_of_arrays(engine: Engine):
    with pytest.raises(InputError, match=r"got 2 array\(s\), expected 1"):
        engine.execute([batch(3), batch(3)])


def test_bytes_load_like_the_file(engine: Engine, tmp_path: Path):
    engine.save(tmp_path / "e.plan")
    data = engine.to_bytes()
    assert data == (tmp_path / "e.plan").read_bytes()
    x = batch(3)
    for source in (data, memoryview(data), memoryview(b"in front" + data)[8:]):
        np.testing.assert_array_equal(load(source)(x), engine(x))


def test_damaged_bytes_are_refused(engine: Engine):
    data = bytearray(engine.to_bytes())
    data[len(data) // 2] ^= 1
    with pytest.raises(EngineFileError, match="damaged"):
        load(bytes(data))
    with pytest.raises(EngineFileError, match="cut off, or no engine"):
        load(b"nothing")


def test_own_context(engine: Engine):
    context = engine.create_context()
    for rows in (2, 9, 2):
        x = batch(rows)
        y = engine.run({"x": x}, context=context)["y"]
        np.testing.assert_allclose(y, row_sums_expected(x), rtol=1e-5, atol=1e-3)


def test_profile(engine: Engine):
    profile = engine.profile(runs=3)
    assert [region.name for region in profile.regions] == ["scale", "total"]
    assert profile.runs == 3
    assert profile.total > 0
    events = json.loads(profile.to_chrome_trace())["traceEvents"]
    assert [event["args"]["layers"] for event in events] == ["layer.scale", "layer.total"]
    assert "layer.total" in profile.to_text(limit=2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_threads_at_once(threads: int):
    engines = [Engine(row_sums(threads)), Engine(row_sums(2))]
    failures: list[str] = []
    until = time.monotonic() + 1.0

    def work(seed: int) -> None:
        rows = 1 + seed * 83 % 512
        x = batch(rows, seed)
        expected = row_sums_expected(x)
        while time.monotonic() < until:
            y = engines[seed % 2](x)
            if not np.allclose(y, expected, rtol=1e-4, atol=1e-2):
                failures.append(f"seed {seed}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert not any(worker.is_alive() for worker in workers)
    assert failures == []


def _child(engine: Engine, x: Any, expected: Any, results: Any) -> None:
    for _ in range(50):
        if not np.array_equal(engine(x), expected):
            results.put("wrong")
            return
    results.put("right")


def test_after_fork_child_and_parent_go_on():
    engine = Engine(row_sums(2))
    x = batch(512)
    expected = engine(x)
    forking = multiprocessing.get_context("fork")
    results = forking.Queue()
    children = [
        forking.Process(target=_child, args=(engine, x, expected, results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    for _ in range(50):
        np.testing.assert_array_equal(engine(x), expected)
    assert [results.get(timeout=30) for _ in children] == ["right", "right"]
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0


def test_fork_while_other_threads_run():
    engine = Engine(row_sums(2))
    x = batch(512)
    expected = engine(x)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            engine(x)

    background = threading.Thread(target=busy)
    background.start()
    try:
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if np.array_equal(engine(x), expected) else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        background.join()


def test_workers_sleep_when_idle():
    engine = Engine(row_sums(2))
    x = batch(512)
    for _ in range(20):
        engine(x)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1


def test_threads_can_be_overridden():
    assert Engine(row_sums(2), threads=1).threads == 1
    with pytest.raises(InputError, match="at least 1"):
        Engine(row_sums(2), threads=0)


def test_many_objects_can_be_loaded_and_unloaded():
    code = row_sums().kernels.code
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        loaded = NativeObject(code)
        assert loaded.steps == 2
        loaded.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_code_that_is_no_object_is_refused():
    with pytest.raises(CompatibilityError, match="cannot load"):
        NativeObject(b"no code")


def test_another_driver_version_is_refused(monkeypatch):
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    with pytest.raises(CompatibilityError, match="driver version"):
        NativeObject(row_sums().kernels.code)


def test_not_finite_results_of_float16_are_told_once() -> None:
    parts = replace(row_sums(), report={"layers": [{"name": "sum", "precision": "f16"}]})
    half, x = Engine(parts), batch(2)
    half(x)
    x[1, 3] = np.inf
    with pytest.warns(NonFiniteWarning, match="output 'y' holds NaN or infinity") as caught:
        half(x)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        half.run({"x": x})
        Engine(row_sums())(x)
