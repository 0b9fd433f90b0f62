"""The engine operation inside TensorFlow, in this process."""

import gc
import os
import threading
import warnings

import numpy as np
import pytest

from planish.config import Profile
from planish.errors import ModelError
from tests.frontends.tensorflow.stand_ins import BUILT, StandInEngine, fixed

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow")

from planish.frontends.tensorflow import kernels, resources  # noqa: E402
from planish.frontends.tensorflow.engine_cache import EngineCache  # noqa: E402
from planish.frontends.tensorflow.engine_op import settings_of  # noqa: E402
from planish.frontends.tensorflow.engine_rules import EngineSettings  # noqa: E402
from planish.frontends.tensorflow.registration import register  # noqa: E402
from tests.frontends.tensorflow.engine_models import engine_function  # noqa: E402

SPEC = [tf.TensorSpec([None, 4], tf.float32)]


@pytest.fixture
def name(request):
    """An engine name that no other test uses."""
    return f"TRTEngineOp_{request.node.name.replace('[', '_').replace(']', '')}"


def three_times(x):
    return x * 3.0


def one_to_many(best=4):
    return StandInEngine([Profile((1, 4), (best, 4), (32, 4))])


def first(function, *arrays):
    result = function(*map(tf.constant, arrays))
    return (next(iter(result.values())) if isinstance(result, dict) else result[0]).numpy()


def ones(*shape):
    return np.ones(shape, np.float32)


# -- running --------------------------------------------------------------------------------------


def test_registering_again_changes_nothing():
    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernels.is_defined("TRTEngineOp")


def test_engine_of_the_cache_runs(name):
    function, resource = engine_function(name, three_times, SPEC, allow_build=False)
    engine = one_to_many()
    resources.cache_of(resource).put(engine, ((4, 4),))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(first(function, x), BUILT * x)
    assert engine.runs == 1


def test_output_shape_is_known_in_the_graph(name):
    function, _ = engine_function(name, three_times, SPEC)
    assert function.outputs[0].shape.as_list() == [None, 4]


def test_without_engine_tensorflow_runs_the_segment(name):
    function, _ = engine_function(name, three_times, SPEC, allow_build=False)
    np.testing.assert_array_equal(first(function, ones(3, 4)), 3 * ones(3, 4))


def test_engine_is_built_from_the_segment_when_inputs_come(name):
    weights = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)
    function, resource = engine_function(
        name, lambda x: tf.nn.relu(tf.matmul(x, weights) - 1.0), SPEC
    )
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    expected = np.maximum(x @ weights - 1, 0)
    np.testing.assert_allclose(first(function, x), expected, rtol=1e-5, atol=1e-6)
    (cached,) = resources.existing_cache(resource).engines
    assert cached.engine.ranges == {"batch": (1, 3, 32)}
    np.testing.assert_allclose(
        first(function, np.tile(x, (5, 1))), np.tile(expected, (5, 1)), rtol=1e-5, atol=1e-6
    )
    assert len(resources.existing_cache(resource).engines) == 1


@pytest.mark.parametrize(
    "dtype", [tf.float32, tf.float16, tf.int32, tf.int8, tf.bool], ids=lambda dtype: dtype.name
)
def test_types_pass_without_change(name, dtype):
    class Copy(StandInEngine):
        def execute(self, inputs, allocate=None):
            target = allocate(0, inputs[0].shape)
            assert target.dtype == inputs[0].dtype == dtype.as_numpy_dtype
            np.copyto(target, inputs[0])
            return [target]

    function, resource = engine_function(name, lambda x: (x,), [tf.TensorSpec([3], dtype)])
    resources.cache_of(resource).put(Copy(fixed((3,))), ((3,),))
    x = np.array([0, 1, 1]).astype(dtype.as_numpy_dtype)
    np.testing.assert_array_equal(first(function, x), x)


def test_many_inputs_and_outputs_keep_their_order(name):
    class Swap(StandInEngine):
        def execute(self, inputs, allocate=None):
            return [inputs[1].copy(), inputs[0].copy()]  # memory of its own: copied

    specs = [tf.TensorSpec([2, 3], tf.float32), tf.TensorSpec([2], tf.int32)]
    function, resource = engine_function(name, lambda a, b: (b, a), specs)
    resources.cache_of(resource).put(Swap(fixed((2, 3), (2,))), ((2, 3), (2,)))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.int32)
    left, right = function(tf.constant(a), tf.constant(b))
    np.testing.assert_array_equal(left, b)
    np.testing.assert_array_equal(right, a)


@pytest.mark.parametrize("shape", [(1, 0), (2, 0, 3)])
def test_empty_tensors_pass(name, shape):
    function, resource = engine_function(
        name, three_times, [tf.TensorSpec([None] * len(shape), tf.float32)], implicit_batch=False
    )
    resources.cache_of(resource).put(StandInEngine(fixed(shape)), (shape,))
    assert first(function, ones(*shape)).shape == shape


