"""Means over the workers of a cluster by TensorFlow's collective operations: `--strategy=collective`.

TensorFlow tells the collective operations of a cluster apart by numbers. Here these come from names: an operation of
one worker meets that of the same name on the others, in whatever order each of them builds its graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from trainer.placing.means_check import difference_from_plain, uniform_values
from trainer.placing.reductions import split_into_buckets
from trainer.placing.strategy import NUM_VOTES, MeansCheck, OneProcess, Votes, Workers
from trainer.tf1 import tf

GROUP_KEY = 1  # of all workers
KEYS = "collective_keys"  # the collection of a graph that holds its CollectiveKeys
TWO_RINGS_BYTES = 4 << 20  # measured: 1.6 MB are faster in one ring, 6.6 MB in two


def collective_key(name: str) -> int:
    """Returns the number of a collective operation: 31 bits of the SHA-256 of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1


class CollectiveKeys:
    """Gives each collective operation of a graph the number of its name, and remembers which there are."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def key(self, name: str) -> int:
        """Returns the number of a name that is new in this graph; of the n-th of one name, that of `NAME:n`."""
        unique, count = name, 1
        while (key := collective_key(unique)) in self._names:
            count += 1
            unique = f"{name}:{count}"
        self._names[key] = unique
        return key

    def digest(self) -> int:
        """Returns 63 bits that stand for all names: workers whose digests differ would wait for each other for ever."""
        text = "\n".join(sorted(self._names.values()))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def keys_of_graph() -> CollectiveKeys:
    """Finds the keys of the default graph."""
    found = tf.get_collection_ref(KEYS)
    if not found:
        found.append(CollectiveKeys())
    keys: CollectiveKeys = found[0]
    return keys


class AllReduce(OneProcess):
    """Averages tensors over all workers, each of which then makes the same update."""

    def __init__(self, workers: Workers, *, bucket_bytes: int) -> None:
        """Takes what all means share.

        Args:
          workers: of the cluster.
          bucket_bytes: tensors travel together, up to so many bytes; 0: each by itself.
        """
        self.workers = workers
        self.keys = keys_of_graph()
        self._bucket_bytes = bucket_bytes

    def _mean(self, name: str, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        sizes = [int(tensor.shape.num_elements()) * tensor.dtype.size for tensor in tensors]
        means: list[tf.Tensor] = []
        with tf.name_scope("all_reduce"):
            for number, bucket in enumerate(split_into_buckets(sizes, self._bucket_bytes)):
                means += self._mean_together(f"{name}/bucket_{number}", [tensors[index] for index in bucket])
            # Whichever a worker fetches, it takes part in all: the others would wait for it without end.
            with tf.control_dependencies(means):
                return [tf.identity(mean) for mean in means]

    def _mean_together(self, name: str, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)
        # Scaled first: a sum of float16's large gradients stays in range.
        summed = reduce_sum(flat * (1 / self.workers.count), self.workers, self.keys.key(name))
        parts = tf.split(summed, [int(tensor.shape.num_elements()) for tensor in tensors])
        return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def average(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        """Averages tensors on the current device, whatever `devices` says."""
        mine = tf.get_local_variable("votes", initializer=np.zeros(NUM_VOTES, np.float32), use_resource=True)
        own = tf.placeholder(tf.float32, [NUM_VOTES], name="own_votes")
        agreed, *means = self._mean("step", [mine.read_value(), *tensors])
        self.votes = Votes(agreed, own, mine.assign(own).op)
        return means

    def build_means_check(self, shapes: Sequence[tf.TensorShape], devices: Sequence[str]) -> MeansCheck | None:
        """Builds the largest difference between means of these shapes and plain ones: float32 []."""
        means = self._mean("check", uniform_values(shapes, self.workers.index))
        plain = [uniform_values(shapes, worker) for worker in range(self.workers.count)]
        return MeansCheck(difference_from_plain(means, plain))

    def build_broadcast(self, variables: Sequence[tf.Variable]) -> tf.Operation:
        """Builds what gives all workers the values that the chief's variables have."""
        updates = []
        for variable in variables:
            shape, key = variable.shape, self.keys.key(f"broadcast/{variable.op.name}")
            settings = {"group_size": self.workers.count, "group_key": GROUP_KEY, "instance_key": key, "shape": shape}
            if self.workers.index == 0:
                updates.append(tf.raw_ops.CollectiveBcastSend(input=variable.read_value(), **settings).op)
            else:
                value = tf.raw_ops.CollectiveBcastRecv(T=variable.dtype.base_dtype, **settings)
                updates.append(variable.assign(value).op)
        return tf.group(*updates)

    def build_barrier(self) -> tf.Tensor | None:
        with tf.device("/cpu:0"):
            return reduce_sum(tf.zeros([1]), self.workers, self.keys.key("barrier"))


def gather(values: tf.Tensor, workers: Workers, name: str) -> tf.Tensor:
    """Gives every worker the numbers of all of them, in a graph of its own.

    Args:
      values: int64 [n], as many on each.
      workers: of the cluster.
      name: of the operation.

    Returns:
      int64 [workers, n].
    """
    return tf.raw_ops.CollectiveGather(
        input=values[tf.newaxis],
        group_size=workers.count,
        group_key=GROUP_KEY,
        instance_key=collective_key(name),
        shape=[workers.count, *values.shape],
    )


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
