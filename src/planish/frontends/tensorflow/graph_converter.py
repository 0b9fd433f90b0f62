"""TF-TRT's interfaces for TensorFlow 1: a GraphDef in, a GraphDef with engine operations out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from planish.errors import ConfigError
from planish.frontends.tensorflow import environment, parameters
from planish.frontends.tensorflow.engine_rules import EngineSettings
from planish.frontends.tensorflow.graph_view import GraphView
from planish.frontends.tensorflow.library import tensorflow
from planish.frontends.tensorflow.parameters import TrtConversionParams, TrtPrecisionMode
from planish.frontends.tensorflow.registration import register
from planish.frontends.tensorflow.rewriting import (
    engine_names,
    place_engine,
    shape_of,
    with_engines,
)
from planish.frontends.tensorflow.survey import survey

_REMEDY = (
    "use TrtGraphConverterV2, which also reads SavedModels of TensorFlow 1, or "
    "create_inference_graph for a frozen GraphDef"
)


def create_inference_graph(
    input_graph_def: Any,
    outputs: Sequence[Any] | None,
    max_batch_size: int = 1,
    max_workspace_size_bytes: int = parameters.DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES,
    precision_mode: str = TrtPrecisionMode.FP32,
    minimum_segment_size: int = 3,
    is_dynamic_op: bool = False,
    maximum_cached_engines: int = 1,
    input_saved_model_dir: Any = None,
    input_saved_model_tags: Any = None,
    input_saved_model_signature_key: Any = None,
    output_saved_model_dir: Any = None,
) -> Any:
    """Return a frozen GraphDef with engine operations; engines are built when it first runs.

    Parameters
    ----------
    input_graph_def : GraphDef
        Frozen: without variables.
    outputs : sequence of str or tf.Tensor
        Nodes or tensors that will be fetched.
    max_batch_size, is_dynamic_op
        Ignored: engines serve a range of batch sizes.
    max_workspace_size_bytes, precision_mode, minimum_segment_size, maximum_cached_engines
        See `TrtConversionParams`.
    input_saved_model_dir, input_saved_model_tags, input_saved_model_signature_key, \
output_saved_model_dir
        Refused: SavedModels are `TrtGraphConverterV2`'s.

    Raises
    ------
    ConfigError
        When a SavedModel is given, or no GraphDef.
    ValueError
        For a wrong value.
    """
    if input_graph_def is None or input_saved_model_dir or output_saved_model_dir:
        raise ConfigError(
            "create_inference_graph converts a GraphDef, not a SavedModel",
            where="input_saved_model_dir",
            fix=_REMEDY,
        )
    if not outputs:
        raise ValueError("outputs is empty: name the nodes that will be fetched")
    given = TrtConversionParams(
        max_workspace_size_bytes=max_workspace_size_bytes,
        precision_mode=precision_mode,
        minimum_segment_size=minimum_segment_size,
        maximum_cached_engines=maximum_cached_engines,
        use_calibration=False,
    )
    parameters.check_conversion_params(given)
    register()
    graph_def = tensorflow().compat.v1.GraphDef()
    graph_def.CopyFrom(input_graph_def)
    view = GraphView.of(graph_def)
    fetched = [_tensor_name(output) for output in outputs]
    fed = [f"{node.name}:0" for node in graph_def.node if node.op == "Placeholder"]
    found = survey(view, fed, fetched, minimum_segment_size, environment.max_engines())
    engines = {}
    for name, segment in zip(engine_names(len(found.segments)), found.segments, strict=True):
        settings = EngineSettings(
            name,
            tuple(shape_of(view.tensor(tensor)) for tensor in segment.inputs),
            precision=precision_mode.upper(),
            max_engines=maximum_cached_engines,
            workspace_bytes=max_workspace_size_bytes,
            use_calibration=False,
        )
        engines[name] = place_engine(settings, segment)
    return with_engines(view, engines, fetched)


def _tensor_name(output: Any) -> str:
    name = str(getattr(output, "name", output))
    return name if ":" in name else f"{name}:0"


class TrtGraphConverter:
    """TensorFlow 1's converter, which keeps a session; it is refused with what to use instead."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        if tensorflow().executing_eagerly():
            raise RuntimeError("Please use tf.experimental.tensorrt.Converter in TF 2.0.")
        raise ConfigError(
            "TrtGraphConverter needs TensorFlow 1's sessions and is not available",
            where="TrtGraphConverter",
            fix=_REMEDY,
        )


def get_tensorrt_rewriter_config(
    conversion_params: Any,
    is_dynamic_op: bool | None = None,
    max_batch_size: int | None = None,
    is_v2: bool = False,
    disable_non_trt_optimizers: bool = False,
) -> NoReturn:
    """Refuse to convert while a session runs, after TF-TRT's checks of the parameters.

    Raises
    ------
    ValueError
        For a wrong value, with TF-TRT's text.
    ConfigError
        Always, otherwise: Grappler has no TensorRTOptimizer.
    """
    warnings.warn(
        "You shouldn't need a rewriter_config with the current TF-TRT APIs.",
        DeprecationWarning,
        stacklevel=2,
    )
    parameters.check_conversion_params(conversion_params)
    if is_v2 and is_dynamic_op is not None and not is_dynamic_op:
        raise ValueError("is_dynamic_op is either None or True for TF2")
    if not is_v2 and is_dynamic_op is None:
        raise ValueError("is_dynamic_op can't be None for TF1")
    if is_dynamic_op in (None, True) and max_batch_size is not None:
        raise ValueError(
            "max_batch_size has to be None for TF2 or when is_dynamic_op == True in TF1"
        )
    if is_dynamic_op is False and not isinstance(max_batch_size, int):
        raise ValueError("max_batch_size has to be an integer for is_dynamic_op==False in TF1")
    raise ConfigError(
        "graphs are not converted while a session runs: Grappler has no TensorRTOptimizer",
        where="get_tensorrt_rewriter_config",
        fix=_REMEDY,
    )
