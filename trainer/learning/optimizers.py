"""TensorFlow's optimizers by name."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.tf1 import tf

OPTIMIZERS = {
    "sgd": lambda rate, momentum, rmsprop_decay: tf.train.GradientDescentOptimizer(rate),
    "momentum": lambda rate, momentum, rmsprop_decay: tf.train.MomentumOptimizer(rate, momentum),
    "rmsprop": lambda rate, momentum, rmsprop_decay: tf.train.RMSPropOptimizer(rate, rmsprop_decay, momentum),
    "adam": lambda rate, momentum, rmsprop_decay: tf.train.AdamOptimizer(rate),
}


def make_optimizer(name: str, rate: tf.Tensor, *, momentum: float, rmsprop_decay: float) -> tf.train.Optimizer:
    """Makes an optimizer.

    Args:
      name: of OPTIMIZERS.
      rate: learning rate, float32 [].
      momentum: of `momentum` and `rmsprop`.
      rmsprop_decay: discount of the squared gradients of `rmsprop`.
    """
    return OPTIMIZERS[name](rate, momentum, rmsprop_decay)


def apply_gradients(
    optimizer: tf.train.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    step: tf.Variable | None = None,
) -> tf.Operation:
    """Updates the variables, once all gradients are there, and counts the step.

    Without that wait an update can overtake another tower's reading of the variable.
    """
    with tf.control_dependencies(list(gradients)):
        return optimizer.apply_gradients(list(zip(gradients, variables, strict=True)), global_step=step)
