"""Bad input ends in an error that says what, where and how to fix it, and leaves nothing behind."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

import planish
from planish.cli.main import app
from planish.config import BuildConfig, Profile
from planish.errors import (
    CompatibilityError,
    ConfigError,
    EngineFileError,
    InputError,
    ModelError,
    PlanishError,
    ShapeError,
    TacticError,
    UnsupportedOperatorError,
)
from planish.runtime.engine import Engine
from planish.tactics.timing_cache import FORMAT
from tests import small_models
from tests.conftest import DIGITS

OFF = BuildConfig(tune="off", threads=1)


def digits() -> onnx.ModelProto:
    return onnx.load(DIGITS)


def build_by_command(model: Path, *options: str) -> tuple[int, str, list[str]]:
    """Run `planish build` and return exit code, messages, and what is in the output's folder."""
    folder = model.parent / "out"
    folder.mkdir(exist_ok=True)
    result = CliRunner().invoke(
        app, ["build", str(model), "--tune", "off", "-o", str(folder / "x.plan"), *options]
    )
    return result.exit_code, result.stderr, sorted(path.name for path in folder.iterdir())


def assert_refused(model: Path, *texts: str) -> None:
    """The command fails with exit code 2, a message of three parts, and writes nothing."""
    code, message, left = build_by_command(model)
    assert (code, left) == (2, [])
    for text in ("error: ", "where:", "fix:", *texts):
        assert text in message, message


# -- models --------------------------------------------------------------------------------------


def test_missing_model(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.onnx", "does not exist", "none.onnx")


def test_folder_as_model(tmp_path: Path) -> None:
    assert_refused(tmp_path, "a folder is not a model")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.999])
def test_truncated_model(tmp_path: Path, share: float) -> None:
    data = DIGITS.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: int(share * len(data))])
    assert_refused(tmp_path / "cut.onnx", "cut.onnx")


def test_any_cut_of_a_model_is_refused() -> None:
    data = small_models.convolutions().SerializeToString()
    generator = random.Random(0)
    for cut in [0, 1, 2, *(generator.randrange(len(data)) for _ in range(60))]:
        with pytest.raises(PlanishError):
            planish.build(data[:cut], OFF)


def test_text_as_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("<html>404 Not Found</html>")
    assert_refused(tmp_path / "model.onnx", "ModelError")


def test_engine_as_model(tmp_path: Path, digits_plan: Path) -> None:
    code, message, left = build_by_command(digits_plan)
    assert (code, left) == (2, [])
    assert "is an engine already" in message


@pytest.mark.parametrize("value", [np.nan, -np.nan])
def test_nan_weights(tmp_path: Path, value: float) -> None:
    proto = small_models.convolutions()
    array = onnx.numpy_helper.to_array(proto.graph.initializer[2]).copy()
    array.reshape(-1)[5] = value
    name = proto.graph.initializer[2].name
    proto.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "nan.onnx")
    assert_refused(tmp_path / "nan.onnx", "NaN", name)


def test_unknown_operators_are_all_named(tmp_path: Path) -> None:
    proto = digits()
    proto.graph.node[0].op_type = "Konv"
    proto.graph.node[3].op_type, proto.graph.node[3].domain = "Magic", "my.domain"
    proto.opset_import.append(helper.make_opsetid("my.domain", 1))
    onnx.save(proto, tmp_path / "unknown.onnx")
    names = (proto.graph.node[0].name, proto.graph.node[3].name)
    assert_refused(tmp_path / "unknown.onnx", "2 unsupported node(s)", "Konv", "Magic", *names)
    with pytest.raises(UnsupportedOperatorError) as caught:
        planish.build(proto, OFF)
    assert len(caught.value.nodes) == 2


def test_cyclic_graph(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
    ]
    onnx.save(small_models.model(nodes, {"x": (1, 4)}, {"b": (1, 4)}), tmp_path / "cycle.onnx")
    assert_refused(tmp_path / "cycle.onnx", "cycl", "first")


def test_undefined_value(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "nowhere"], ["y"], name="first")]
    onnx.save(small_models.model(nodes, {"x": (1, 4)}, {"y": (1, 4)}), tmp_path / "m.onnx")
    assert_refused(tmp_path / "m.onnx", "nowhere", "first")


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    constants = {"w": np.ones((5, 3), np.float32)}
    proto = small_models.model(nodes, {"x": (1, 4)}, {"y": (1, 3)}, constants)
    onnx.save(proto, tmp_path / "m.onnx")
    assert_refused(tmp_path / "m.onnx", "product")


