"""TensorFlow's optimizers by name, one more, and those of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.errors import UsageError
from trainer.settings.arguments import bind_options
from trainer.settings.fields import is_reference
from trainer.settings.plugins import UserCode
from trainer.tf1 import tf

Rate = Callable[[], tf.Tensor]  # gives the learning rate, float32 [], of the update that is being built


class AdamWOptimizer(tf.train.AdamOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    w -= rate * (m / (sqrt(v) + epsilon) + weight_decay * w), of weights with two dimensions or more.
    """

    def __init__(self, rate: Rate, weight_decay: float) -> None:
        super().__init__(rate)
        self._weight_decay = weight_decay

    def _resource_apply_dense(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Operation:
        if variable.shape.rank < 2 or not self._weight_decay:
            return super()._resource_apply_dense(gradient, variable)
        rate = tf.cast(self._lr_t, variable.dtype.base_dtype)
        decayed = variable.assign_sub(rate * self._weight_decay * variable.read_value(), read_value=False)
        # What Adam subtracts follows from the gradient alone.
        with tf.control_dependencies([decayed]):
            return super()._resource_apply_dense(gradient, variable)


OPTIMIZERS: dict[str, Callable[..., tf.train.Optimizer]] = {
    "sgd": lambda rate, momentum, **_: tf.train.GradientDescentOptimizer(rate),
    "momentum": lambda rate, momentum, **_: tf.train.MomentumOptimizer(rate, momentum),
    "nesterov": lambda rate, momentum, **_: tf.train.MomentumOptimizer(rate, momentum, use_nesterov=True),
    "rmsprop": lambda rate, momentum, rmsprop_decay, **_: tf.train.RMSPropOptimizer(rate, rmsprop_decay, momentum),
    "adagrad": lambda rate, **_: tf.train.AdagradOptimizer(rate),
    "adam": lambda rate, **_: tf.train.AdamOptimizer(rate),
    "adamw": lambda rate, weight_decay, **_: AdamWOptimizer(rate, weight_decay),
}
DECOUPLED = ("adamw",)  # whose weight decay is no part of the loss


def make_optimizer(name: str, rate: Rate, code: UserCode, **settings: Any) -> tf.train.Optimizer:
    """Makes an optimizer.

    Args:
      name: of OPTIMIZERS, or a function of the user's that takes the rate and returns one.
      rate: see above.
      code: loads functions of the user's.
      settings: momentum (of `momentum`, `nesterov` and `rmsprop`), rmsprop_decay, and weight_decay (of DECOUPLED).

    Raises:
      UsageError: the function takes or returns something else.
    """
    if not is_reference(name):
        return OPTIMIZERS[name](rate, **settings)
    function = code.load(name, default="optimizer")
    bind_options("optimizer", name, function, ("learning_rate",), (), is_own=True)
    with tf.Graph().as_default(), code.errors_of(name)():  # Some of TensorFlow's take no rate that is called.
        made = function(lambda: tf.constant(0.1))
        if not isinstance(made, tf.train.Optimizer):
            raise UsageError(f"--optimizer={name} returned a {type(made).__name__}; wanted a tf.train.Optimizer")
        _try(name, made)
    return function(rate)


def _try(name: str, optimizer: tf.train.Optimizer) -> None:
    """Lets an optimizer make a step.

    Raises:
      UsageError: it does not count it, or makes variables with it.
    """
    step, probe = tf.train.get_or_create_global_step(), tf.get_variable("probe", [1])
    optimizer._create_slots([probe])  # As the trainer does it: before the branch that applies a step.
    before = len(tf.global_variables())
    update = optimizer.apply_gradients([(tf.ones([1]), probe)], global_step=step)
    if len(tf.global_variables()) > before:
        raise UsageError(f"--optimizer={name} makes variables in apply_gradients; wanted them made in _create_slots")
    with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
        session.run(tf.global_variables_initializer())
        session.run(update)
        if session.run(step) != 1:
            raise UsageError(
                f"--optimizer={name} does not add 1 to global_step in apply_gradients: no step would count"
            )
