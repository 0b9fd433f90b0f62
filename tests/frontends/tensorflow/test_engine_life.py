"""Converted models that come and go: SavedModels with engines, in this process and in new ones."""

import gc
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow")

from tensorflow.python.eager import context  # noqa: E402

from planish.frontends.tensorflow import kernels, resources  # noqa: E402
from planish.frontends.tensorflow.saving import engine_resource  # noqa: E402
from tests.frontends.tensorflow.engine_models import engine_function  # noqa: E402

NAME = "TRTEngineOp_000_000"
ROOT = Path(__file__).parents[3]
X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)
EXPECTED = np.maximum(X @ WEIGHTS, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a SavedModel with one engine; it allows no build at run time."""
    folder = tmp_path_factory.mktemp("model")

    def segment(x):
        return tf.nn.relu(tf.matmul(x, WEIGHTS))

    specs = [tf.TensorSpec([None, 8], tf.float32)]
    builder, resource = engine_function(NAME, segment, specs)
    builder(tf.constant(X))
    assert resources.existing_cache(resource).engines
    asset = str(folder / f"trt-serialized-engine.{NAME}")
    resources.serialize_trt_resource(resource, asset, delete_resource=True)
    function, same = engine_function(NAME, segment, specs, resource=resource, allow_build=False)
    root = tf.Module()
    root.trt_engine_resources = {NAME: engine_resource(same, asset, 1)}
    tf.saved_model.save(root, str(folder / "saved"), signatures={"serving_default": function})
    os.remove(asset)
    return folder / "saved"


@pytest.fixture
def forbid_native(monkeypatch):
    monkeypatch.setenv("TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION", "false")


def run(signature):
    return next(iter(signature(tf.constant(X)).values())).numpy()


def check(result):
    np.testing.assert_allclose(result, EXPECTED, rtol=1e-5, atol=1e-5)


def test_asset_has_nvidias_name(model):
    assert os.listdir(model / "assets") == [f"trt-serialized-engine.{NAME}"]


def test_loaded_model_runs_its_engine(model, forbid_native):
    loaded = tf.saved_model.load(str(model))
    check(run(loaded.signatures["serving_default"]))
    shape = loaded.signatures["serving_default"].structured_outputs
    assert [spec.shape.as_list() for spec in shape.values()] == [[None, 16]]


def test_function_outlives_its_model(model, forbid_native):
    signature = tf.saved_model.load(str(model)).signatures["serving_default"]
    gc.collect()
    check(run(signature))
    check(run(signature))


def test_function_of_a_deleted_folder_runs_natively(model, tmp_path, caplog):
    copy = shutil.copytree(model, tmp_path / "copy")
    signature = tf.saved_model.load(str(copy)).signatures["serving_default"]
    gc.collect()
    shutil.rmtree(copy)
    check(run(signature))
    assert "its engines cannot be read again" in caplog.text


def test_two_loads_share_the_engine_until_the_last_is_gone(model, forbid_native):
    first, second = (tf.saved_model.load(str(model)) for _ in range(2))
    check(run(first.signatures["serving_default"]))
    cache = resources.existing_cache(NAME)
    assert len(cache.engines) == 1
    del first
    gc.collect()
    assert len(cache.engines) == 1
    check(run(second.signatures["serving_default"]))
    del second
    gc.collect()
    assert cache.engines == ()


def test_nothing_is_left_of_unloaded_models(model, forbid_native):
    def once():
        check(run(tf.saved_model.load(str(model)).signatures["serving_default"]))
        gc.collect()

    once()
    functions = len(context.context().list_function_names())
    states = len(kernels.STATES)
    for _ in range(5):
        once()
    assert len(context.context().list_function_names()) == functions
    assert len(kernels.STATES) <= states


def test_damaged_asset_is_an_error_that_names_it(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    asset = copy / "assets" / f"trt-serialized-engine.{NAME}"
    data = bytearray(asset.read_bytes())
    data[len(data) // 2] ^= 1
    asset.write_bytes(data)
    with pytest.raises(tf.errors.OpError, match="the file of engines is damaged"):
        tf.saved_model.load(str(copy))


def test_engine_of_tensorrt_is_left_out_and_the_segment_runs(model, tmp_path, caplog):
    copy = shutil.copytree(model, tmp_path / "copy")
    asset = str(copy / "assets" / f"trt-serialized-engine.{NAME}")
    with tf.io.TFRecordWriter(asset) as writer:
        writer.write(b"\x12\x08ftrt....")  # only field 2, as NVIDIA writes it
    loaded = tf.saved_model.load(str(copy))
    check(run(loaded.signatures["serving_default"]))
    assert "cannot be used, it is built again when needed" in caplog.text


def run_python(text, *arguments, environment=()):
    """Run a script in a new process; return what it prints. It must end by itself."""
    folders = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": folders, **dict(environment)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_new_process_with_one_thread_of_tensorflow_then_exit_in_the_middle(model):
    """Kernels in many threads on an inter-op pool of one; then a data set that still runs."""
    output = run_python(
        """
        import sys, threading
        import numpy as np, tensorflow as tf
        tf.config.threading.set_inter_op_parallelism_threads(1)
        from planish.frontends.tensorflow.registration import register
        register()
        from planish.frontends.tensorflow import resources
        f = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
        x = tf.ones([3, 8])
        def work(shape):
            for _ in range(20):
                f(tf.ones(shape))
        shapes = [[3, 8], [5, 8], [40, 8], [1, 8]] * 2  # 40 is too large: native
        threads = [threading.Thread(target=work, args=(shape,)) for shape in shapes]
        [t.start() for t in threads]
        [t.join() for t in threads]
        data = tf.data.Dataset.range(10**9).map(
            lambda i: f(tf.fill([2, 8], tf.cast(i, tf.float32))), num_parallel_calls=4
        ).prefetch(100)
        iterator = iter(data)
        for _ in range(50):
            next(iterator)
        print("fine", len(resources.existing_cache("TRTEngineOp_000_000").engines), flush=True)
        """,
        model,
    )
    assert output == "fine 1\n"


@pytest.mark.slow
def test_memory_does_not_grow_over_many_loads(model, forbid_native):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def load(count):
        for _ in range(count):
            check(run(tf.saved_model.load(str(model)).signatures["serving_default"]))
            gc.collect()

    load(30)
    before = resident()
    load(120)
    assert resident() - before < 10e6
