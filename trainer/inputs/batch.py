"""What every input gives, and records to batches in the graph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from trainer.data.layout import Layout
from trainer.tf1 import tf


class Batch(NamedTuple):
    """The images of one step, over all towers."""

    images: tf.Tensor  # uint8 [batch, height, width, depth]
    labels: tf.Tensor  # int32 [batch]


class Input(NamedTuple):
    """A source of batches in a graph."""

    batch: Batch  # of a step
    build_batch: Callable[[], Batch]  # adds operations that take one more, as in the loop over steps
    fill: tf.Tensor | None = None  # float32 [], the fraction of the input queue that holds batches
    # Called once, before the queue runners; returns the threads that it has started.
    start: Callable[[tf.Session, tf.train.Coordinator], list[threading.Thread]] | None = None
    queues: tuple[tf.QueueBase, ...] = ()  # those that such a thread fills


def make_input(build_batch: Callable[[], Batch], *rest: Any, **more: Any) -> Input:
    """Makes an input whose batches all come the same way, on the host.

    Args:
      build_batch: adds operations that take a batch.
      rest: the fields of `Input` that follow.
      more: the same by name.
    """

    def on_host() -> Batch:
        with tf.device("/cpu:0"), tf.name_scope("input"):
            return build_batch()

    return Input(build_batch(), on_host, *rest, **more)


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


def slice_frames(frames: tf.Tensor, layout: Layout, *, image_shape: tuple[int, int, int]) -> Batch:
    """Cuts images and labels out of frames (uint8 [n, frame_bytes]) at once; fails where a frame has another layout.

    Args:
      frames: of records that have all been checked.
      layout: of the frames.
      image_shape: height, width, depth.
    """
    height, width, depth = image_shape
    same = [
        tf.reduce_all(tf.equal(frames[:, offset : offset + len(value)], np.frombuffer(value, np.uint8)))
        for offset, value in layout.constant
    ]
    message = "a shard is not what it was when the run began"
    with tf.control_dependencies([tf.Assert(tf.reduce_all(same), [message])]):
        images = frames[:, layout.image : layout.image + height * width * depth]
        return Batch(tf.reshape(images, [-1, *image_shape]), tf.cast(frames[:, layout.label], tf.int32))
