"""TensorFlow 1's interfaces: a GraphDef in, a GraphDef out; what is refused, and with what text."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from planish.errors import ConfigError  # noqa: E402
from planish.frontends.tensorflow import trt_convert as trt  # noqa: E402
from tests.frontends.tensorflow.saved_models import weights  # noqa: E402


def frozen_graph():
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], name="x")
        tf.identity(tf.nn.relu(x @ weights(8, 4) + 1.0) * 2.0, name="y")
    return graph.as_graph_def()


def test_a_graph_def_gets_engine_operations_and_runs():
    converted = trt.create_inference_graph(frozen_graph(), ["y"], max_batch_size=4)
    assert [node.op for node in converted.node].count("TRTEngineOp") == 1
    x = weights(3, 8)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(converted, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            got = session.run("y:0", {"x:0": x})
    np.testing.assert_allclose(got, np.maximum(x @ weights(8, 4) + 1, 0) * 2, atol=1e-5)


def test_what_create_inference_graph_refuses():
    with pytest.raises(ConfigError, match="converts a GraphDef, not a SavedModel"):
        trt.create_inference_graph(None, None, input_saved_model_dir="model")
    with pytest.raises(ValueError, match="outputs is empty"):
        trt.create_inference_graph(frozen_graph(), [])
    with pytest.raises(ValueError, match="precision mode 'X' is not supported"):
        trt.create_inference_graph(frozen_graph(), ["y"], precision_mode="X")


def test_the_converter_of_tensorflow_1_points_to_the_other():
    with pytest.raises(RuntimeError, match=r"Please use tf\.experimental\.tensorrt\.Converter"):
        trt.TrtGraphConverter(input_saved_model_dir="model")
    with tf.Graph().as_default(), pytest.raises(ConfigError, match="TensorFlow 1's sessions"):
        trt.TrtGraphConverter(input_saved_model_dir="model")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_rewriter_config_is_refused_after_tensorflows_checks():
    params = trt.DEFAULT_TRT_CONVERSION_PARAMS
    with pytest.raises(ValueError, match="is_dynamic_op can't be None for TF1"):
        trt.get_tensorrt_rewriter_config(params)
    with pytest.raises(ValueError, match="is_dynamic_op is either None or True for TF2"):
        trt.get_tensorrt_rewriter_config(params, is_dynamic_op=False, is_v2=True)
    with pytest.raises(ValueError, match="max_batch_size has to be None"):
        trt.get_tensorrt_rewriter_config(params, is_dynamic_op=True, max_batch_size=8)
    with pytest.raises(ValueError, match="max_batch_size has to be an integer"):
        trt.get_tensorrt_rewriter_config(params, is_dynamic_op=False)
    with pytest.raises(ConfigError, match="no TensorRTOptimizer"):
        trt.get_tensorrt_rewriter_config(params, is_dynamic_op=True)
