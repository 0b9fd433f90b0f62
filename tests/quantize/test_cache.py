"""The calibration cache: TensorRT's text format, read and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.errors import ConfigError
from planish.quantize.cache import CalibrationCache, format_cache
from planish.quantize.files import write_bytes
from planish.quantize.scheme import Ranges, TensorRange

# what the README of NVIDIA's sampleINT8 prints
MNIST = """TRT-7000-EntropyCalibration2
data: 3c008912
conv1: 3c88edfc
pool1: 3c88edfc
conv2: 3ddc858b
pool2: 3ddc858b
ip1: 3db6bd6e
ip2: 3e691968
prob: 3c010a14
"""


def test_a_cache_of_tensorrt_is_read() -> None:
    cache = CalibrationCache.parse(MNIST)
    assert cache.algorithm == "EntropyCalibration2"
    assert list(cache.scales)[:2] == ["data", "conv1"]
    assert cache.scales["data"] * 127 == pytest.approx(2040.5 / 2048, rel=1e-7)
    assert cache.scales["prob"] * 127 == pytest.approx(2048.5 / 2048, rel=1e-7)


def test_what_is_written_is_read_back() -> None:
    tensors = {"a: b": TensorRange(1.27), "/x/Relu_output_0": TensorRange(1e-20)}
    text = format_cache(Ranges(tensors, "MinMaxCalibration", 3)).decode()
    assert text.splitlines()[0].startswith("TRT-")
    assert text.splitlines()[0].endswith("-MinMaxCalibration")
    assert "a: b: 3c23d70a" in text  # 0.01
    cache = CalibrationCache.parse(text)
    assert cache.algorithm == "MinMaxCalibration"
    for name, entry in tensors.items():
        assert cache.scales[name] == pytest.approx(entry.scale, rel=1e-7)


def test_a_partial_calibration_is_marked_so_that_tensorrt_reads_it_too() -> None:
    ranges = Ranges({"a": TensorRange(1.27)}, "MinMaxCalibration", 7, partial=True)
    text = format_cache(ranges).decode()
    assert all(len(line.rpartition(": ")[2]) == 8 for line in text.splitlines()[1:])
    cache = CalibrationCache.parse(text)
    assert list(cache.scales) == ["a"]
    assert cache.partial_batches == 7
    again = cache.ranges(["a"])
    assert again.partial
    assert any("partial" in note and "after 7 batches" in note for note in again.notes)
    assert not CalibrationCache.parse(MNIST).ranges(["data"]).partial


def test_unmatched_names_are_listed() -> None:
    ranges = CalibrationCache.parse(MNIST).ranges(["data", "conv1", "missing"])
    assert list(ranges) == ["data", "conv1"]
    assert any("missing" in note for note in ranges.notes)
    assert any("pool1, conv2" in note for note in ranges.notes)


def test_a_cache_for_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="another model"):
        CalibrationCache.parse(MNIST).ranges(["x", "y"])


@pytest.mark.parametrize(
    "text",
    [
        b"", b"hello", b"\xff\xfe\x00", b"TRT-1-A\nx 3c008912", b"TRT-1-A\nx: 3c0089",
        b"TRT-1-A\nx: zzzzzzzz", b"TRT-1-A\nx: 7fc00000", b"TRT-1-A\nx: bc008912",
    ],
)  # fmt: skip
def test_what_is_no_cache_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigError, match="no calibration cache"):
        CalibrationCache.parse(text, "file.cache")


def test_scales_of_zero_are_left_out() -> None:
    assert dict(CalibrationCache.parse("TRT-1-A\nx: 00000000\n\n").scales) == {}


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.cache"
    write_bytes(path, b"1", "cache")
    write_bytes(path, b"2", "cache")
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot write the cache"):
        write_bytes(tmp_path / "absent" / "x", b"", "cache")