def one_node(op: str, inputs: dict[str, tuple[int, ...]], **attributes: Any) -> onnx.ModelProto:
    """Return a model of one node; its first input is the model's, the others are weights."""
    first, *others = inputs
    constants = small_models.weights(0, **{name: inputs[name] for name in others})
    nodes = [helper.make_node(op, list(inputs), ["y"], name="layer", **attributes)]
    return small_models.model(nodes, {first: inputs[first]}, {"y": None}, constants)


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (one_node("Conv", {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3), "b": (4, 1)}), "expected [4]"),
        (one_node("Conv", {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3), "b": (5,)}), "expected [4]"),
        (one_node("Conv", {"x": (1, 3, 8, 8), "w": (4, 2, 3, 3)}), "channels"),
        (
            one_node("Conv", {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3)}, kernel_shape=[3, -1]),
            "kernel_shape",
        ),
        (
            one_node("LSTM", {"x": (5, 1, 8), "w": (1, 64, 8), "r": (1, 64, 16), "b": (1, 64)},
                     hidden_size=16),
            "[1, 128]",
        ),
        (
            one_node("LSTM", {"x": (5, 1, 8), "w": (1, 64, 7), "r": (1, 64, 16)}, hidden_size=16),
            "[1, 64, 8]",
        ),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(proto: onnx.ModelProto, text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        planish.build(proto, OFF)
    assert text in str(caught.value)
    assert "layer" in str(caught.value.where)


def test_missing_external_data(tmp_path: Path) -> None:
    onnx.save(digits(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    (tmp_path / "m.data").unlink()
    assert_refused(tmp_path / "m.onnx", "m.data")


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    proto = digits()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)  # fmt: skip
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../etc/passwd"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert_refused(tmp_path / "m.onnx", "passwd")


# -- options -------------------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_found_before_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "x.plan", tmp_path / "file" / "x.plan", tmp_path):
        # the model does not exist either: the path is what is complained about, so it came first
        result = CliRunner().invoke(app, ["build", str(tmp_path / "no.onnx"), "-o", str(path)])
        assert result.exit_code == 2
        assert "cannot write" in result.stderr
        assert str(path) in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_report_that_cannot_be_written_is_found_before_the_build(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["build", str(tmp_path / "no.onnx"), "-o", str(tmp_path / "x.plan"),
         "--report", str(tmp_path / "missing" / "r.html")],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "fp23"}, "did you mean 'fp32'"),
        ({"precision": 32}, "precision is 32"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"tune": "always"}, "off, cache, measure"),
        ({"fallback": "numpy"}, "reference, error"),
        ({"time_budget": 0}, "time_budget is 0"),
        ({"time_budget": -1.0}, "seconds above 0"),
        ({"time_budget": float("nan")}, "seconds above 0"),
        ({"time_budget": float("inf")}, "seconds above 0"),
        ({"time_budget": "long"}, "seconds above 0"),
        ({"threads": 0}, "at least 1"),
        ({"threads": 1.5}, "at least 1"),
        ({"workspace_limit": -1}, "at least 0"),
        ({"profiles": {"x": (1, 2, 3)}}, "expected a planish.Profile"),
        ({"tactic_sources": "winograd"}, "names of tactics"),
        ({"tactic_sources": ()}, "names of tactics"),
    ],
)
def test_invalid_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BuildConfig(**options)
    assert text in str(caught.value)
    assert caught.value.where == f"BuildConfig.{next(iter(options))}"
    assert caught.value.fix


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 2), (1, 2), (1,)),
        ((2,), (1,), (3,)),
        ((1,), (4,), (3,)),
        ((-1,), (1,), (3,)),
        ((1.5,), (2,), (3,)),
        (1, 2, 3),
        ("x", "y", "z"),
    ],
)
def test_invalid_profiles(shapes: Any) -> None:
    with pytest.raises(ConfigError):
        Profile(*shapes)


def test_unknown_tactic_source() -> None:
    with pytest.raises(ConfigError, match="did you mean 'winograd'"):
        planish.build(DIGITS, BuildConfig(tune="off", tactic_sources=("winogard",)))


def test_no_kernel_and_no_fallback() -> None:
    with pytest.raises(TacticError, match="suppress") as caught:
        planish.build(small_models.suppression(), BuildConfig(tune="off", fallback="error"))
    assert "reference" in str(caught.value)


