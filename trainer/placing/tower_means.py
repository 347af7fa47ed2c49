"""Means over the towers of all workers of what these compute on the way, as the statistics of batch normalization."""

from __future__ import annotations

import itertools

from trainer.errors import UsageError
from trainer.models.normalization import CrossMean
from trainer.placing.all_reduce import CollectiveKeys
from trainer.tf1 import tf

GROUP_KEY = 2  # of all towers of all workers


class TowerMeans:
    """The means of one step: what a tower gives as its n-th tensor meets the n-th of all others."""

    def __init__(self, keys: CollectiveKeys, size: int) -> None:
        """Begins a step.

        Args:
          keys: of the graph.
          size: towers of all workers, each on a device of its own.
        """
        self._keys, self._size = keys, size
        self._shapes: list[tf.TensorShape] = []  # of the first tower's
        self._numbers: list[int] = []  # of the collective operations
        self._calls: list[int] = []  # of each tower

    def of_tower(self) -> CrossMean:
        """Begins a tower; returns what averages its tensors, on its device."""
        tower, numbers = len(self._calls), itertools.count()
        self._calls.append(0)

        def mean(tensor: tf.Tensor) -> tf.Tensor:
            self._calls[tower] += 1
            return self._mean(tensor, next(numbers))

        return CrossMean(mean, self._size)

    def check(self) -> int:
        """Looks at the towers, which would wait for each other without end; returns how many means each takes.

        Raises:
          UsageError: they take other means than the first.
        """
        if len(set(self._calls)) > 1:
            raise UsageError(f"towers normalize differently, {self._calls} times; they must be replicas")
        return self._calls[0] if self._calls else 0

    def _mean(self, tensor: tf.Tensor, number: int) -> tf.Tensor:
        if number < len(self._shapes) and self._shapes[number] != tensor.shape:
            raise UsageError(f"towers normalize {tensor.shape} and {self._shapes[number]}; they must be replicas")
        if number == len(self._shapes):
            self._shapes.append(tensor.shape)
            self._numbers.append(self._keys.key(f"towers/mean_{number}_{tensor.shape}"))
        if self._size == 1:
            return tensor
        total = tf.raw_ops.CollectiveReduce(
            input=tensor * (1 / self._size),
            group_size=self._size,
            group_key=GROUP_KEY,
            instance_key=self._numbers[number],
            merge_op="Add",
            final_op="Id",
            subdiv_offsets=[0],
        )
        return tf.ensure_shape(total, self._shapes[number])
