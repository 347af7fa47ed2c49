"""Random numbers of records: they follow from the seed, the epoch and the record alone.

SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014), computed for all records of
a batch at once: TensorFlow's stateless operations take one seed for a whole tensor, so that what a record gets would
follow from where in the batch it stands, on how many towers and workers.
"""

from __future__ import annotations

import numpy as np

from trainer.tf1 import tf

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = (1 << 64) - 1


def _constant(value: int) -> tf.Tensor:
    return tf.constant(np.uint64(value & MASK))


def _mix(bits: tf.Tensor) -> tf.Tensor:
    """Mixes the bits of uint64 numbers, of any shape."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _constant(shift))) * _constant(factor)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _constant(31)))


def make_draws(seed: int, keys: tf.Tensor) -> Draws:
    """Makes the numbers of records: each has its own, for each seed and epoch.

    Args:
      seed: of the run.
      keys: int64 [n], of the records, which are others in each epoch (`inputs.batch.RECORD`).
    """
    return Draws(_mix(tf.cast(keys, tf.uint64) * _constant(GOLDEN) + _constant(seed)))


class Draws:
    """The numbers of an operation; each call gives others."""

    def __init__(self, state: tf.Tensor) -> None:
        """Takes the state of each record: uint64 [n]."""
        self._state = state
        self._used = 0

    def of_operation(self, number: int) -> Draws:
        """Makes the numbers of the operation that stands in this place of a pipeline."""
        return Draws(_mix(tf.bitwise.bitwise_xor(self._state, _constant((number + 1) * SECOND))))

    def uniform(self, low: float, high: float | tf.Tensor, count: int = 1) -> tf.Tensor:
        """Draws from `low` up to `high`: float32 [n, count], of 24 random bits each."""
        # In the graph, because the numbers of a large picture would be a large constant.
        steps = tf.cast(tf.range(self._used + 1, self._used + 1 + count), tf.uint64) * _constant(GOLDEN)
        self._used += count
        bits = _mix(self._state[:, tf.newaxis] + steps)
        fraction = tf.cast(tf.bitwise.right_shift(bits, _constant(40)), tf.float32) * 2.0**-24
        return low + fraction * (high - low)

    def integers(self, limit: int | tf.Tensor) -> tf.Tensor:
        """Draws whole numbers from 0 up to, not including, `limit` (also int32 [] or [n]): int32 [n]."""
        high = limit if isinstance(limit, int) else tf.reshape(tf.cast(limit, tf.float32), [-1, 1])
        return tf.cast(self.uniform(0, high)[:, 0], tf.int32)

    def seeds(self) -> tf.Tensor:
        """Draws a seed for each picture, as TensorFlow's stateless operations take it: int32 [n, 2]."""
        return tf.stack([self.integers(1 << 24), self.integers(1 << 24)], 1)

    def choices(self) -> tf.Tensor:
        """Draws yes or no, each as often: bool [n]."""
        return self.uniform(0, 1)[:, 0] < 0.5
