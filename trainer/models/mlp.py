"""A multilayer perceptron: hidden layers of ReLU units, and logits."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.models import layers
from trainer.tf1 import tf


def build(
    images: tf.Tensor,
    *,
    num_classes: int,
    dropout: layers.Dropout,
    hidden_dropout: float,
    hidden_sizes: Sequence[int],
    input_dropout: float,
    **_: object,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, height, width, depth] of the same type."""
    x = dropout(layers.flatten(images), input_dropout)
    for number, units in enumerate(hidden_sizes, 1):
        x = dropout(layers.dense(x, units, f"hidden{number}"), hidden_dropout)
    return layers.dense(x, num_classes, "logits", activation=None)
