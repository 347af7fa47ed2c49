"""Means over the workers of a cluster, and what else they have to agree on in every step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainer.errors import TrainerError
from trainer.placing.reductions import split_into_buckets
from trainer.tf1 import tf

GROUP_KEY = 1  # of all workers; TensorFlow tells groups and operations of a cluster apart by numbers
MEETING_KEY, FAREWELL_KEY, FIRST_KEY = 1, 2, 100  # of operations; from the last on they are counted
STOP, SAVE = 0, 1  # indices of wishes
TWO_RINGS_BYTES = 4 << 20  # measured: 1.6 MB are faster in one ring, 6.6 MB in two
CHECK_TOLERANCE = 1e-5  # of numbers of 0..1


@dataclass(frozen=True)
class Workers:
    """Which of how many workers this process is."""

    index: int = 0
    count: int = 1


class Wishes(NamedTuple):
    """What any worker wants, known to all of them after the same step."""

    agreed: tf.Tensor  # float32 [2], above 0 where any worker wants to stop; grows with each wish for a checkpoint
    own: tf.Tensor  # float32 [2], placeholder: 1 where this worker wants to stop; checkpoints that it wanted
    tell: tf.Operation  # makes `own` a part of the next steps


class AllReduce:
    """Means tensors over all workers by TensorFlow's collective operations.

    All workers must build the same sequence of calls: the n-th of one meets the n-th of the others.
    """

    def __init__(self, workers: Workers, *, bucket_bytes: int) -> None:
        """Takes what all means share.

        Args:
          workers: of the cluster.
          bucket_bytes: tensors travel together, up to so many bytes; 0: each by itself.
        """
        self.workers = workers
        self._bucket_bytes = bucket_bytes
        self._keys = itertools.count(FIRST_KEY)
        self.wishes: Wishes | None = None

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Means float32 tensors, of the same shapes on all workers."""
        sizes = [int(tensor.shape.num_elements()) * tensor.dtype.size for tensor in tensors]
        means: list[tf.Tensor] = []
        with tf.name_scope("all_reduce"):
            for bucket in split_into_buckets(sizes, self._bucket_bytes):
                means += self._mean_together([tensors[index] for index in bucket])
            # Whichever a worker fetches, it takes part in all: the others would wait for it without end.
            with tf.control_dependencies(means):
                return [tf.identity(mean) for mean in means]

    def _mean_together(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        # Scaled first: a sum of float16's large gradients stays in range.
        summed = reduce_sum(flat * (1 / self.workers.count), self.workers, next(self._keys))
        parts = tf.split(summed, [int(tensor.shape.num_elements()) for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def mean_with_wishes(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        """Means tensors on the current device, whatever `devices` says, and sends this worker's wishes with them."""
        mine = tf.get_local_variable("wishes", initializer=np.zeros(2, np.float32), use_resource=True)
        own = tf.placeholder(tf.float32, [2], name="own_wishes")
        agreed, *means = self.mean([mine.read_value(), *tensors])
        self.wishes = Wishes(agreed, own, mine.assign(own).op)
        return means

    def build_check(self, shapes: Sequence[tf.TensorShape]) -> tf.Tensor:
        """Builds the largest difference between means of these shapes and plain ones: float32 []."""
        means = self.mean(uniform_values(shapes, self.workers.index))
        return difference_from_plain(means, [uniform_values(shapes, worker) for worker in range(self.workers.count)])

    def build_broadcast(self, variables: Sequence[tf.Variable]) -> tf.Operation:
        """Builds what gives all workers the values that the chief's variables have."""
        updates = []
        for variable in variables:
            shape, key = variable.shape, next(self._keys)
            settings = {"group_size": self.workers.count, "group_key": GROUP_KEY, "instance_key": key, "shape": shape}
            if self.workers.index == 0:
                updates.append(tf.raw_ops.CollectiveBcastSend(input=variable.read_value(), **settings).op)
            else:
                value = tf.raw_ops.CollectiveBcastRecv(T=variable.dtype.base_dtype, **settings)
                updates.append(variable.assign(value).op)
        return tf.group(*updates)


def reduce_sum(tensor: tf.Tensor, workers: Workers, key: int) -> tf.Tensor:
    """Sums a tensor over all workers, which must give the same key, on the current device."""
    summed = tf.raw_ops.CollectiveReduce(
        input=tensor,
        group_size=workers.count,
        group_key=GROUP_KEY,
        instance_key=key,
        merge_op="Add",
        final_op="Id",
        # Two rings, each with half of it, overlap their transfers; little is sent sooner by one.
        subdiv_offsets=[0] * (2 if int(tensor.shape.num_elements()) * tensor.dtype.size >= TWO_RINGS_BYTES else 1),
    )
    return tf.ensure_shape(summed, tensor.shape)


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
      TrainerError: the value of `build_check` is too large, or no number.
    """
    if not difference_v <= CHECK_TOLERANCE:
        raise TrainerError(
            f"the gradients' means are wrong: they differ from plain ones by {difference_v:.3g}, and "
            f"rounding is at most {CHECK_TOLERANCE:g}; nothing was trained"
        )
