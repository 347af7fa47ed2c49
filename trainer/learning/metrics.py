"""Metrics as sums over a batch, so that batches of different sizes add up exactly, and each example counts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from trainer.tf1 import tf

COUNT = "count"  # of examples, among the sums of the short form
PerExample = Mapping[str, tf.Tensor]  # float32 [batch] each


class Goal(NamedTuple):
    """The metric by which one checkpoint is better than another."""

    name: str
    larger_is_better: bool = True
    is_fraction: bool = True  # and written in percent

    def describe(self, value: float) -> str:
        """Writes a value of it for people: `accuracy 98.25%`."""
        return f"{self.name} {value:.2%}" if self.is_fraction else f"{self.name} {value:.4g}"

    def is_better(self, found: float, before: float) -> bool:
        return found > before if self.larger_is_better else found < before


ACCURACY = Goal("accuracy")


class Metrics(NamedTuple):
    """How a model is judged: sums over batches, and what they come to."""

    sums: Callable[
        [tf.Tensor, Mapping[str, tf.Tensor]], dict[str, tf.Tensor]
    ]  # (outputs, features) -> additive tensors
    finish: Callable[[Mapping[str, Any]], dict[str, float]]  # sums over all batches -> numbers, `loss` among them
    goal: Goal = ACCURACY  # one of them


def mean_metrics(per_example: Callable[[tf.Tensor, Mapping[str, tf.Tensor]], PerExample]) -> Metrics:
    """Makes metrics that are means over the examples.

    Args:
      per_example: gives each metric's value of each example, [batch], from outputs and features.
    """

    def sums(outputs: tf.Tensor, features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        values = per_example(outputs, features)
        totals = {name: tf.reduce_sum(value) for name, value in values.items()}
        return {COUNT: tf.size(next(iter(values.values()))), **totals}

    def finish(totals: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(total) / float(totals[COUNT]) for name, total in totals.items() if name != COUNT}

    return Metrics(sums, finish)


def add_sums(totals: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the sums of a batch to those of the batches before, in float64 and int64."""
    wide = {name: _widened(np.asarray(value)) for name, value in batch.items()}
    return {name: totals[name] + value if name in totals else value for name, value in wide.items()}


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)


def is_correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes 1 where the largest of the logits, [batch, classes], is that of the label, else 0: float32 [batch]."""
    return tf.cast(tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels), tf.float32)
