"""What every input gives, and records to batches in the graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from trainer.data.layout import Layout
from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.tf1 import tf

# The features of a batch by name, each [batch, ...]: those of the data set, and in training RECORD.
Features = Mapping[str, tf.Tensor]
# int64 [batch], which record of which epoch each example is: epoch * records of the set + its number in the manifest.
RECORD = "record"


class Input(NamedTuple):
    """A source of batches in a graph."""

    batch: Features  # of a step
    build_batch: Callable[[], Features]  # adds operations that take one more, as in the loop over steps
    fill: tf.Tensor | None = None  # float32 [], the fraction of the input queue that holds batches
    # Called once, before the queue runners; returns the threads that it has started.
    start: Callable[[tf.Session, tf.train.Coordinator], list[threading.Thread]] | None = None
    queues: tuple[tf.QueueBase, ...] = ()  # those that such a thread fills


def make_input(build_batch: Callable[[], Features], *rest: Any, **more: Any) -> Input:
    """Makes an input whose batches all come the same way, on the host.

    Args:
      build_batch: adds operations that take a batch.
      rest: the fields of `Input` that follow.
      more: the same by name.
    """

    def on_host() -> Features:
        with tf.device("/cpu:0"), tf.name_scope("input"):
            return build_batch()

    return Input(build_batch(), on_host, *rest, **more)


def batch_feature_shapes(
    spec: DatasetSpec, size: int, image_shape: tuple[int, int, int], image_dtype: tf.DType = tf.uint8
) -> dict[str, tuple[tf.DType, list[int]]]:
    """Lists the features of a training batch of a size, in the order of their names: type and shape.

    Args:
      spec: of the data set.
      size: of the batch.
      image_shape: of its images, height, width, depth.
      image_dtype: of them.
    """
    shapes: dict[str, Any] = {
        name: (tf.as_dtype(found.dtype), [size, *found.shape]) for name, found in spec.features.items()
    }
    shapes[IMAGE] = (image_dtype, [size, *image_shape])
    return dict(sorted({**shapes, RECORD: (tf.int64, [size])}.items()))


def slice_frames(frames: tf.Tensor, layout: Layout, spec: DatasetSpec) -> Features:
    """Slices images and labels out of frames (uint8 [n, frame_bytes]) at once; fails where a frame has another layout.

    Args:
      frames: of records that have all been checked.
      layout: of the frames.
      spec: of the data set.
    """
    same = [
        tf.reduce_all(tf.equal(frames[:, offset : offset + len(value)], np.frombuffer(value, np.uint8)))
        for offset, value in layout.constant
    ]
    message = "a shard is not what it was when the run began"
    with tf.control_dependencies([tf.Assert(tf.reduce_all(same), [message])]):
        images = frames[:, layout.image : layout.image + spec.image_bytes]
        labels = tf.cast(frames[:, layout.label], tf.int32)
        return {IMAGE: tf.reshape(images, [-1, *spec.image_shape]), LABEL: labels}
