"""Where calibrators take their batches from, and what TensorRT's interface means here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import planish
from planish.errors import ConfigError
from planish.quantize.calibrators import Calibrator
from planish.quantize.histogram import FineHistogram

BATCHES = [np.full((2, 3), i, np.float32) for i in range(4)]
ALL = [
    planish.EntropyCalibrator2,
    planish.EntropyCalibrator,
    planish.MinMaxCalibrator,
    planish.LegacyCalibrator,
    planish.MseCalibrator,
]


def seen(calibrator: Calibrator) -> list[float]:
    return [float(batch.flat[0]) for batch in calibrator.batches(["x"])]


def test_batches_come_from_any_iterable() -> None:
    assert seen(planish.MinMaxCalibrator(BATCHES)) == [0, 1, 2, 3]
    assert seen(planish.MinMaxCalibrator(iter(BATCHES))) == [0, 1, 2, 3]
    assert seen(planish.MinMaxCalibrator(np.stack(BATCHES))) == [0, 1, 2, 3]


def test_batches_come_from_a_generator_function_again_and_again() -> None:
    def generate() -> Iterator[np.ndarray[Any, Any]]:
        yield from BATCHES

    calibrator = planish.EntropyCalibrator2(generate)
    assert seen(calibrator) == seen(calibrator) == [0, 1, 2, 3]
    assert calibrator.count == 0
    assert planish.EntropyCalibrator2(BATCHES).count == 4


def test_batches_come_from_a_subclass_as_in_tensorrt() -> None:
    class Mine(planish.EntropyCalibrator2):
        def __init__(self) -> None:  # as many do, it does not call its base class
            self.left = list(BATCHES)
            self.names: list[str] = []

        def get_batch_size(self) -> int:
            return 2

        def get_batch(self, names: Sequence[str]) -> Any:
            self.names = list(names)
            return [self.left.pop(0)] if self.left else None

    calibrator = Mine()
    assert calibrator.has_data
    assert [float(batch[0].flat[0]) for batch in calibrator.batches(["x"])] == [0, 1, 2, 3]
    assert calibrator.names == ["x"]
    assert calibrator.read_calibration_cache() is None


def test_an_empty_list_ends_the_data_as_none_does() -> None:
    class Mine(planish.MinMaxCalibrator):
        def get_batch(self, names: Sequence[str]) -> Any:
            return []

    assert list(Mine().batches(["x"])) == []


def test_the_cache_file_is_read_and_written(tmp_path: Path) -> None:
    calibrator = planish.MinMaxCalibrator(cache=tmp_path / "x.cache")
    assert not calibrator.has_data
    assert calibrator.read_calibration_cache() is None
    calibrator.write_calibration_cache(b"TRT-1-A\n")
    assert calibrator.read_calibration_cache() == b"TRT-1-A\n"


@pytest.mark.parametrize("data", ["folder", b"bytes", Path("x"), 3])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match="expected batches"):
        planish.EntropyCalibrator2(data)


@pytest.mark.parametrize("options", [{"quantile": 0}, {"quantile": 1.5}, {"regression_cutoff": -1}])
def test_options_of_legacy_are_checked(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        planish.LegacyCalibrator(BATCHES, **options)


@pytest.mark.parametrize("kind", ALL)
def test_every_calibrator_chooses_a_threshold(kind: type[Calibrator]) -> None:
    fine = FineHistogram()
    fine.add(np.random.default_rng(0).standard_normal(50_000).astype(np.float32))
    calibrator = kind(BATCHES)
    threshold = calibrator.threshold(fine.finish(), fine.amax)
    assert 3 < threshold <= fine.amax * 1.001
    assert (threshold == fine.amax) == (kind is planish.MinMaxCalibrator)
    assert calibrator.algorithm.endswith(("Calibration", "Calibration2"))


def test_a_class_in_place_of_a_calibrator_is_refused() -> None:
    for wrong in (BATCHES, "entropy", planish.EntropyCalibrator2):
        with pytest.raises(ConfigError, match="expected a calibrator"):
            planish.BuildConfig(precision="int8", calibrator=wrong)  # type: ignore[arg-type]
