"""Keras `fit` from memory. `keras_fit.py WORK STEPS_PER_EXECUTION JIT [MIRRORED_DEVICES [POLICY]]`."""

import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from common import BATCH, load_data, serve

work, steps_per_execution, jit = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "jit"
devices = int(sys.argv[4]) if len(sys.argv) > 4 else 0
if devices:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * devices
    )
keras.mixed_precision.set_global_policy(sys.argv[5] if len(sys.argv) > 5 else "float32")
images, labels = load_data()
images = images.astype("float32") / 255


def build():
    layers = keras.layers
    if work == "lenet":
        body = [
            *(layer for filters in (32, 64) for layer in (
                layers.Conv2D(filters, 5, padding="same", activation="relu"), layers.MaxPooling2D(2)
            )),
            layers.Flatten(), layers.Dense(512, activation="relu"),
        ]  # fmt: skip
        optimizer = keras.optimizers.Adam(0.001)
    else:
        body = [layers.Flatten(), layers.Dense(500, activation="relu")]
        optimizer = keras.optimizers.SGD(0.1)
    model = keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(10, dtype="float32")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, steps_per_execution=steps_per_execution, jit_compile=jit)
    return model


if devices:
    with tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)]).scope():
        model = build()
else:
    model = build()
rate = 5.0  # steps a second, for the first window


def train(seconds: float) -> int:
    """Fits as many steps as fit into the time, by the speed of the window before."""
    global rate
    total, begin = 0, time.perf_counter()
    while not total or time.perf_counter() - begin < 0.8 * seconds:
        left = seconds - (time.perf_counter() - begin)
        steps = max(steps_per_execution, int(rate * left) // steps_per_execution * steps_per_execution)
        steps = min(steps, len(labels) // BATCH // steps_per_execution * steps_per_execution)
        start = time.perf_counter()
        model.fit(images[: steps * BATCH], labels[: steps * BATCH], batch_size=BATCH, verbose=0)
        rate = steps / (time.perf_counter() - start)
        total += steps
    return total


train(3.0)  # Traces and compiles.
serve(train)