def test_scalar_passes(name):
    function, resource = engine_function(
        name, three_times, [tf.TensorSpec([], tf.float32)], implicit_batch=False
    )
    resources.cache_of(resource).put(StandInEngine(fixed(())), ((),))
    assert first(function, np.float32(4)) == 4 * BUILT


def test_segment_with_a_loop_runs_natively(name):
    def loop(x):
        return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2.0), (0, x))[1]

    function, _ = engine_function(name, loop, SPEC, allow_build=False)
    np.testing.assert_array_equal(first(function, ones(2, 4)), 8 * ones(2, 4))


# -- errors ---------------------------------------------------------------------------------------


def test_failing_engine_falls_back_to_the_segment(name, caplog):
    function, resource = engine_function(name, three_times, SPEC)
    broken = StandInEngine([Profile((1, 4), (4, 4), (32, 4))], ModelError("it broke"))
    resources.cache_of(resource).put(broken, ((4, 4),))
    np.testing.assert_array_equal(first(function, ones(3, 4)), 3 * ones(3, 4))
    assert "it broke" in caplog.text


def test_engine_that_fails_after_it_took_memory_falls_back(name):
    class Late(StandInEngine):
        def execute(self, inputs, allocate=None):
            allocate(0, inputs[0].shape)[...] = -1
            raise ModelError("too late")

    function, resource = engine_function(name, three_times, SPEC)
    resources.cache_of(resource).put(Late(fixed((3, 4))), ((3, 4),))
    np.testing.assert_array_equal(first(function, ones(3, 4)), 3 * ones(3, 4))


