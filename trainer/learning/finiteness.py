"""Finiteness as a part of the step: an update whose loss or gradients hold NaN or infinity never happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trainer.tf1 import tf

CURT_HEALTH = 2  # of TensorFlow's TensorDebugMode: [tensor id, is there any NaN or infinity]


def _health(tensor: tf.Tensor) -> tf.Tensor:
    """Looks at a tensor in one pass, without a copy: float32 [2], the second is 1 where there is NaN or infinity."""
    # A third of the time of `is_finite` and `reduce_all`, which make a tensor of booleans.
    health = tf.raw_ops.DebugNumericSummaryV2(input=tensor, output_dtype=tf.float32, tensor_debug_mode=CURT_HEALTH)
    health.set_shape([2])
    return health


def look_at(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Looks at each of some tensors: float32 [n, 2], of which the second is 1 where there is NaN or infinity, else 0.

    The first is at most 0.
    """
    return tf.stack([_health(tensor) for tensor in tensors])


def _look_there(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Looks at the tensors of a tower on its device: one tensor less a gradient has to be copied, dead or alive."""
    with tf.device(tensors[0].device):
        return look_at(tensors)


def all_finite(health: tf.Tensor) -> tf.Tensor:
    """Is every element of all tensors a number, by what `look_at` saw: bool []."""
    return tf.reduce_max(health) <= 0


def find_not_finite(health: Sequence[tf.Tensor]) -> tf.Tensor:
    """Finds what is not a number in rows of tensors, by what `look_at` saw of each: int64 [n, 2], row and column."""
    return tf.where(tf.stack(health)[:, :, 1] > 0)


def look_for(rows: Sequence[Sequence[tf.Tensor]]) -> tf.Tensor:
    """Looks at the tensors of towers, and finds what is not a number: int64 [n, 2], row and column."""
    if not rows:
        return tf.zeros([0, 2], tf.int64)
    return find_not_finite([_look_there(row) for row in rows])


def update_if_finite(
    rows: Sequence[Sequence[tf.Tensor]],
    *,
    update: Callable[[], Sequence[tf.Operation]],
    otherwise: Callable[[tf.Tensor], tf.Tensor],
    before: Sequence[tf.Operation] = (),
) -> tf.Tensor:
    """Runs `update` where all tensors are finite, else `otherwise`; returns none in the first case.

    Args:
      rows: loss and gradients of each tower, and in the last row those that the update would apply. That row alone
        decides, because NaN and infinity stay in a mean; the others are looked at to name the tower.
      update: adds the operations of the update.
      otherwise: adds what is done in its place; takes what is not finite, as `find_not_finite`, and returns of it
        what forbids to go on.
      before: what has to have happened before anything is updated.
    """

    def updated() -> tf.Tensor:
        with tf.control_dependencies(update()):
            return tf.zeros([0, 2], tf.int64)

    def refused() -> tf.Tensor:
        return otherwise(find_not_finite([*(_look_there(row) for row in rows[:-1]), last]))

    # All gradients are there before the first variable changes: no update overtakes another tower's reading of it.
    with tf.control_dependencies([*rows[-1], *before]):
        last = look_at(rows[-1])
        finite = all_finite(last)
    return tf.cond(finite, updated, refused)


def after(operations: Sequence[tf.Operation], tensor: tf.Tensor) -> tf.Tensor:
    """Is a tensor, once some operations have run."""
    with tf.control_dependencies(operations):
        return tf.identity(tensor)


def finite_or_zero(tensor: tf.Tensor) -> tf.Tensor:
    """Replaces NaN and infinity by 0, for histograms, which refuse them."""
    return tf.where(tf.math.is_finite(tensor), tensor, tf.zeros_like(tensor))


def names_of_rows(count: int, first_tower: int) -> list[str]:
    """Names the rows of what `update_if_finite` looks at: the towers and the mean."""
    towers = [f"tower {first_tower + index}" for index in range(count - 1)]
    return [*towers, "the mean over towers" if towers else "tower 0"]
