"""The preloaded input: the whole training set in two variables, a step gathers its images from them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from trainer.data.spec import IMAGE, LABEL
from trainer.inputs.batch import RECORD, Features, Input, make_input
from trainer.tf1 import tf


def build(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int, shard: slice, position: tf.Variable, seed: int
) -> Input:
    """Builds batches that read every example once an epoch, in an order that follows from seed and position alone.

    Args:
      images: uint8 or float32 [n, height, width, depth].
      labels: of each, as batches have them.
      batch_size: images of a step.
      shard: of each batch, that comes out.
      position: int64 [], examples that earlier steps have consumed.
      seed: of the order.
    """
    stored, fillers = zip(*(store(name, array) for name, array in ((IMAGE, images), (LABEL, labels))), strict=True)

    def build_batch() -> Features:
        positions = position.read_value() + np.arange(batch_size, dtype=np.int64)[shard]
        epochs = positions // len(labels)
        seeds = tf.stack([tf.fill(positions.shape, np.int64(seed)), epochs, tf.zeros_like(epochs)], axis=1)
        # A permutation of each epoch that is computed element by element, never as a whole. The raw operation,
        # because `tf.random.experimental.index_shuffle` refuses a seed for each element.
        last = np.int64(len(labels) - 1)
        chosen = tf.raw_ops.RandomIndexShuffle(index=positions % len(labels), seed=seeds, max_index=last)
        gathered = [tf.gather(variable, chosen) for variable in stored]
        return {IMAGE: gathered[0], LABEL: gathered[1], RECORD: epochs * len(labels) + chosen}

    def start(session: tf.Session, _: tf.train.Coordinator) -> list[threading.Thread]:
        for fill, array in zip(fillers, (images, labels), strict=True):
            fill(session, array)
        return []

    return make_input(build_batch, start=start)


def store(name: str, array: np.ndarray) -> tuple[tf.Variable, Callable[[tf.Session, np.ndarray], None]]:
    """Makes a variable for an array, and what fills it."""
    # Filled through a placeholder: as a constant the set would be part of the graph, which may hold 2 GiB.
    placeholder = tf.placeholder(array.dtype, array.shape)
    variable = tf.get_variable(f"preloaded_{name}", initializer=placeholder, trainable=False, collections=[])

    def fill(session: tf.Session, value: np.ndarray) -> None:
        session.run(variable.initializer, {placeholder: value})

    return variable, fill
