"""A script as TF-TRT's users have it: nothing here knows of Planish.

python user_flow.py MODEL OUTPUT INPUTS.npz (x and the expected y)
"""

import sys

import numpy as np
import tensorflow as tf
from tensorflow.python.compiler.tensorrt import trt_convert as trt

model, output, data = sys.argv[1:4]
inputs = np.load(data)
params = trt.DEFAULT_TRT_CONVERSION_PARAMS._replace(
    precision_mode=trt.TrtPrecisionMode.FP32, max_workspace_size_bytes=8000000000
)
converter = trt.TrtGraphConverterV2(input_saved_model_dir=model, conversion_params=params)
converter.convert()
converter.build(input_fn=lambda: iter([(inputs["x"],)]))
converter.summary()
converter.save(output_saved_model_dir=output)
assert tf.experimental.tensorrt.Converter is trt.TrtGraphConverterV2
print("CONVERTED", tf.__version__)
