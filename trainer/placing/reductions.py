"""Means over towers."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.placing.devices import Placement
from trainer.tf1 import tf


def tower_mean(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Averages tensors of one shape, one from each tower; of one tower it is that tensor itself."""
    if len(tensors) == 1:
        return tensors[0]
    return tower_sum(tensors) * (1 / len(tensors))


def tower_sum(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Adds tensors of one shape in the order given, to the bit, whatever else reads them.

    AddN begins with the first of its inputs whose memory nobody else holds, and writes its sum there: of three or more,
    the last bit would follow from which of their other readers have ended by then. Nobody else holds a Snapshot's.
    """
    first, *others = tensors
    if len(tensors) == 2:
        return first + others[0]  # The same in either order, and without a copy.
    return tf.add_n([tf.raw_ops.Snapshot(input=first), *others])


def average_gradients(
    tower_gradients: Sequence[Sequence[tf.Tensor]],
    parameter_device: Placement,
    *,
    tower_devices: Sequence[str] = (),
    bucket_bytes: int = 0,
) -> list[tf.Tensor]:
    """Averages each variable's gradients over the towers, where the variable lives.

    Args:
      tower_gradients: of each tower, the gradient of each variable.
      parameter_device: of the variables.
      tower_devices: where buckets are packed.
      bucket_bytes: gradients are copied together, up to so many bytes; 0: each by itself.
    """
    if len(tower_gradients) == 1:
        return list(tower_gradients[0])
    if bucket_bytes:
        return _average_buckets(tower_gradients, parameter_device, tower_devices, bucket_bytes)
    with tf.device(parameter_device), tf.name_scope("average_gradients"):
        return [tower_mean(gradients) for gradients in zip(*tower_gradients, strict=True)]


def split_into_buckets(sizes: Sequence[int], largest: int) -> list[list[int]]:
    """Groups neighbours (their indices) whose sizes add up to `largest` at most; a larger one is alone."""
    buckets: list[list[int]] = []
    room = 0
    for index, size in enumerate(sizes):
        if not buckets or size > room:
            buckets.append([])
            room = largest
        buckets[-1].append(index)
        room -= size
    return buckets


def _average_buckets(
    tower_gradients: Sequence[Sequence[tf.Tensor]],
    parameter_device: Placement,
    tower_devices: Sequence[str],
    bucket_bytes: int,
) -> list[tf.Tensor]:
    shapes = [gradient.shape for gradient in tower_gradients[0]]
    sizes = [int(gradient.shape.num_elements()) * gradient.dtype.size for gradient in tower_gradients[0]]
    means = []
    for bucket in split_into_buckets(sizes, bucket_bytes):
        packed = []
        for gradients, device in zip(tower_gradients, tower_devices, strict=True):
            with tf.device(device), tf.name_scope("pack_gradients"):
                packed.append(tf.concat([tf.reshape(gradients[index], [-1]) for index in bucket], 0))
        with tf.device(parameter_device), tf.name_scope("average_gradients"):
            parts = tf.split(tower_mean(packed), [int(shapes[index].num_elements()) for index in bucket])
            means += [tf.reshape(part, shapes[index]) for part, index in zip(parts, bucket, strict=True)]
    return means
