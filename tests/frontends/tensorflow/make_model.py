"""Makes a SavedModel and its inputs with the TensorFlow and Keras at hand.

python make_model.py OUTPUT INPUTS.npz
"""

import sys

import keras
import numpy as np

layers = keras.layers
keras.utils.set_random_seed(1)
image = keras.Input([16, 16, 3])
x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(image)))
x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", activation="relu")(x)])
result = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x))
model = keras.Model(image, result)
model.export(sys.argv[1])
data = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
np.savez(sys.argv[2], x=data, y=np.asarray(model(data, training=False)))