@pytest.mark.parametrize(
    ("profiles", "text"),
    [
        ({}, "N, S|S"),
        ({"idz": Profile((1, 1), (1, 8), (2, 16))}, "unknown input"),
        ({"ids": Profile((1,), (1,), (2,))}, "rank 1"),
    ],
)
def test_missing_and_wrong_profiles(profiles: dict[str, Profile], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        planish.build(small_models.transformer(), BuildConfig(tune="off", profiles=profiles))
    assert "ids" in str(caught.value)


def test_a_profile_that_the_model_cannot_run_with() -> None:
    nodes = [helper.make_node("Add", ["x", "c"], ["y"], name="sum")]
    constants = {"c": np.ones((1, 64), np.float32)}
    proto = small_models.model(nodes, {"x": ("N", "M")}, {"y": None}, constants)
    profiles = {"x": Profile((1, 2), (1, 4), (1, 8))}
    with pytest.raises(ConfigError, match="M == 64") as caught:
        planish.build(proto, BuildConfig(tune="off", profiles=profiles))
    assert "sum" in str(caught.value)
    assert "profile" in str(caught.value.fix)


def test_unknown_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_DEBGU", "1")
    with pytest.raises(ConfigError, match="PLANISH_DEBUG"):
        planish.build(DIGITS, OFF)


@pytest.mark.parametrize(
    ("name", "value"), [("PLANISH_DEBUG", "5"), ("PLANISH_STOP_AFTER", "lunch")]
)
def test_wrong_environment_variables(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=value) as caught:
        planish.build(DIGITS, OFF)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "contents",
    ["", "{", "[]", "null", '{"format": "other", "entries": {}}',
     f'{{"format": "{FORMAT}"}}', f'{{"format": "{FORMAT}", "entries": []}}',
     f'{{"format": "{FORMAT}", "entries": {{"a": 1}}}}',
     f'{{"format": "{FORMAT}", "entries": {{"a": {{"b": "fast"}}}}}}',
     f'{{"format": "{FORMAT}", "entries": {{"a": {{"b": NaN}}}}}}',
     f'{{"format": "{FORMAT}", "entries": {{"a": {{"b": -3}}}}}}', "\0\1"],
)  # fmt: skip
@pytest.mark.parametrize("tune", ["cache", "measure"])
def test_damaged_timing_cache(tmp_path: Path, contents: str, tune: str) -> None:
    path = tmp_path / "timing.json"
    path.write_text(contents)
    with pytest.raises(ConfigError, match="not a timing cache") as caught:
        planish.build(DIGITS, BuildConfig(tune=tune, timing_cache=path))
    assert caught.value.where == str(path)
    assert path.read_text() == contents


def test_timing_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the timing cache"):
        planish.build(DIGITS, BuildConfig(timing_cache=tmp_path / "file" / "timing.json"))


# -- arrays --------------------------------------------------------------------------------------

