"""Engines on a GPU that is made of host memory: results, arrays, streams, memory, errors."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import planish
from planish.errors import CompatibilityError, DeviceError, InputError
from planish.runtime.cuda import binding
from planish.runtime.cuda.arrays import DeviceArray
from planish.runtime.cuda.driver import Stream, copy_on_device
from planish.runtime.engine import Engine
from tests.runtime.cuda.fake import WIDTH, fake_gpu, row_sums, row_sums_expected

Array = np.ndarray[Any, Any]


@pytest.fixture
def gpu() -> Iterator[ctypes.CDLL]:
    with fake_gpu() as library:
        yield library


@pytest.fixture
def engine(gpu: ctypes.CDLL) -> Engine:
    return Engine(row_sums())


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)


def close(got: Any, x: Array) -> bool:
    array = got.numpy() if isinstance(got, DeviceArray) else got
    return bool(np.allclose(array, row_sums_expected(x), rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("counts", [(4, 4, 4), (1, 512, 7, 4, 512)])
def test_arrays_on_the_host(engine: Engine, counts: tuple[int, ...]) -> None:
    for seed, count in enumerate(counts):
        x = rows(count, seed)
        assert close(engine(x), x)


def test_arrays_on_the_device_stay_there(engine: Engine, gpu: ctypes.CDLL) -> None:
    for seed in range(3):
        x = rows(5, seed)
        result = engine.run({"x": DeviceArray.of(x)})["y"]
        assert isinstance(result, DeviceArray)
        assert (result.shape, result.dtype) == ((5,), np.float32)
        assert close(result, x)


def test_kernels_read_and_write_the_callers_memory(engine: Engine, gpu: ctypes.CDLL) -> None:
    x = rows(4)
    given, output = DeviceArray.of(x), DeviceArray.of(np.zeros(4, np.float32))
    assert engine.run({"x": given}, {"y": output})["y"] is output
    assert close(output, x)
    launches = gpu.fake_calls()
    engine.run({"x": given}, {"y": output})
    assert gpu.fake_calls() - launches <= 2  # one launch, one wait; nothing is copied or changed


def test_addresses_that_kernels_cannot_rely_on_are_copied(engine: Engine) -> None:
    x = rows(4)
    block = DeviceArray.of(np.concatenate([np.zeros(1, np.float32), x.reshape(-1)]))
    shifted = DeviceArray(block.address + 4, (4, WIDTH), np.dtype(np.float32), block)
    room = DeviceArray.of(np.zeros(5, np.float32))
    output = DeviceArray(room.address + 4, (4,), np.dtype(np.float32), room)
    engine.run({"x": shifted}, {"y": output})
    assert close(output, x)


def test_mixed_arrays(engine: Engine) -> None:
    x = rows(6)
    output = np.empty(6, np.float32)
    engine.run({"x": DeviceArray.of(x)}, {"y": output})
    assert close(output, x)
    target = DeviceArray.of(np.zeros(6, np.float32))
    engine.run({"x": x}, {"y": target})
    assert close(target, x)


class Exported:
    """An array of another library that speaks DLPack only."""

    def __init__(self, array: DeviceArray) -> None:
        self.array, self.streams = array, []  # type: ignore[var-annotated]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, stream: int | None = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__(stream=stream, max_version=max_version)


class Interface:
    """An array of another library that has the CUDA array interface only."""

    def __init__(self, array: DeviceArray, **changes: Any) -> None:
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}
        self.array = array


def test_dlpack_is_taken_without_a_copy(engine: Engine) -> None:
    x = rows(4)
    given = Exported(DeviceArray.of(x))
    assert close(engine.run({"x": given})["y"], x)
    assert given.streams == [1]  # the default stream, which the engine's streams wait for


def test_the_cuda_array_interface_is_taken_without_a_copy(engine: Engine) -> None:
    x = rows(4)
    other = Stream()
    for stream in (None, 1, other.handle):
        assert close(engine.run({"x": Interface(DeviceArray.of(x), stream=stream)})["y"], x)


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "int64", "bool"])
def test_dlpack_keeps_types_and_memory(gpu: ctypes.CDLL, name: str, versioned: bool) -> None:
    import ml_dtypes

    from planish.runtime.cuda import arrays

    dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    array = DeviceArray.of(np.ones((2, 3), dtype))
    capsule = array.__dlpack__(max_version=(1, 0) if versioned else None)
    back = arrays._from_capsule(capsule, "x")
    assert (back.address, back.shape, back.dtype) == (array.address, (2, 3), dtype)
    gc.collect()
    before = gpu.fake_live()
    del array, back
    gc.collect()
    assert gpu.fake_live() == before  # the capsule keeps the memory
    del capsule
    gc.collect()
    assert gpu.fake_live() == before - 1


def test_what_cannot_be_taken_is_refused(engine: Engine) -> None:
    array = DeviceArray.of(rows(4))
    with pytest.raises(InputError, match="not C-contiguous"):
        engine.run({"x": Interface(array, shape=(48, 4), strides=(4, 192))})
    with pytest.raises(InputError, match=r"float16, expected float32"):
        engine.run({"x": Interface(array, typestr="<f2")})
    with pytest.raises(InputError, match="mask"):
        engine.run({"x": Interface(array, mask=array)})
    with pytest.raises(InputError, match="not one of a GPU"):
        engine.run({"x": Interface(array, data=(64, False))})
    assert close(engine(rows(4)), rows(4))


def test_asynchronous_on_the_host(engine: Engine) -> None:
    given = [rows(4, seed) for seed in range(20)]
    pending = [engine.run_async({"x": x}) for x in given]
    for one, x in zip(pending, given, strict=True):
        assert close(one.result()["y"], x)
        assert one.done()


def test_asynchronous_on_the_device(engine: Engine) -> None:
    class Handle:
        def __init__(self, stream: Stream) -> None:
            self._stream = stream

        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, self._stream.handle

    class Torch:
        def __init__(self, stream: Stream) -> None:
            self.cuda_stream = stream.handle

    streams = [Stream() for _ in range(3)]
    given = [rows(4, seed) for seed in range(30)]
    spellings = (lambda s: s.handle, Handle, Torch, lambda s: None, lambda s: 0)
    pending = [
        engine.run_async({"x": DeviceArray.of(x)}, stream=spellings[i % 5](streams[i % 3]))
        for i, x in enumerate(given)
    ]
    for one, x in zip(pending, given, strict=True):
        assert close(one.arrays["y"], x)
        assert close(one.result()["y"], x)
    with pytest.raises(InputError, match="no CUDA stream"):
        engine.run_async({"x": given[0]}, stream="0")


def test_results_are_waited_for_by_other_streams(engine: Engine) -> None:
    x = rows(4)
    producer, consumer = Stream(), Stream()
    result = engine.run_async({"x": DeviceArray.of(x)}, stream=producer).arrays["y"]
    assert result.__cuda_array_interface__["stream"] == producer.handle
    result.__dlpack__(stream=consumer.handle)
    consumer.synchronize()
    host = np.empty(4, np.float32)
    ctypes.memmove(host.ctypes.data, result.address, host.nbytes)  # the fake's memory
    assert close(host, x)


def test_await(engine: Engine) -> None:
    async def main() -> list[Any]:
        async def one(x: Array) -> Any:
            return (await engine.run_async({"x": x}))["y"]

        return await asyncio.gather(*(one(rows(4, seed)) for seed in range(4)))

    for seed, got in enumerate(asyncio.run(main())):
        assert close(got, rows(4, seed))


def test_many_threads_share_an_engine(engine: Engine) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for seed in range(25):
                x = rows(1 + (number + seed) % 9, seed)
                got = engine(x if number % 2 else DeviceArray.of(x))
                if not close(got, x):
                    wrong.append((number, seed))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_never_used_the_gpu(engine: Engine) -> None:
    x, other = rows(4), Stream()
    given, wrong = DeviceArray.of(x), []

    def work() -> None:
        try:
            for _ in range(3):
                assert close(engine.run({"x": given})["y"], x)
                assert close(engine.run_async({"x": given}, stream=other).result()["y"], x)
        except Exception as error:
            wrong.append(error)

    for _ in range(3):
        engine.run_async({"x": given}, stream=other)  # its result waits in the pool, unfinished
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not wrong


class Tensor:
    """What of a tensor of PyTorch is read."""

    __module__ = "torch"
    layout, requires_grad = "strided", False

    def __init__(self, array: DeviceArray) -> None:
        self.array, self.shape = array, list(array.shape)
        self.dtype, self.device = f"torch.{array.dtype.name}", SimpleNamespace(type="cuda", index=0)

    def is_contiguous(self) -> bool:
        return True

    def data_ptr(self) -> int:
        return self.array.address


@pytest.mark.parametrize("on_default_stream", [False, True])
def test_tensors_of_pytorch_are_read_directly(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, on_default_stream: bool
) -> None:
    other = Stream()
    current = SimpleNamespace(cuda_stream=0 if on_default_stream else other.handle)
    library = SimpleNamespace(
        strided="strided", cuda=SimpleNamespace(current_stream=lambda: current)
    )
    monkeypatch.setitem(sys.modules, "torch", library)
    for seed in range(3):
        x = rows(4, seed)
        target = DeviceArray.of(np.zeros((4, WIDTH), np.float32))
        source = DeviceArray.of(x)
        copy_on_device(target.address, source.address, source.nbytes, current.cuda_stream)
        assert close(engine.run({"x": Tensor(target)})["y"], x)  # waits for the copy


def test_everything_is_given_back(gpu: ctypes.CDLL) -> None:
    x = rows(4)
    data = Engine(row_sums()).to_bytes()
    gc.collect()
    before = (gpu.fake_live(), gpu.fake_used())
    for _ in range(20):
        loaded = planish.load(data)
        loaded(x)
        loaded.run_async({"x": x}).result()
        loaded.run_async({"x": DeviceArray.of(x)})
        del loaded
        assert (gpu.fake_live(), gpu.fake_used()) == before  # without the garbage collector


def test_the_arena_grows_with_the_shapes(engine: Engine, gpu: ctypes.CDLL) -> None:
    engine(rows(1))
    small = gpu.fake_used()
    engine(rows(512))
    large = gpu.fake_used()
    assert large - small > 512 * WIDTH * 4
    engine(rows(3))
    assert gpu.fake_used() == large
    assert close(engine(rows(512)), rows(512))


def test_too_little_memory_says_how_much_is_needed(engine: Engine, gpu: ctypes.CDLL) -> None:
    engine(rows(1))
    gpu.fake_limit(gpu.fake_used() + 1000)
    with pytest.raises(DeviceError, match=r"needs 0\.\d MiB .* are free"):
        engine(rows(512))
    gpu.fake_limit(1 << 34)
    assert close(engine(rows(512)), rows(512))


def test_an_engine_stays_usable_after_an_error(engine: Engine, gpu: ctypes.CDLL) -> None:
    x = rows(4)
    engine(x)
    gpu.fake_fail_launch(1)
    with pytest.raises(DeviceError, match=r"\(1\)"):
        engine(x)
    assert close(engine(x), x)
    gpu.fake_fail_launch(700)
    with pytest.raises(DeviceError, match="start the process again"):
        engine(x)


def test_an_engine_for_another_architecture_is_refused(gpu: ctypes.CDLL) -> None:
    data = Engine(row_sums(arch=80)).to_bytes()
    with pytest.raises(CompatibilityError, match=r"sm_80.*is sm_90(.|\n)*target='sm_90'"):
        planish.load(data)
    gpu.fake_arch(86)
    from planish.runtime.cuda import driver

    driver.device.cache_clear()
    assert close(planish.load(data)(rows(2)), rows(2))  # code of sm_80 runs on all of 8.x


def test_without_a_gpu_an_engine_is_made_saved_and_looked_at() -> None:
    made = Engine(row_sums())
    data = made.to_bytes()
    assert made.inputs[0].name == "x"
    for action in (lambda: planish.load(data), lambda: made(rows(4)), made.prepare):
        if binding_is_missing():
            with pytest.raises(CompatibilityError, match="no NVIDIA driver"):
                action()


def test_a_driver_that_shows_no_gpu_says_so(gpu: ctypes.CDLL) -> None:
    gpu.fake_absent(1)
    with pytest.raises(CompatibilityError, match="shows no GPU"):
        planish.load(Engine(row_sums()).to_bytes())


def test_profile(engine: Engine) -> None:
    profile = engine.profile(runs=3)
    assert [region.name for region in profile.regions] == ["scale", "total"]


def binding_is_missing() -> bool:
    try:
        ctypes.CDLL(binding.LIBRARY)
    except OSError:
        return True
    return False
