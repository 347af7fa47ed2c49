"""Keras under MultiWorkerMirroredStrategy, a process for each worker: `keras_workers.py WORK STEPS INDEX COUNT PORT`.

Each takes its part of every batch from memory; the first prints images a second over all.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from common import BATCH, load_data

work, (steps, index, count, port) = sys.argv[1], map(int, sys.argv[2:6])
workers = [f"127.0.0.1:{port + number}" for number in range(count)]
os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})

strategy = tf.distribute.MultiWorkerMirroredStrategy()
images, labels = load_data()
layers = keras.layers
with strategy.scope():
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
    model = keras.Sequential([keras.Input((28, 28, 1)), *body, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
data = tf.data.Dataset.from_tensor_slices((images.astype("float32") / 255, labels)).repeat().batch(BATCH)
data = data.prefetch(4).with_options(options)
warmup = max(10, steps // 10)
marks = {}


class Clock(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        marks[batch + 1] = time.perf_counter()


model.fit(data, steps_per_epoch=warmup + steps, epochs=1, verbose=0, callbacks=[Clock()])
if not index:
    print("SPEED", steps * BATCH / (marks[warmup + steps] - marks[warmup]), flush=True)