IMAGE = np.zeros((1, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"imagee": IMAGE}, "did you mean image"),
        ({}, "missing: image"),
        ({"image": IMAGE, "more": IMAGE}, "unknown: more"),
        ({"image": IMAGE.astype(np.float64)}, "float64, expected float32"),
        ({"image": IMAGE.astype(np.int32)}, "int32, expected float32"),
        ({"image": IMAGE.astype(">f4")}, "swapped bytes"),
        ({"image": IMAGE[0]}, "rank 4"),
        ({"image": IMAGE[:, :, :7]}, "image"),
        ({"image": np.zeros((33, 1, 8, 8), np.float32)}, "32"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "1"),
        ({"image": "an image"}, "expected float32"),
        ({"image": None}, "expected float32"),
    ],
)
def test_wrong_arrays(digits_engine: Engine, inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as caught:
        digits_engine.run(inputs)
    assert text in str(caught.value)
    assert caught.value.where
    assert digits_engine.run({"image": IMAGE})["scores"].shape == (1, 10)


def test_wrong_arrays_on_the_command_line(tmp_path: Path, digits_plan: Path) -> None:
    np.save(tmp_path / "wrong.npy", IMAGE.astype(np.int16))
    (tmp_path / "text.npy").write_text("no array")
    for text, name in (("int16", "image=wrong.npy"), ("cannot read", "text.npy"),
                       ("No such file", "none.npy"), ("did you mean", "imege=ok.npy")):  # fmt: skip
        np.save(tmp_path / "ok.npy", IMAGE)
        prefix, _, file = name.rpartition("=")
        given = f"{prefix}={tmp_path / file}" if prefix else str(tmp_path / file)
        result = CliRunner().invoke(
            app, ["run", str(digits_plan), "-i", given, "-o", str(tmp_path / "out.npz")]
        )
        assert result.exit_code == 2
        assert text in result.stderr
    assert not (tmp_path / "out.npz").exists()


# -- engine files --------------------------------------------------------------------------------


def is_refused(path: Path) -> bool:
    try:
        planish.load(path)
    except EngineFileError as error:
        return bool(error.where)
    return False


@pytest.mark.parametrize("seed", range(4))
def test_bit_flips_over_a_whole_engine(tmp_path: Path, digits_plan: Path, seed: int) -> None:
    good = digits_plan.read_bytes()
    generator = random.Random(seed)
    path = tmp_path / "flipped.plan"
    path.write_bytes(good)
    unnoticed = []
    with path.open("r+b", buffering=0) as file:
        for _ in range(150):
            position, bit = generator.randrange(len(good)), generator.randrange(8)
            for value in (good[position] ^ 1 << bit, good[position]):
                file.seek(position)
                file.write(bytes([value]))
                if value != good[position] and not is_refused(path):
                    unnoticed.append((position, bit))
    assert unnoticed == []
    assert path.read_bytes() == good
    planish.load(path)


def test_cut_engines(tmp_path: Path, digits_plan: Path) -> None:
    good = digits_plan.read_bytes()
    generator = random.Random(0)
    path = tmp_path / "cut.plan"
    for cut in [0, 1, 21, 22, len(good) - 1, *(generator.randrange(len(good)) for _ in range(40))]:
        path.write_bytes(good[:cut])
        assert is_refused(path), cut


@pytest.mark.parametrize("verb", ["run", "bench", "inspect"])
def test_damaged_engine_on_the_command_line(tmp_path: Path, digits_plan: Path, verb: str) -> None:
    data = bytearray(digits_plan.read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "bad.plan").write_bytes(data)
    result = CliRunner().invoke(app, [verb, str(tmp_path / "bad.plan")])
    assert result.exit_code == 2
    for text in ("damaged", "where:", "bad.plan", "fix:"):
        assert text in result.stderr


@pytest.mark.parametrize("verb", ["run", "bench", "inspect"])
def test_missing_engine_on_the_command_line(tmp_path: Path, verb: str) -> None:
    result = CliRunner().invoke(app, [verb, str(tmp_path / "none.plan")])
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_engine_of_another_format_version(
    tmp_path: Path, digits_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.engine.writer.FORMAT_VERSION", 99)
    digits_engine.save(tmp_path / "new.plan")
    with pytest.raises(CompatibilityError, match="format version 99") as caught:
        planish.load(tmp_path / "new.plan")
    assert "upgrade planish" in str(caught.value)


def test_engine_for_another_processor(digits_plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.runtime.engine.usable_features", lambda: frozenset({"sse4_2"}))
    result = CliRunner().invoke(app, ["run", str(digits_plan)])
    assert result.exit_code == 2
    assert "instructions that this CPU does not have: avx2" in result.stderr.replace("avx, ", "")
    assert "build the engine again" in result.stderr


def test_native_code_that_is_not_allowed(digits_plan: Path) -> None:
    with pytest.raises(CompatibilityError, match="allow_native_code=False") as caught:
        planish.load(digits_plan, allow_native_code=False)
    assert caught.value.where == str(digits_plan)


def test_engine_without_native_code_loads_where_it_is_not_allowed(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = BuildConfig(tune="off", tactic_sources=("reference",))
        engine = planish.build(small_models.convolutions(), config)
    engine.save(tmp_path / "safe.plan")
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    loaded = planish.load(tmp_path / "safe.plan", allow_native_code=False)
    np.testing.assert_array_equal(loaded(x), engine(x))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failure", [interrupt, full_disk])
def test_interrupted_save_leaves_the_old_file(
    tmp_path: Path,
    digits_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[..., None],
) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"the old file")
    monkeypatch.setattr("os.fsync", failure)
    with pytest.raises((KeyboardInterrupt, EngineFileError)):
        digits_engine.save(path)
    assert path.read_bytes() == b"the old file"
    assert [each.name for each in tmp_path.iterdir()] == ["model.plan"]


def test_errors_are_of_one_family() -> None:
    for kind in (ModelError, ConfigError, InputError, EngineFileError, CompatibilityError):
        assert issubclass(kind, PlanishError)
