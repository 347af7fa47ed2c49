"""Exponential moving averages of the weights, and how evaluation reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.tf1 import tf


class Averages:
    """Averages of variables, as `tf.train.ExponentialMovingAverage` names and computes them, in one pass less.

    average -= (1 - d) * (average - variable), where d = min(decay, (1 + step) / (10 + step)). The smaller decay of
    early steps keeps the start from dominating the averages.
    """

    def __init__(self, decay: float, step: tf.Variable) -> None:
        self._decay = decay
        self._step = step
        self._averages: dict[str, tf.Variable] = {}

    def average(self, variable: tf.Variable) -> tf.Variable | None:
        """Finds the average of a variable; None where it has none."""
        return self._averages.get(variable.op.name)

    def make(self, variables: Sequence[tf.Variable]) -> None:
        """Makes the averages that there are not yet."""
        for variable in variables:
            if variable.op.name not in self._averages:
                self._averages[variable.op.name] = _make_average(variable)

    def apply(self, variables: Sequence[tf.Variable]) -> tf.Operation:
        """Adds the operation that updates the averages of these variables, which have been made."""
        step = tf.cast(self._step.read_value(), tf.float32)
        rate = 1 - tf.minimum(self._decay, (1 + step) / (10 + step))
        # A step of gradient descent on half the squared distance is the same, by one operation.
        distances = [self._averages[v.op.name].read_value() - v.read_value() for v in variables]
        pairs = list(zip(distances, self._averages.values(), strict=True))
        return tf.train.GradientDescentOptimizer(rate, name="averages").apply_gradients(pairs)


def _make_average(variable: tf.Variable) -> tf.Variable:
    with tf.device(variable.device):
        return tf.get_variable(
            f"{variable.op.name}/ExponentialMovingAverage",
            initializer=variable.initial_value,
            trainable=False,
        )


def make_averages(decay: float, step: tf.Variable) -> Averages | None:
    """Makes averages; None where the decay is 0."""
    return Averages(decay, step) if decay else None


def averaged_getter(averages: Averages | None) -> Callable[..., tf.Tensor] | None:
    """Makes a `custom_getter` for a reused scope that gives the average in place of each trained variable."""
    if averages is None:
        return None

    def read_average(getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Tensor:
        variable = getter(name, *args, **kwargs)
        average = averages.average(variable)
        return variable if average is None else average

    return read_average
