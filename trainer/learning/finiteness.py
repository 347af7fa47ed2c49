"""Finiteness as a part of the step: an update whose loss or gradients hold NaN or infinity never happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.tf1 import tf

CURT_HEALTH = 2  # of TensorFlow's TensorDebugMode: [tensor id, is there any NaN or infinity]


def _health(tensor: tf.Tensor) -> tf.Tensor:
    """Looks at a tensor in one pass, without a copy: float32 [2], the second is 1 where there is NaN or infinity."""
    # A third of the time of `is_finite` and `reduce_all`, which make a tensor of booleans.
    return tf.raw_ops.DebugNumericSummaryV2(input=tensor, output_dtype=tf.float32, tensor_debug_mode=CURT_HEALTH)


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Is every element of all of them a number: bool []."""
    return tf.equal(tf.add_n([_health(tensor) for tensor in tensors])[1], 0.0)


def find_not_finite(rows: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    """Finds the tensors that hold NaN or infinity: int64 [n, 2], the row and column of each."""
    health = tf.stack([_health(tensor) for row in rows for tensor in row])
    return tf.where(tf.reshape(health[:, 1], [len(rows), -1]) > 0)


def update_if_finite(
    rows: Sequence[Sequence[tf.Tensor]],
    *,
    update: Callable[[], Sequence[tf.Operation]],
    otherwise: Callable[[], Sequence[tf.Operation]],
) -> tf.Tensor:
    """Runs `update` where all tensors are finite, else `otherwise`; returns which are not, as `find_not_finite`.

    Args:
      rows: loss and gradients of each tower, and in the last row those that the update would apply. That row alone
        decides, because NaN and infinity stay in a mean; the others are looked at to name the tower.
      update: adds the operations of the update.
      otherwise: adds what is done in its place.
    """

    def updated() -> tf.Tensor:
        with tf.control_dependencies(update()):
            return tf.zeros([0, 2], tf.int64)

    def refused() -> tf.Tensor:
        with tf.control_dependencies(otherwise()):
            return find_not_finite(rows)

    # All gradients are there before the first variable changes: no update overtakes another tower's reading of it.
    with tf.control_dependencies(rows[-1]):
        finite = all_finite(rows[-1])
    return tf.cond(finite, updated, refused)


def finite_or_zero(tensor: tf.Tensor) -> tf.Tensor:
    """Replaces NaN and infinity by 0, for histograms, which refuse them."""
    return tf.where(tf.math.is_finite(tensor), tensor, tf.zeros_like(tensor))
