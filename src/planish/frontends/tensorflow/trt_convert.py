"""The names of ``tensorflow.python.compiler.tensorrt.trt_convert``, on Planish's engines.

Importing this module also registers the engine operation, so that converted models load.
"""

from __future__ import annotations

from planish.frontends.tensorflow.converter import TrtGraphConverterV2
from planish.frontends.tensorflow.graph_converter import (
    TrtGraphConverter,
    create_inference_graph,
    get_tensorrt_rewriter_config,
)
from planish.frontends.tensorflow.parameters import (
    DEFAULT_TRT_CONVERSION_PARAMS,
    DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES,
    PROFILE_STRATEGY_IMPLICIT_BATCH_MODE_COMPATIBLE,
    PROFILE_STRATEGY_OPTIMAL,
    PROFILE_STRATEGY_RANGE,
    PROFILE_STRATEGY_RANGE_OPTIMAL,
    TrtConversionParams,
    TrtPrecisionMode,
    supported_profile_strategies,
)
from planish.frontends.tensorflow.registration import register

# TensorFlow 2.x also exports them as tf.experimental.tensorrt.Converter and ConversionParams
Converter = TrtGraphConverterV2
ConversionParams = TrtConversionParams

__all__ = [
    "DEFAULT_TRT_CONVERSION_PARAMS",
    "DEFAULT_TRT_MAX_WORKSPACE_SIZE_BYTES",
    "PROFILE_STRATEGY_IMPLICIT_BATCH_MODE_COMPATIBLE",
    "PROFILE_STRATEGY_OPTIMAL",
    "PROFILE_STRATEGY_RANGE",
    "PROFILE_STRATEGY_RANGE_OPTIMAL",
    "ConversionParams",
    "Converter",
    "TrtConversionParams",
    "TrtGraphConverter",
    "TrtGraphConverterV2",
    "TrtPrecisionMode",
    "create_inference_graph",
    "get_tensorrt_rewriter_config",
    "supported_profile_strategies",
]

register()
