"""Means over towers."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.tf1 import tf


def tower_mean(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Means tensors of one shape, one from each tower; of one tower it is that tensor itself."""
    if len(tensors) == 1:
        return tensors[0]
    return tf.add_n(list(tensors)) * (1 / len(tensors))


def average_gradients(tower_gradients: Sequence[Sequence[tf.Tensor]], parameter_device: str) -> list[tf.Tensor]:
    """Means each variable's gradients over the towers, where the variable lives.

    Args:
      tower_gradients: of each tower, the gradient of each variable.
      parameter_device: of the variables.
    """
    with tf.device(parameter_device), tf.name_scope("average_gradients"):
        return [tower_mean(gradients) for gradients in zip(*tower_gradients, strict=True)]
