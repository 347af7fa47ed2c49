"""Keras by the recipe of configs/mnist_lenet_quick.flags. `keras_recipe.py float32|mixed_bfloat16`; prints accuracy."""

import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from common import load_data
from recipe import BATCH, DROPOUT, EPOCHS, RATE, WARMUP

keras.utils.set_random_seed(1)
keras.mixed_precision.set_global_policy(sys.argv[1])
layers = keras.layers
images, labels = load_data()
with np.load(os.environ["PEERS_TEST"]) as data:
    test_images, test_labels = data["images"], data["labels"]
steps = EPOCHS * -(-len(labels) // BATCH)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        *(
            layer
            for filters in (32, 64)
            for layer in (layers.Conv2D(filters, 5, padding="same", activation="relu"), layers.MaxPooling2D(2))
        ),
        layers.Flatten(),
        layers.Dense(512, activation="relu"),
        layers.Dropout(DROPOUT),
        layers.Dense(10, dtype="float32"),
    ]
)
model.compile(
    keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.0, steps - WARMUP, warmup_target=RATE, warmup_steps=WARMUP)
    ),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    steps_per_execution=50,
    jit_compile=False,
)
scaled = [array.astype("float32") / 255 for array in (images, test_images)]
model.fit(scaled[0], labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)
print("ACCURACY", model.evaluate(scaled[1], test_labels, batch_size=1000, verbose=0)[1], flush=True)
