"""TrtGraphConverterV2: convert, build, save, load, summary; its errors; what stays TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from planish import errors  # noqa: E402
from planish.frontends.tensorflow import resources  # noqa: E402
from planish.frontends.tensorflow import trt_convert as trt  # noqa: E402
from planish.frontends.tensorflow.functions import engine_nodes  # noqa: E402
from tests.frontends.tensorflow.saved_models import (  # noqa: E402
    network,
    save,
    spec,
    split_network,
    weights,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "network", network, spec(None, 8))


@pytest.fixture(scope="module")
def split_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "split", split_network, spec(None, 8))


def converter(folder, **options):
    return trt.TrtGraphConverterV2(str(folder), **{"time_budget": 2.0, **options})


def native(folder, **options):
    """Return a converter that makes engine operations without engines."""
    return converter(folder, allow_build_at_runtime=False, time_budget=0, **options)


def text_of(made, **options) -> str:
    lines: list[str] = []
    made.summary(print_fn=lambda line="": lines.append(line), **options)
    return "\n".join(lines)


def run(folder, x):
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return {name: value.numpy() for name, value in signature(tf.constant(x)).items()}


def engines_in(made) -> list[str]:
    return [node.name for node in engine_nodes(made._converted_graph_def)]


# -- the whole way ---------------------------------------------------------------------------------


def test_convert_save_load_and_run(model, tmp_path):
    made = converter(model)
    function = made.convert()
    made.save(str(tmp_path / "out"))
    assets = [path.name for path in (tmp_path / "out" / "assets").iterdir()]
    (engine,) = engines_in(made)
    assert assets == [f"trt-serialized-engine.{engine}"]
    for batch in (1, 5, 32):
        x = weights(batch, 8, seed=batch)
        expected = run(model, x)
        assert set(expected) == {"scores"}
        inside = function(tf.constant(x))["scores"].numpy()
        np.testing.assert_allclose(inside, expected["scores"], atol=1e-6)
        loaded = run(tmp_path / "out", x)
        np.testing.assert_allclose(loaded["scores"], expected["scores"], atol=1e-6)
    cache = resources.existing_cache(engine)
    assert cache is not None
    assert [one.shapes for one in cache.engines] == [((1, 8),)]


def test_the_signature_is_kept(model, tmp_path):
    made = converter(model, time_budget=0)
    made.convert()
    made.save(str(tmp_path / "out"))
    before = tf.saved_model.load(str(model)).signatures["serving_default"]
    after = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"]
    assert after.structured_outputs == before.structured_outputs
    assert after.structured_input_signature == before.structured_input_signature
    assert after.structured_outputs["scores"].shape.as_list() == [None, 4]


def test_the_converted_model_converts_nothing_twice(model, tmp_path):
    made = converter(model, time_budget=0)
    made.convert()
    made.save(str(tmp_path / "out"))
    again = converter(tmp_path / "out", time_budget=0)
    again.convert()
    assert "Total number of TensorRT engines: 0" in text_of(again)


def test_sixteen_bit_floats_say_what_they_run_in(model):
    made = converter(model, precision_mode="FP16")
    made.convert()
    x = weights(3, 8)
    got = made._converted_func(tf.constant(x))["scores"].numpy()
    np.testing.assert_allclose(got, run(model, x)["scores"], atol=2e-2)
    assert "(precision asked for: FP16)" in text_of(made)
    assert "runs in " in text_of(made)


def test_nested_results_names_and_types_survive(tmp_path):
    def several(x, ids):
        return {"b": tf.nn.relu(x * 2.0 + 1.0) - 3.0, "a": ids + 1, "c": tf.argmax(x, -1)}

    folder = save(tmp_path / "in", several, spec(None, 4), spec(None, dtype="int64", name="ids"))
    made = native(folder)
    made.convert()
    made.save(str(tmp_path / "out"))
    x, ids = weights(3, 4), np.arange(3)
    for path in (folder, tmp_path / "out"):
        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        got = signature(x=tf.constant(x), ids=tf.constant(ids))
        np.testing.assert_allclose(got["b"], np.maximum(x * 2 + 1, 0) - 3, atol=1e-6)
        assert got["a"].numpy().tolist() == [1, 2, 3]
        assert got["c"].dtype == tf.int64


def test_tables_stay_with_the_model(tmp_path):
    class WithTable(tf.Module):
        def __init__(self):
            super().__init__()
            names = tf.lookup.KeyValueTensorInitializer(
                tf.constant([0, 1], tf.int64), tf.constant(["cat", "dog"])
            )
            self.table = tf.lookup.StaticHashTable(names, "?")

        @tf.function(input_signature=[spec(None, 2)])
        def run(self, x):
            scores = tf.nn.softmax(tf.nn.relu(x * 2.0) + 1.0)
            return {"scores": scores, "label": self.table.lookup(tf.argmax(scores, -1))}

    module = WithTable()
    tf.saved_model.save(module, str(tmp_path / "in"), signatures=module.run)
    made = native(tmp_path / "in")
    made.convert()
    made.save(str(tmp_path / "out"))
    got = run(tmp_path / "out", np.array([[1, 2], [2, 1]], np.float32))
    assert got["label"].tolist() == [b"dog", b"cat"]
    assert len(engines_in(made)) == 1


# -- segments --------------------------------------------------------------------------------------


def test_what_cannot_be_converted_stays_outside_and_says_why(split_model):
    made = converter(split_model, minimum_segment_size=2)
    made.convert()
    assert len(engines_in(made)) == 2
    x = weights(4, 8)
    got = made._converted_func(tf.constant(x))["output_0"].numpy()
    np.testing.assert_allclose(got, run(split_model, x)["output_0"], atol=1e-5)
    text = text_of(made)
    assert "[*] Total number of TensorRT engines: 2" in text
    assert "1x Lgamma: Planish has no rule for this operation" in text


@pytest.mark.parametrize(("size", "engines"), [(2, 2), (6, 1), (20, 0), (-1, 0)])
def test_minimum_segment_size(split_model, size, engines):
    made = converter(split_model, minimum_segment_size=size, time_budget=0)
    made.convert()
    assert len(engines_in(made)) == engines
    if engines == 0:
        assert "Operations that TensorFlow runs" in text_of(made)


def test_denied_operations_and_the_limit_of_engines(split_model, monkeypatch):
    monkeypatch.setenv("TF_TRT_OP_DENYLIST", "Relu, Sub")
    made = converter(split_model, minimum_segment_size=2, time_budget=0)
    made.convert()
    assert "2x Relu: TF_TRT_OP_DENYLIST names this operation" in text_of(made)
    monkeypatch.delenv("TF_TRT_OP_DENYLIST")
    monkeypatch.setenv("TF_TRT_MAX_ALLOWED_ENGINES", "1")
    made = converter(split_model, minimum_segment_size=2, time_budget=0)
    made.convert()
    assert len(engines_in(made)) == 1
    assert "more engines than the limit allows" in text_of(made)


def test_engine_nodes_have_nvidias_names_and_attributes(model):
    made = converter(
        model, precision_mode="fp16", maximum_cached_engines=3, time_budget=0,
        max_workspace_size_bytes=1 << 20, use_calibration=False,
    )  # fmt: skip
    made.convert()
    (node,) = engine_nodes(made._converted_graph_def)
    assert node.name.startswith("TRTEngineOp_")
    assert len(node.name.split("_")) == 3
    assert node.attr["segment_func"].func.name == f"{node.name}_native_segment"
    assert node.attr["precision_mode"].s == b"FP16"
    assert node.attr["max_cached_engines_count"].i == 3
    assert node.attr["workspace_size_bytes"].i == 1 << 20
    assert not node.attr["use_calibration"].b
    assert not node.attr["static_engine"].b
    assert [d.size for d in node.attr["input_shapes"].list.shape[0].dim] == [-1, 8]
    assert [d.size for d in node.attr["output_shapes"].list.shape[0].dim] == [-1, 4]


# -- build and calibration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}],
    ids=["array", "tuple", "list", "dict"],
)
def test_build_takes_every_form_of_input(model, given):
    made = converter(model, use_dynamic_shape=True, time_budget=0)
    made.convert()
    made.build(lambda: iter([given(weights(3, 8))]))
    (name,) = engines_in(made)
    assert resources.existing_cache(name).collected == (((3, 8),),)


def test_build_makes_engines_for_ranges_of_shapes(tmp_path):
    def image(x):
        return tf.nn.relu(tf.nn.conv2d(x, weights(3, 3, 1, 2), 1, "SAME") + 1.0) * 2.0

    folder = save(tmp_path / "in", image, spec(None, None, None, 1))
    made = converter(folder, use_dynamic_shape=True, time_budget=4)
    made.convert()
    assert "extents besides the batch are open" in text_of(made)
    made.build(lambda: (weights(*shape, 1) for shape in ((1, 4, 4), (2, 8, 6))))
    (name,) = engines_in(made)
    (cached,) = resources.existing_cache(name).engines
    assert cached.engine.accepts(((1, 8, 5, 1),))
    assert not cached.engine.accepts(((1, 9, 5, 1),))
    made.save(str(tmp_path / "out"))
    x = weights(2, 7, 5, 1)
    np.testing.assert_allclose(
        run(tmp_path / "out", x)["output_0"], run(folder, x)["output_0"], atol=1e-5
    )


def test_calibration_gives_integer_engines_and_is_kept(tmp_path):
    def layers(x):
        hidden = tf.nn.relu(tf.nn.conv2d(x, weights(3, 3, 16, 32) / 10, 1, "SAME"))
        return tf.nn.conv2d(hidden, weights(3, 3, 32, 16) / 10, 1, "SAME")

    folder = save(tmp_path / "in", layers, spec(None, 8, 8, 16))
    made = converter(folder, precision_mode="INT8", time_budget=4, minimum_segment_size=2)
    batches = [weights(4, 8, 8, 16, seed=seed) for seed in range(3)]
    made.convert(calibration_input_fn=lambda: iter(batches))
    expected = run(folder, batches[0])["output_0"]
    got = made._converted_func(tf.constant(batches[0]))["output_0"].numpy()
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    assert "int8" in text_of(made)
    (node,) = engine_nodes(made._converted_graph_def)
    assert b"EntropyCalibration2" in node.attr["calibration_data"].s
    made.save(str(tmp_path / "out"), save_gpu_specific_engines=False)
    (asset,) = (tmp_path / "out" / "assets").iterdir()
    assert asset.stat().st_size == 0


def test_an_interrupted_build_keeps_what_there_is(split_model, capsys):
    made = converter(split_model, minimum_segment_size=2)
    made._load_and_cut()
    ahead = made._ahead
    first, second = engines_in(made)
    build_one = ahead._build_one

    def interrupted(name, profiles, seconds):
        build_one(name, profiles, seconds)
        ahead._stop.set()

    ahead._build_one = interrupted
    ahead.build_for_batches(4.0)
    made._settle()
    made._converted = True
    assert ahead.abandoned == [second]
    allowed = {n.name: n.attr["_allow_build_at_runtime"].b for n in engine_nodes(
        made._converted_graph_def)}  # fmt: skip
    assert allowed == {first: True, second: False}
    assert "building was interrupted" in text_of(made)
    x = weights(2, 8)
    got = made._converted_func(tf.constant(x))["output_0"].numpy()
    np.testing.assert_allclose(got, run(split_model, x)["output_0"], atol=1e-5)


# -- errors ----------------------------------------------------------------------------------------


def test_the_order_of_calls(model):
    made = converter(model, time_budget=0)
    with pytest.raises(RuntimeError, match=r"Impossible to call `TrtGraphConverterV2\.summary"):
        made.summary()
    with pytest.raises(RuntimeError, match=r"Need to call convert\(\) before build\(\)"):
        made.build(lambda: iter([weights(1, 8)]))
    with pytest.raises(AssertionError, match="before save"):
        made.save("nowhere")
    made.convert()
    with pytest.raises(AssertionError, match="called already"):
        made.convert()
    with pytest.raises(ValueError, match="Invalid `line_length` value has been received: 100"):
        made.summary(line_length=100)
    with pytest.raises(RuntimeError, match="input_fn is None"):
        made.build(None)
    made.build(lambda: iter([weights(1, 8)]))
    with pytest.raises(NotImplementedError, match="not supported to call build"):
        made.build(lambda: iter([weights(1, 8)]))


def test_calibration_is_asked_for_and_only_where_it_is_needed(model):
    with pytest.raises(ValueError, match="Should specify calibration_input_fn because"):
        converter(model, precision_mode="INT8").convert()
    with pytest.raises(ValueError, match="Should not specify calibration_input_fn because"):
        converter(model).convert(calibration_input_fn=lambda: iter([weights(1, 8)]))
    with pytest.raises(RuntimeError, match="gave no inputs"):
        converter(model, precision_mode="INT8").convert(calibration_input_fn=lambda: iter([]))
    made = converter(model, precision_mode="INT8", use_dynamic_shape=True)
    made.convert(calibration_input_fn=lambda: iter([weights(1, 8)]))
    with pytest.raises(RuntimeError, match="requires INT8 calibration has to be built"):
        made.save("nowhere")


def test_wrong_models_are_named(model, tmp_path):
    with pytest.raises(errors.ModelError, match="not a SavedModel folder"):
        converter(tmp_path).convert()
    with pytest.raises(errors.ModelError, match=r"no signature 'predict'.*\n.*\n.*serving_default"):
        converter(model, input_saved_model_signature_key="predict").convert()
    with pytest.raises(errors.ModelError, match=r"tags train\n.*\n.*use one of: serve"):
        converter(model, input_saved_model_tags=["train"]).convert()
    with pytest.raises(errors.ConfigError, match="nothing to convert"):
        trt.TrtGraphConverterV2().convert()


def test_wrong_inputs_are_named(model):
    made = converter(model, time_budget=0)
    made.convert()
    with pytest.raises(errors.InputError, match="inputs x"):
        made.build(lambda: iter([{"y": weights(1, 8)}]))


def test_wrong_parameters_are_refused(model):
    with pytest.raises(ValueError, match="precision mode 'FP64' is not supported"):
        converter(model, precision_mode="FP64")
    with pytest.raises(ValueError, match="profile_strategy 'Best' is not supported"):
        converter(model, use_dynamic_shape=True, dynamic_shape_profile_strategy="Best")
    with pytest.raises(ValueError, match="time_budget is -1"):
        converter(model, time_budget=-1)
    with pytest.raises(TypeError, match="unexpected parameters: colour"):
        converter(model, conversion_params=trt.TrtConversionParams(), colour="red")


def test_older_forms_of_the_constructor(model):
    params = trt.DEFAULT_TRT_CONVERSION_PARAMS._replace(precision_mode="FP16")
    with pytest.warns(DeprecationWarning, match="conversion_params by name"):
        made = trt.TrtGraphConverterV2(str(model), None, None, params)
    assert made._conversion_params is params
    with pytest.warns(DeprecationWarning, match="max_batch_size"):
        converter(model, max_batch_size=8)


# -- saving ----------------------------------------------------------------------------------------


def test_a_failed_save_leaves_nothing(model, tmp_path, monkeypatch):
    made = converter(model, time_budget=0)
    made.convert()
    options = tf.saved_model.SaveOptions(namespace_whitelist=["x"])

    def fail(root, folder, signatures, options):
        (tmp_path / "half").mkdir(exist_ok=True)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        made.save(str(tmp_path / "out"), options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_saving_into_a_folder_keeps_what_is_there(model, tmp_path):
    out = tmp_path / "out"
    (out / "variables").mkdir(parents=True)
    (out / "variables" / "old").write_text("old")
    (out / "notes.txt").write_text("keep")
    made = native(model)
    made.convert()
    made.save(out)
    assert (out / "notes.txt").read_text() == "keep"
    assert not (out / "variables" / "old").exists()
    assert run(out, weights(2, 8))["scores"].shape == (2, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_engines_that_may_not_be_built_run_natively(model, tmp_path):
    made = native(model)
    made.convert()
    made.save(str(tmp_path / "out"))
    x = weights(2, 8)
    np.testing.assert_allclose(
        run(tmp_path / "out", x)["scores"], run(model, x)["scores"], atol=1e-6
    )
    (node,) = engine_nodes(made._converted_graph_def)
    assert not node.attr["_allow_build_at_runtime"].b


def test_reports_that_the_environment_asks_for(split_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TF_TRT_SHOW_DETAILED_REPORT", str(tmp_path / "report.csv"))
    monkeypatch.setenv("TF_TRT_EXPORT_GRAPH_VIZ_PATH", str(tmp_path / "graph.dot"))
    converter(split_model, minimum_segment_size=2, time_budget=0).convert()
    rows = (tmp_path / "report.csv").read_text().splitlines()
    assert rows[0] == "OP Name|Reason|Count"
    assert "Lgamma|Planish has no rule for this operation|1" in rows
    assert "TRTEngineOp" in (tmp_path / "graph.dot").read_text()


def test_saving_without_native_segments(model, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_TRT_EXPERIMENTAL_FEATURES", "remove_native_segments")
    monkeypatch.setenv("TF_TRT_EXPORT_TRT_ENGINES_PATH", str(tmp_path / "engines"))
    made = converter(model)
    made.convert()
    made.save(str(tmp_path / "out"))
    (exported,) = (tmp_path / "engines").iterdir()
    assert exported.name == f"{engines_in(made)[0]}.plan"
    names = [function.signature.name for function in made._converted_graph_def.library.function]
    assert not [name for name in names if name.endswith("_native_segment")]
    x = weights(2, 8)
    np.testing.assert_allclose(
        run(tmp_path / "out", x)["scores"], run(model, x)["scores"], atol=1e-6
    )
