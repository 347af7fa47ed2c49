"""Means of known numbers against plain ones: a wrong reduction is found before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.errors import TrainerError
from trainer.tf1 import tf

TOLERANCE = 1e-5  # of numbers of 0..1


def uniform_values(shapes: Sequence[tf.TensorShape], worker: int) -> list[tf.Tensor]:
    """Builds numbers of 0..1 that every worker can compute for every other: float32 of these shapes."""
    return [tf.random.stateless_uniform(shape, [worker, number]) for number, shape in enumerate(shapes)]


def difference_from_plain(means: Sequence[tf.Tensor], values: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    """Builds the largest difference of means from plain ones of each worker's values: float32 []."""
    plain = [tf.add_n(list(parts)) / len(values) for parts in zip(*values, strict=True)]
    return tf.reduce_max([tf.reduce_max(tf.abs(mean - other)) for mean, other in zip(means, plain, strict=True)])


def check_means(difference_v: float) -> None:
    """Refuses to train on wrong means.

    Raises:
      TrainerError: the value of `difference_from_plain` is too large, or no number.
    """
    if not difference_v <= TOLERANCE:
        raise TrainerError(
            f"the gradients' means are wrong: they differ from plain ones by {difference_v:.3g}, and "
            f"rounding is at most {TOLERANCE:g}; nothing was trained"
        )
