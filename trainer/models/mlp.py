"""A multilayer perceptron: hidden layers, any number of them, and logits."""

from __future__ import annotations

from typing import Annotated

from trainer.grammars import MAX_COUNT
from trainer.models import layers
from trainer.settings.fields import Legal
from trainer.tf1 import tf

SIZES = Legal(
    lambda sizes: all(type(size) is int and 1 <= size <= MAX_COUNT for size in sizes),
    f"sizes of 1 to {MAX_COUNT:,}, as (500, 300)",
)


def build(
    images: tf.Tensor,
    num_classes: int,
    training: bool,
    hidden_sizes: Annotated[tuple, SIZES] = (500,),  # type: ignore[type-arg]
    activation: Annotated[str, layers.ACTIVATION] = "relu",
    dropout: layers.Fraction = 0.5,
    input_dropout: layers.Fraction = 0.0,
) -> tf.Tensor:
    """Computes logits, [batch, classes], of images, [batch, height, width, depth] of the same type.

    Args:
      images: of any size.
      num_classes: width of the logits.
      training: are units dropped.
      hidden_sizes: units of each hidden layer; (): the logits are linear.
      activation: of the hidden units: none, relu, sigmoid or tanh.
      dropout: fraction of the hidden units that is dropped in training.
      input_dropout: fraction of the pixels that is dropped in training.
    """
    x = layers.dropout(layers.flatten(images), input_dropout, training=training)
    for number, units in enumerate(hidden_sizes, 1):
        x = layers.dense(x, units, f"hidden{number}", activation=activation)
        x = layers.dropout(x, dropout, training=training)
    return layers.dense(x, num_classes, "logits", activation="none")
