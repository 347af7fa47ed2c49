"""TensorFlow's optimizers by name."""

from __future__ import annotations

from collections.abc import Callable

from trainer.tf1 import tf

OPTIMIZERS = {
    "sgd": lambda rate, momentum, rmsprop_decay: tf.train.GradientDescentOptimizer(rate),
    "momentum": lambda rate, momentum, rmsprop_decay: tf.train.MomentumOptimizer(rate, momentum),
    "rmsprop": lambda rate, momentum, rmsprop_decay: tf.train.RMSPropOptimizer(rate, rmsprop_decay, momentum),
    "adam": lambda rate, momentum, rmsprop_decay: tf.train.AdamOptimizer(rate),
}


def make_optimizer(
    name: str, rate: Callable[[], tf.Tensor], *, momentum: float, rmsprop_decay: float
) -> tf.train.Optimizer:
    """Makes an optimizer.

    Args:
      name: of OPTIMIZERS.
      rate: gives the learning rate, float32 [], of the update that is being built.
      momentum: of `momentum` and `rmsprop`.
      rmsprop_decay: discount of the squared gradients of `rmsprop`.
    """
    return OPTIMIZERS[name](rate, momentum, rmsprop_decay)
