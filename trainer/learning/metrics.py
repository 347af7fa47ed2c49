"""Metrics as sums over a batch, so that batches of different sizes add up exactly, and each example counts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trainer.data.spec import CLASS, NUMBERS, SEVERAL
from trainer.errors import UsageError, unknown_name
from trainer.tf1 import tf

COUNT = "count of examples"  # among the sums: a name that no metric has
LOSS = "loss"  # among the metrics of every task
BINS = 1000  # of probabilities, for the mean average precision
PerExample = Callable[[tf.Tensor, tf.Tensor], Mapping[str, tf.Tensor]]  # (logits, labels) -> float32 [batch] each


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


class Metrics(NamedTuple):
    """How a model is judged: sums over batches, and what they come to."""

    sums: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]  # (logits, labels) -> additive tensors
    finish: Callable[[Mapping[str, Any]], dict[str, float]]  # sums over all batches -> numbers, LOSS among them
    names: tuple[str, ...]  # of these numbers
    goal: Goal  # one of them


class Part(NamedTuple):
    """Some metrics: sums of a batch, and what all sums come to."""

    sums: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]
    finish: Callable[[Mapping[str, Any]], dict[str, float]]
    names: tuple[str, ...]


def make_metrics(parts: Sequence[Part], goal: Goal) -> Metrics:
    """Puts metrics together.

    Raises:
      UsageError: two have one name, or the goal is none of them.
    """
    names = [name for part in parts for name in part.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"metrics: there are two of the name {twice[0]}")
    if goal.name not in names:
        raise unknown_name("best", goal.name, names)

    def sums(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        found = {COUNT: tf.shape(logits)[0]}
        for number, part in enumerate(parts):
            found |= {f"{number}/{name}": value for name, value in part.sums(logits, labels).items()}
        return found

    def finish(totals: Mapping[str, Any]) -> dict[str, float]:
        found: dict[str, float] = {}
        for number, part in enumerate(parts):
            own = {name.partition("/")[2]: value for name, value in totals.items() if name.startswith(f"{number}/")}
            found |= part.finish({**own, COUNT: totals[COUNT]})
        return found

    return Metrics(sums, finish, tuple(names), goal)


def means(per_example: PerExample, names: Sequence[str]) -> Part:
    """Makes metrics that are means over the examples.

    Args:
      per_example: gives each metric's value of each example.
      names: of the metrics.
    """

    def sums(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        values = per_example(logits, labels)
        return {name: tf.reduce_sum(values[name]) for name in names}

    def finish(totals: Mapping[str, Any]) -> dict[str, float]:
        return {name: float(totals[name]) / float(totals[COUNT]) for name in names}

    return Part(sums, finish, tuple(names))


def add_sums(totals: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the sums of a batch to those of the batches before, in float64 and int64."""
    wide = {name: _widened(np.asarray(value)) for name, value in batch.items()}
    return {name: totals[name] + value if name in totals else value for name, value in wide.items()}


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64 if value.dtype.kind == "f" else np.int64)


def is_correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes 1 where the largest of the logits, [batch, classes], is that of the label, else 0: float32 [batch]."""
    return tf.cast(tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels), tf.float32)


def _several_sums(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Counts, of each class, its pictures and others by the bin of their probability: int64 [classes, BINS]."""
    classes = int(logits.shape[1])
    bins = tf.cast(tf.floor(tf.sigmoid(logits) * BINS), tf.int32)
    cells = tf.minimum(bins, BINS - 1) + tf.range(classes) * BINS
    taken = logits > 0

    def count(chosen: tf.Tensor) -> tf.Tensor:
        counts = tf.math.bincount(tf.boolean_mask(cells, chosen), minlength=classes * BINS, maxlength=classes * BINS)
        return tf.reshape(tf.cast(counts, tf.int64), [classes, BINS])

    has = labels > 0.5
    return {
        "positives": count(has),
        "negatives": count(~has),
        "true_positives": tf.reduce_sum(tf.cast(taken & has, tf.int64)),
        "false_positives": tf.reduce_sum(tf.cast(taken & ~has, tf.int64)),
    }


def _several_finish(totals: Mapping[str, Any]) -> dict[str, float]:
    positives, true = np.asarray(totals["positives"]), int(totals["true_positives"])
    return {
        "precision": true / max(1, true + int(totals["false_positives"])),
        "recall": true / max(1, int(positives.sum())),
        "mean_average_precision": mean_average_precision(positives, np.asarray(totals["negatives"])),
    }


def mean_average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Computes the mean over the classes of sum((R_n - R_(n-1)) P_n), where n runs over the bins from the highest.

    Args:
      positives: int64 [classes, bins], examples of each class by their probability, lowest first.
      negatives: the same of other examples.

    A class without examples does not count. With as many bins as examples it is what scikit-learn computes.
    """
    true = positives[:, ::-1].cumsum(axis=1)
    taken = true + negatives[:, ::-1].cumsum(axis=1)
    precision = true / np.maximum(1, taken)
    there = true[:, -1] > 0
    steps = positives[there, ::-1] / true[there, -1:]
    return float((steps * precision[there]).sum(axis=1).mean()) if there.any() else 0.0


def _numbers_sums(outputs: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
        "absolute": tf.reduce_sum(tf.reduce_mean(tf.abs(outputs - targets), 1)),
        "squared": tf.reduce_sum(tf.cast(tf.math.squared_difference(outputs, targets), tf.float64), 0),
        "targets": tf.reduce_sum(tf.cast(targets, tf.float64), 0),
        "squared_targets": tf.reduce_sum(tf.cast(targets, tf.float64) ** 2, 0),
    }


def _numbers_finish(totals: Mapping[str, Any]) -> dict[str, float]:
    count = float(totals[COUNT])
    spread = np.asarray(totals["squared_targets"]) - np.asarray(totals["targets"]) ** 2 / count
    explained = 1 - np.asarray(totals["squared"]) / np.maximum(spread, 1e-30)
    return {"mean_absolute_error": float(totals["absolute"]) / count, "r2": float(explained.mean())}


# By kind of label: what it is judged by, and by what a checkpoint is better.
OF_KIND: dict[str, tuple[Part, Goal]] = {
    CLASS: (means(lambda logits, labels: {"accuracy": is_correct(logits, labels)}, ["accuracy"]), Goal("accuracy")),
    SEVERAL: (
        Part(_several_sums, _several_finish, ("precision", "recall", "mean_average_precision")),
        Goal("mean_average_precision"),
    ),
    NUMBERS: (
        Part(_numbers_sums, _numbers_finish, ("mean_absolute_error", "r2")),
        Goal("mean_absolute_error", larger_is_better=False, is_fraction=False),
    ),
}
