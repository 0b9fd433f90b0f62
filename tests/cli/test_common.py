from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest

from planish.cli.common import (
    emit,
    is_engine,
    parse_profiles,
    percentiles,
    random_inputs,
    read_inputs,
    table,
    writing,
)
from planish.config import Profile
from planish.errors import ConfigError, InputError
from planish.ir.shape import symbol
from planish.plan.plan import TensorInfo
from planish.runtime.engine import Engine


@dataclass(frozen=True)
class Signature:
    """As much of an engine as these functions look at."""

    inputs: tuple[TensorInfo, ...]
    ranges: dict[str, tuple[int, int, int]]


def engine(**dtypes: str) -> Engine:
    infos = tuple(TensorInfo(name, dtype, (symbol("n"), 3)) for name, dtype in dtypes.items())
    return cast(Engine, Signature(infos, {"n": (1, 4, 8)}))


def test_profiles() -> None:
    assert parse_profiles(["x:0=1x3:2x3:4x3", "a=b=7", "s="]) == {
        "x:0": Profile((1, 3), (2, 3), (4, 3)),
        "a=b": Profile((7,), (7,), (7,)),
        "s": Profile((), (), ()),
    }
    assert parse_profiles(None) == {}


@pytest.mark.parametrize(
    "texts",
    [["x"], ["=1x2"], ["x=1:2"], ["x=1xN"], ["x=-1"], ["x=1x"], ["x=2", "x=3"], ["x=3:2:1"]],
)
def test_wrong_profiles(texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_profiles(texts)
    assert caught.value.fix


def test_random_inputs_have_the_shapes_to_tune_for() -> None:
    signature = engine(x="f32", h="bf16", i="i64", b="bool")
    arrays = random_inputs(signature, seed=3)
    assert {name: (a.dtype.name, a.shape) for name, a in arrays.items()} == {
        "x": ("float32", (4, 3)),
        "h": ("bfloat16", (4, 3)),
        "i": ("int64", (4, 3)),
        "b": ("bool", (4, 3)),
    }
    again = random_inputs(signature, seed=3)
    assert all((arrays[name] == again[name]).all() for name in arrays)
    assert (random_inputs(signature, seed=4)["x"] != arrays["x"]).any()
    assert random_inputs(signature, sizes={"n": 2})["x"].shape == (2, 3)


def test_strings_are_not_made_up() -> None:
    with pytest.raises(InputError, match="--input s="):
        random_inputs(engine(s="string"))


def test_inputs_from_files(tmp_path: Path) -> None:
    x, y = np.ones((4, 3), np.float32), np.arange(12).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    np.savez(tmp_path / "recorded.npz", **{"in:x": x, "in:y": y, "out:z": y})
    signature = engine(x="f32", y="i64")
    ways = (
        [f"x={tmp_path / 'x.npy'}", f"y={tmp_path / 'y.npy'}"],
        [str(tmp_path / "both.npz")],
        [str(tmp_path / "recorded.npz")],
    )
    for texts in ways:
        arrays = read_inputs(signature, texts)
        assert sorted(arrays) == ["x", "y"]
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["y"], y)
    assert list(read_inputs(engine(x="f32"), [str(tmp_path / "x.npy")])) == ["x"]
    with pytest.raises(InputError, match="2 inputs"):
        read_inputs(signature, [str(tmp_path / "x.npy")])


def test_float32_files_serve_bfloat16_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((4, 3), 1.5, np.float32))
    arrays = read_inputs(engine(x="bf16"), [str(tmp_path / "x.npy")])
    assert arrays["x"].dtype == ml_dtypes.bfloat16
    assert (arrays["x"] == 1.5).all()


def test_engines_are_told_by_their_contents(tmp_path: Path, digits_plan: Path) -> None:
    (tmp_path / "engine.bin").write_bytes(digits_plan.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    assert is_engine(tmp_path / "engine.bin")
    assert is_engine(tmp_path / "missing.plan")
    assert not is_engine(tmp_path / "model.onnx")
    assert not is_engine(tmp_path / "missing.onnx")


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": None}}, True, "")
    printed = capsys.readouterr().out
    assert "".join(printed.split()) == '{"a":[null,[null,1.5]],"b":{"c":null}}'


def test_tables_align() -> None:
    rows = [("name", "ms"), ("a long name", "1.5"), ("b", "10.25")]
    assert table(rows, numbers=1) == [
        "name            ms",
        "a long name    1.5",
        "b            10.25",
    ]
    assert table([]) == []


def test_percentiles() -> None:
    found = percentiles([i / 1000 for i in range(1, 101)])
    assert found == {
        "runs": 100, "min_ms": 1.0, "median_ms": 50.5, "p90_ms": 90.1, "p95_ms": 95.05,
        "p99_ms": 99.01, "max_ms": 100.0, "mean_ms": 50.5, "per_second": 19.8,
    }  # fmt: skip


def break_off(path: Path) -> None:
    with writing(path, "report") as file:
        file.write("new")
        raise ZeroDivisionError


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    with writing(path, "report") as file:
        file.write("old")
    with pytest.raises(ZeroDivisionError):
        break_off(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.txt"]
    missing: Any = tmp_path / "missing" / "report.txt"
    with pytest.raises(ConfigError, match="cannot write the report"), writing(missing, "report"):
        pass
