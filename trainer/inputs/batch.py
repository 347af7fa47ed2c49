"""What every input gives, and the one parser of records in the graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from trainer.tf1 import tf


class Batch(NamedTuple):
    """The images of one step, over all towers."""

    images: tf.Tensor  # uint8 [batch, height, width, depth]
    labels: tf.Tensor  # int32 [batch]


class Input(NamedTuple):
    """A source of batches in a graph."""

    batch: Batch
    fill: tf.Tensor | None = None  # float32 [], the fraction of the input queue that holds batches
    # Called once, before the queue runners; returns the threads that it has started.
    start: Callable[[tf.Session, tf.train.Coordinator], list[threading.Thread]] | None = None
    queues: tuple[tf.QueueBase, ...] = ()  # those that such a thread fills


def parse_examples(serialized: tf.Tensor, *, image_shape: tuple[int, int, int], num_classes: int) -> Batch:
    """Parses serialized Examples (string [n]) at once; fails on a wrong image size or a label out of range.

    Args:
      serialized: string [n].
      image_shape: height, width, depth.
      num_classes: labels are 0 <= label < num_classes.
    """
    features = {"label": tf.FixedLenFeature([], tf.int64), "image_raw": tf.FixedLenFeature([], tf.string)}
    parsed = tf.io.parse_example(serialized, features)
    images = tf.reshape(tf.decode_raw(parsed["image_raw"], tf.uint8), [tf.shape(serialized)[0], *image_shape])
    labels = parsed["label"]
    legal = tf.reduce_all((labels >= 0) & (labels < num_classes))
    with tf.control_dependencies([tf.Assert(legal, ["a label is out of range", labels])]):
        labels = tf.cast(labels, tf.int32)
    return Batch(images, labels)
