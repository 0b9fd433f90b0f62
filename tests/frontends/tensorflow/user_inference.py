"""The other half: loads the converted model in a new process and runs it.

python user_inference.py OUTPUT INPUTS.npz (x and the expected y)
"""

import sys

import numpy as np
import tensorflow as tf

data = np.load(sys.argv[2])
model = tf.saved_model.load(sys.argv[1], tags=["serve"])
infer = model.signatures["serving_default"]
key = next(iter(infer.structured_outputs))
prediction = infer(tf.constant(data["x"]))
print("ERROR", float(np.abs(prediction[key].numpy() - data["y"]).max()))