def test_forbidden_fall_back_is_an_aborted_error(name, monkeypatch):
    monkeypatch.setenv("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "false")
    function, _ = engine_function(name, three_times, SPEC, allow_build=False)
    with pytest.raises(tf.errors.AbortedError, match="User disallowed engine native segment"):
        function(tf.constant(ones(3, 4)))


def test_engine_with_wrong_type_of_output_is_an_error_not_garbage(name):
    class Wide(StandInEngine):
        def execute(self, inputs, allocate=None):
            return [inputs[0].astype(np.float64)]

    function, resource = engine_function(name, three_times, SPEC)
    resources.cache_of(resource).put(Wide(fixed((3, 4))), ((3, 4),))
    with pytest.raises(tf.errors.InternalError, match="output 0 is float64, the graph expects"):
        function(tf.constant(ones(3, 4)))


def test_wrong_number_of_outputs_is_an_error(name):
    class Nothing(StandInEngine):
        def execute(self, inputs, allocate=None):
            return []

    function, resource = engine_function(name, three_times, SPEC)
    resources.cache_of(resource).put(Nothing(fixed((3, 4))), ((3, 4),))
    with pytest.raises(tf.errors.InternalError, match="got 0 output"):
        function(tf.constant(ones(3, 4)))


def test_unexpected_exception_reaches_the_caller_as_text(name):
    class Odd(StandInEngine):
        def execute(self, inputs, allocate=None):
            raise SystemExit("really odd")

    function, resource = engine_function(name, three_times, SPEC)
    resources.cache_of(resource).put(Odd(fixed((3, 4))), ((3, 4),))
    with pytest.raises(tf.errors.InternalError, match="SystemExit: really odd"):
        function(tf.constant(ones(3, 4)))
    assert first(function, ones(2, 4)).shape == (2, 4)  # and the process goes on


# -- node attributes ------------------------------------------------------------------------------


def test_settings_survive_the_node(name):
    settings = {
        "precision": "FP16",
        "implicit_batch": False,
        "profile_strategy": "range+optimal",
        "max_engines": 7,
        "workspace_bytes": 12345,
        "allow_build": False,
        "collect_profiles": True,
        "use_calibration": False,
        "calibration_data": b"table",
    }
    function, _ = engine_function(name, three_times, SPEC, scope="outer/", **settings)
    (node,) = [n for n in function.graph.as_graph_def().node if n.op == "TRTEngineOp"]
    assert settings_of(node) == EngineSettings(name, ((None, 4),), **settings)


def test_defaults_of_a_bare_node():
    node = tf.compat.v1.NodeDef(name="a/TRTEngineOp_000_000", op="TRTEngineOp")
    assert settings_of(node) == EngineSettings("TRTEngineOp_000_000")


def test_profile_generation_mode_collects(name):
    function, resource = engine_function(
        name, three_times, SPEC, implicit_batch=False, collect_profiles=True
    )
    np.testing.assert_array_equal(first(function, ones(3, 4)), 3 * ones(3, 4))
    first(function, ones(5, 4))
    assert resources.existing_cache(resource).collected == (((3, 4),), ((5, 4),))


def test_node_without_resource_attribute_uses_its_name(name):
    function, _ = engine_function(name, three_times, SPEC, resource=name, scope="some/where/")
    resources.cache_of(name).put(one_to_many(), ((4, 4),))
    np.testing.assert_array_equal(first(function, ones(3, 4)), BUILT * ones(3, 4))


# -- threads --------------------------------------------------------------------------------------


def test_many_threads_and_operations(name):
    function, resource = engine_function(name, three_times, SPEC, count=6)
    resources.cache_of(resource).put(one_to_many(), ((4, 4),))
    wrong = []

    def work(number):
        x = np.full((1 + number, 4), number + 1, np.float32)
        for _ in range(25):
            if not (first(function, x) == x * BUILT**6).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_dataset_maps_in_parallel(name):
    function, resource = engine_function(name, three_times, SPEC)
    resources.cache_of(resource).put(one_to_many(), ((4, 4),))
    data = tf.data.Dataset.range(64).map(
        lambda i: function(tf.fill([2, 4], tf.cast(i, tf.float32)))[0], num_parallel_calls=4
    )
    assert [float(y[0, 0]) for y in data] == [BUILT * i for i in range(64)]


def test_native_segments_run_in_many_threads(name):
    function, _ = engine_function(name, three_times, SPEC, count=3, allow_build=False)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(first(function, ones(2, 4))[0, 0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [27.0] * 8


# -- life of kernels and caches -------------------------------------------------------------------


def test_states_of_deleted_kernels_are_dropped(name):
    def use_and_forget(number):
        function, resource = engine_function(f"{name}_{number}", three_times, SPEC)
        resources.cache_of(resource).put(one_to_many(), ((4, 4),))
        first(function, ones(1, 4))
        resources.drop_cache(resource)

    use_and_forget(0)
    gc.collect()
    before = len(kernels.STATES)
    for number in range(1, 6):
        use_and_forget(number)
        gc.collect()
    assert len(kernels.STATES) <= before + 2


def test_cache_of_a_conversion_lives_until_it_is_dropped():
    resources.cache_of("held:1").put(one_to_many(), ((4, 4),))
    gc.collect()
    assert resources.existing_cache("held:1").engines
    resources.drop_cache("held:1")
    assert resources.existing_cache("held:1") is None


def test_name_without_digest_finds_the_only_cache():
    cache = resources.cache_of("lonely:1")
    assert resources.existing_cache("lonely") is cache
    resources.cache_of("lonely:2")
    assert resources.existing_cache("lonely") is None
    resources.drop_cache("lonely:1")
    resources.drop_cache("lonely:2")


def test_resource_name_depends_on_every_content():
    names = {
        resources.resource_name("e", *contents)
        for contents in [(b"a", b"b"), (b"ab",), (b"", b"ab"), (b"a", b"b", b"")]
    }
    assert len(names) == 4
    assert resources.resource_name("e", b"a") == resources.resource_name("e", b"a")
    assert isinstance(resources.cache_of("typed:1"), EngineCache)
    resources.drop_cache("typed:1")


# -- the functions of gen_trt_ops -----------------------------------------------------------------


def test_serializing_without_engines_is_not_found(tmp_path):
    register()
    with pytest.raises(tf.errors.NotFoundError, match="Resource TF-TRT/nobody does not exist"):
        resources.serialize_trt_resource("nobody", str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()


def test_serializing_with_delete_empties_the_cache(tmp_path):
    register()
    resources.cache_of("short:1").put(one_to_many(), ((4, 4),))
    resources.serialize_trt_resource("short:1", str(tmp_path / "file"), delete_resource=True)
    assert (tmp_path / "file").stat().st_size > 0
    assert resources.existing_cache("short:1") is None


def test_serializing_without_engines_of_this_machine_writes_an_empty_file(tmp_path):
    register()
    resources.cache_of("empty:1").put(one_to_many(), ((4, 4),))
    path = str(tmp_path / "file")
    resources.serialize_trt_resource("empty:1", path, True, save_gpu_specific_engines=False)
    assert os.path.getsize(path) == 0


def test_calibration_data_comes_back():
    register()
    resources.cache_of("table:1").calibration_data = b"TRT-8600-EntropyCalibration2\nx: 3f800000\n"
    data = resources.get_calibration_data_op("table:1").numpy()
    assert data == b"TRT-8600-EntropyCalibration2\nx: 3f800000\n"
    with pytest.raises(tf.errors.NotFoundError, match="does not exist"):
        resources.get_calibration_data_op("nobody")
    resources.drop_cache("table:1")


def test_file_of_other_engines_is_reported_and_left_out(tmp_path, caplog):
    register()
    resources.cache_of("theirs:1").put(one_to_many(), ((4, 4),))  # bytes that are no .plan
    path = str(tmp_path / "trt-serialized-engine.theirs")
    resources.serialize_trt_resource("theirs:1", path, delete_resource=True)
    handle = resources.create_trt_resource_handle("theirs:1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resources.initialize_trt_resource(handle, path, 2)
    assert "cannot be used, it is built again when needed" in caplog.text
    resources.serialize_trt_resource("theirs:1", "", delete_resource=True)
    gc.collect()
    assert resources.existing_cache("theirs:1") is None


def test_missing_file_is_an_error_of_tensorflow(tmp_path):
    register()
    handle = resources.create_trt_resource_handle("gone:1")
    with pytest.raises(tf.errors.OpError, match="cannot read the engines"):
        resources.initialize_trt_resource(handle, str(tmp_path / "gone"), 1)
