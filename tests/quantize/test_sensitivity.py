"""The ranking of layers by what integers cost in each: against integers in numpy, and by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

import planish
from planish.config import BuildConfig
from planish.errors import ConfigError, InputError
from planish.importers.importer import read_model
from planish.ops.interpreter import run_graph
from planish.passes.fuse_siblings import FuseSiblings
from planish.passes.graph_pass import run_pipeline
from planish.passes.pipeline import name_tensors, preparation
from planish.quantize.insert_qdq import quantize_graph
from tests import small_models

Array = np.ndarray[Any, Any]

INT8 = BuildConfig(precision="int8", threads=1)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep compiled objects: most tests rank the same model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def images(count: int = 3, size: int = 4) -> list[Array]:
    generator = np.random.default_rng(7)
    return [generator.standard_normal((size, 3, 12, 12)).astype(np.float32) for _ in range(count)]


def by_name(found: planish.Sensitivity) -> dict[str, float]:
    return {entry.name: entry.signal_to_noise for entry in found.layers}


def products(wide: float, mask: float = 0.0) -> onnx.ModelProto:
    """Three products in a row; a column of the second one's data is `wide` times the others.

    `mask` is added to the last column of the result.
    """
    generator = np.random.default_rng(3)
    w = {f"w{i}": generator.standard_normal((16, 16)).astype(np.float32) / 4 for i in range(3)}
    w["w0"][:, 5] *= wide
    w["w1"][5, :] /= wide
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w1"], ["b"], name="second"),
        helper.make_node("MatMul", ["b", "w2"], ["c"], name="third"),
        helper.make_node("Add", ["c", "mask"], ["y"], name="masked"),
    ]
    w["mask"] = np.array([0.0] * 15 + [mask], np.float32)
    return small_models.model(nodes, {"x": ["N", 16]}, {"y": ["N", 16]}, w)


def test_every_layer_costs_what_integers_cost_it_in_numpy() -> None:
    model, (batch,) = small_models.convolutions(), images(1)
    calibrator = planish.MinMaxCalibrator([batch])
    config = BuildConfig(precision="int8", threads=1, calibrator=calibrator)
    found = by_name(planish.sensitivity(model, config, [batch]))
    assert calibrator.ranges is not None
    names = list(found)
    assert sorted(names) == ["block", "left", "right", "stem"]
    exact = read_model(model)
    (want,) = run_graph(exact, [batch])
    for name in names:
        graph = read_model(model)
        name_tensors(graph)
        run_pipeline(graph, preparation())
        FuseSiblings().run(graph)
        others = {other: "fp32" for other in names if other != name}
        summary = quantize_graph(graph, calibrator.ranges.thresholds, others)
        assert summary.layers == [name]
        (got,) = run_graph(graph, [batch])
        noise = float(((want - got) ** 2).sum())
        expected = 10 * math.log10(float((want**2).sum()) / noise)
        assert found[name] == pytest.approx(expected, abs=1.5), name


def test_a_layer_with_one_wide_column_comes_first() -> None:
    data = [np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)]
    config = BuildConfig(
        precision="int8", threads=1, calibrator=planish.MinMaxCalibrator(data),
        layer_precisions={"third": "int8"},
    )  # fmt: skip
    even = by_name(planish.sensitivity(products(1.0), config, data))
    wide = planish.sensitivity(products(300.0), config, data)
    assert wide.layers[0].name == "second"
    assert by_name(wide)["second"] < even["second"] - 20
    assert by_name(wide)["first"] == pytest.approx(even["first"], abs=3)
    assert wide.whole.signal_to_noise == pytest.approx(wide.layers[0].signal_to_noise, abs=3)


def test_the_whole_model_is_what_a_build_gives() -> None:
    data = images()
    plain = replace(INT8, corrections=False)
    found = planish.sensitivity(small_models.convolutions(), plain, data, samples=12)
    assert found.samples == 12
    engine = planish.build(
        small_models.convolutions(),
        BuildConfig(
            precision="int8",
            threads=1,
            tune="off",
            corrections=False,
            calibrator=planish.EntropyCalibrator2(data),
        ),
    )
    batch = np.concatenate(data)
    (name,) = (info.name for info in engine.outputs)
    got = engine.run({"x": batch})[name].astype(np.float64)
    want = small_models.expected(small_models.convolutions(), {"x": batch})[name]
    noise = float(((got - want) ** 2).sum())
    expected = 10 * math.log10(float((want.astype(np.float64) ** 2).sum()) / noise)
    assert found.whole.signal_to_noise == pytest.approx(expected, abs=0.1)
    assert found.whole.signal_to_noise < min(by_name(found).values())
    assert 0.99 < found.whole.cosine < 1


def test_sixteen_bits_are_ranked_by_what_they_do_to_weights() -> None:
    model = products(1.0)
    data = [np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)]
    found = planish.sensitivity(model, BuildConfig(precision="bf16", threads=1), data)
    assert found.whole is None
    assert "all of them" not in str(found) + found.to_html()
    (want,) = small_models.expected(model, {"x": data[0]}).values()
    for place, name in enumerate(("first", "second", "third")):
        changed = products(1.0)
        weight = changed.graph.initializer[place]
        array = onnx.numpy_helper.to_array(weight)
        rounded = array.astype(ml_dtypes.bfloat16).astype(np.float32)
        weight.CopyFrom(onnx.numpy_helper.from_array(rounded, weight.name))
        (got,) = small_models.expected(changed, {"x": data[0]}).values()
        expected = 10 * math.log10(float((want**2).sum()) / float(((want - got) ** 2).sum()))
        assert by_name(found)[name] == pytest.approx(expected, abs=0.1)


def test_masked_elements_are_not_compared() -> None:
    data = [np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)]
    found = planish.sensitivity(products(1.0, mask=-np.inf), INT8, data)
    assert set(by_name(found)) == {"first", "second"}
    for entry in (*found.layers, found.whole):
        assert 25 < entry.signal_to_noise < 80
        assert 0.99 < entry.cosine < 1


def test_layers_kept_in_float32_are_not_ranked_but_named() -> None:
    data = [np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)]
    config = BuildConfig(precision="int8", threads=1, layer_precisions={"first": "fp32"})
    found = planish.sensitivity(products(1.0), config, data)
    assert list(by_name(found)) == ["second"]
    for name in ("first", "third"):
        assert any(note.startswith(f"{name} stays floating point") for note in found.notes)


@pytest.mark.parametrize(("samples", "seen"), [(1, 4), (4, 4), (5, 8), (100, 12)])
def test_no_more_samples_are_run_than_asked_for(samples: int, seen: int) -> None:
    found = planish.sensitivity(small_models.convolutions(), INT8, images(), samples=samples)
    assert found.samples == seen  # whole pieces of batches


def test_the_page_draws_a_bar_for_each_layer() -> None:
    found = planish.sensitivity(small_models.convolutions(), INT8, images())
    page = found.to_html()
    assert page.count("<svg") == len(found.layers) + 1
    assert all(f"<td>{name}<td>" in page for name in by_name(found))
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == list(by_name(found))
    assert lines[6].startswith("all of them")


def test_what_cannot_be_ranked_is_an_error() -> None:
    model = small_models.convolutions()
    with pytest.raises(ConfigError, match="precision='fp32'"):
        planish.sensitivity(model, BuildConfig(), images())
    with pytest.raises(ConfigError, match="0 samples"):
        planish.sensitivity(model, INT8, images(), samples=0)
    with pytest.raises(ConfigError, match="data are empty"):
        planish.sensitivity(model, INT8, [])
    calibrated = BuildConfig(
        precision="int8", threads=1, calibrator=planish.MinMaxCalibrator(images())
    )
    with pytest.raises(ConfigError, match="no data to rank"):
        planish.sensitivity(model, calibrated, [])
    with pytest.raises(InputError, match="batch 0"):
        planish.sensitivity(model, calibrated, [np.zeros((1, 3), np.float32)])
