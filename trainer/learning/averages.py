"""Exponential moving averages of the weights, and how evaluation reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.tf1 import tf


def make_averages(decay: float, step: tf.Variable) -> tf.train.ExponentialMovingAverage | None:
    """Makes averages of decay min(decay, (1 + step) / (10 + step)); None where the decay is 0.

    The smaller decay of early steps keeps the start from dominating the averages.
    """
    return tf.train.ExponentialMovingAverage(decay, num_updates=step) if decay else None


def averaged_getter(averages: tf.train.ExponentialMovingAverage | None) -> Callable[..., tf.Tensor] | None:
    """Makes a `custom_getter` for a reused scope that gives the average in place of each trained variable."""
    if averages is None:
        return None

    def read_average(getter: Callable[..., tf.Variable], name: str, *args: Any, **kwargs: Any) -> tf.Tensor:
        variable = getter(name, *args, **kwargs)
        average = averages.average(variable)
        return variable if average is None else average

    return read_average
