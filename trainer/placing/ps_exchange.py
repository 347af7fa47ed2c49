"""Variables on parameter servers, and how gradients come to them: all workers' together, or each one's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.placing.devices import server_of
from trainer.placing.means_check import difference_from_plain, uniform_values
from trainer.placing.reductions import tower_mean
from trainer.placing.strategy import NUM_VOTES, MeansCheck, OneProcess, Votes, Workers
from trainer.tf1 import tf

QUEUE_CAPACITY = 4  # a worker hands over one step at a time; what one that was killed has left may be before it
TOKEN_TYPES = [tf.int64, tf.float32, tf.float32, tf.int64]  # tag, loss, agreed votes, what is not finite
TOKEN_SHAPES = [tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([NUM_VOTES]), tf.TensorShape([None, 2])]


def ps_device(index: int) -> str:
    """Names the device on which a parameter server keeps variables."""
    return f"/job:ps/task:{index}/device:CPU:0"


class VariableSpread:
    """A device function: a variable to the server with the fewest bytes so far, what is computed of one stays there.

    It depends only on the order in which the variables are made, so that all workers find them in the same places.
    """

    def __init__(self, num_servers: int) -> None:
        self._bytes = [0] * num_servers

    def __call__(self, op: tf.Operation) -> str:
        """Chooses the device of an operation that has none yet."""
        if op.type == "VarHandleOp":
            shape, dtype = tf.TensorShape(op.get_attr("shape")), tf.as_dtype(op.get_attr("dtype"))
            index = int(np.argmin(self._bytes))
            self._bytes[index] += int(shape.num_elements()) * dtype.size
            return ps_device(index)
        return str(op.device) or server_of(op)


def _queue(name: str, generation: int, device: str, types: list[Any], shapes: Any = None) -> tf.QueueBase:
    with tf.device(device):
        return tf.FIFOQueue(QUEUE_CAPACITY, types, shapes, shared_name=f"{name}_{generation}")


def _take(queue: tf.QueueBase, wanted: tf.Tensor, shapes: Sequence[tf.TensorShape]) -> list[tf.Tensor]:
    """Takes the first element whose tag, its first component, is at least `wanted`; those before it are dropped."""

    def take(*_: tf.Tensor) -> list[tf.Tensor]:
        taken = list(queue.dequeue())
        for value, shape in zip(taken, shapes, strict=True):
            value.set_shape(shape)
        return taken

    return list(
        tf.while_loop(
            lambda tag, *_: tag < wanted,
            take,
            take(),
            shape_invariants=list(shapes),
            parallel_iterations=1,
            back_prop=False,
        )
    )


class GradientQueues(OneProcess):
    """Gradients of all workers to the chief's one update, through queues on the servers that hold the variables.

    Sums are made in the order of the workers: a job gives the same bits however fast each of them is. What is handed
    over carries a tag, the examples that were consumed before its step: what a worker left that was killed is older
    than what is wanted, and dropped; one that comes back goes on in the middle.
    """

    def __init__(self, workers: Workers, *, generation: int, position: int) -> None:
        """Takes what all steps share.

        Args:
          workers: of the cluster.
          generation: of the chief's start; queues of another one are not touched.
          position: examples that earlier steps have consumed.
        """
        self.workers = workers
        self.applies_updates = workers.index == 0
        self._generation = generation
        self._mine = tf.get_local_variable("votes", initializer=np.zeros(NUM_VOTES, np.float32), use_resource=True)
        self._tag = tf.get_local_variable("tag", initializer=np.int64(position), use_resource=True)
        self._queues: list[tf.QueueBase] = []  # those of the steps

    def _gradient_queue(self, name: str, worker: int, tensors: Sequence[tf.Tensor], device: str) -> tf.QueueBase:
        server = device.partition("task:")[2].partition("/")[0]
        types, shapes = [tensor.dtype.base_dtype for tensor in tensors], [tensor.shape for tensor in tensors]
        return _queue(f"{name}_{server}_{worker}", self._generation, device, [tf.int64, *types], [[], *shapes])

    def _mean(
        self, name: str, tag: tf.Tensor, tensors: Sequence[tf.Tensor], devices: Sequence[str]
    ) -> tuple[list[tf.Tensor], list[tf.QueueBase]]:
        """Averages this worker's tensors with those that all others have pushed, each on its device."""
        means: dict[int, tf.Tensor] = {}
        queues = []
        for device in sorted(set(devices)):
            chosen = [index for index, other in enumerate(devices) if other == device]
            mine = [tensors[index] for index in chosen]
            of_workers = [mine]
            with tf.device(device), tf.name_scope("gradients_of_workers"):
                for worker in range(1, self.workers.count):
                    queues.append(self._gradient_queue(name, worker, mine, device))
                    shapes = [tf.TensorShape([]), *(tensor.shape for tensor in mine)]
                    of_workers.append(_take(queues[-1], tag, shapes)[1:])
                for index, values in zip(chosen, zip(*of_workers, strict=True), strict=True):
                    means[index] = tower_mean(values)
        return [means[index] for index in range(len(tensors))], queues

    def _push(
        self, name: str, tag: tf.Tensor, tensors: Sequence[tf.Tensor], devices: Sequence[str]
    ) -> list[tf.Operation]:
        pushes = []
        for device in sorted(set(devices)):
            mine = [tensor for tensor, other in zip(tensors, devices, strict=True) if other == device]
            pushes.append(self._gradient_queue(name, self.workers.index, mine, device).enqueue([tag, *mine]))
        return pushes

    def average(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        """Averages the chief's tensors with the other workers'."""
        tag, devices = self._tag.read_value(), [devices[0], *devices]
        (agreed, *means), queues = self._mean("gradients", tag, [self._mine.read_value(), *tensors], devices)
        self._queues += queues
        self._set_votes(agreed)
        return means

    def _set_votes(self, agreed: tf.Tensor) -> None:
        own = tf.placeholder(tf.float32, [NUM_VOTES], name="own_votes")
        self.votes = Votes(agreed, own, self._mine.assign(own).op)

    def _token_queue(self, worker: int) -> tf.QueueBase:
        queue = _queue(f"tokens_{worker}", self._generation, ps_device(0), TOKEN_TYPES)
        self._queues.append(queue)
        return queue

    def publish(self, loss: tf.Tensor, not_finite: tf.Tensor, position: tf.Variable) -> tf.Tensor:
        """Tells all workers what the chief's step has come to; returns `not_finite`, after that."""
        assert self.votes
        token = [self._tag.read_value(), loss, self.votes.agreed, not_finite]
        with tf.control_dependencies([not_finite, *token]):
            told = [self._token_queue(worker).enqueue(token) for worker in range(1, self.workers.count)]
            moved = self._tag.assign(position.read_value())
        with tf.control_dependencies([*told, moved]):
            return tf.identity(not_finite)

    def hand_over(
        self, tensors: Sequence[tf.Tensor], devices: Sequence[str], *, batch_size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Hands this worker's tensors to the chief, and waits for what it publishes."""
        tag = self._tag.read_value()
        with tf.name_scope("hand_over"):
            tensors, devices = [self._mine.read_value(), *tensors], [devices[0], *devices]
            pushes = self._push("gradients", tag, tensors, devices)
        with tf.control_dependencies(pushes), tf.device(ps_device(0)):
            done, loss, agreed, not_finite = _take(self._token_queue(self.workers.index), tag, TOKEN_SHAPES)
        self._set_votes(tf.identity(agreed))
        with tf.control_dependencies([self._tag.assign(done + batch_size)]):
            return tf.identity(loss), tf.identity(not_finite)

    def build_wake(self) -> list[tf.Operation]:
        return [queue.close(cancel_pending_enqueues=True) for queue in self._queues]

    def build_means_check(self, shapes: Sequence[tf.TensorShape], devices: Sequence[str]) -> MeansCheck | None:
        """Builds a mean of known numbers; on workers that are not the chief what hands theirs over."""
        tag, count = tf.zeros([], tf.int64), self.workers.count
        mine = uniform_values(shapes, self.workers.index)
        if not self.applies_updates:
            return MeansCheck(tf.group(*self._push("check", tag, mine, devices)))
        means, queues = self._mean("check", tag, mine, devices)
        plain = [uniform_values(shapes, worker) for worker in range(count)]
        close = [queue.close(cancel_pending_enqueues=True) for queue in queues]
        return MeansCheck(difference_from_plain(means, plain), [queue.size() for queue in queues], close)


class OwnUpdates(OneProcess):
    """Each worker's update of the servers' variables by itself, whatever the others have done in the meantime."""

    is_asynchronous = True

    def __init__(self, workers: Workers, all_votes: tf.Variable, *, position: int, batch_size: int) -> None:
        """Takes what all steps share.

        Args:
          workers: of the cluster.
          all_votes: float32 [workers, 3], what each of them wants.
          position: of the examples, at which this worker begins.
          batch_size: examples of a step.
        """
        self.workers = workers
        self._round = workers.count * batch_size
        # In rounds of a batch for each worker; the counter that checkpoints hold is moved by all workers.
        self._own_position = tf.get_local_variable("own_position", initializer=np.int64(position), use_resource=True)
        self.position = self._own_position
        own = tf.placeholder(tf.float32, [NUM_VOTES], name="own_votes")
        cast = tf.raw_ops.ResourceScatterUpdate(resource=all_votes.handle, indices=workers.index, updates=own)
        self.votes = Votes(tf.reduce_sum(all_votes.read_value(), 0), own, cast)

    def publish(self, loss: tf.Tensor, not_finite: tf.Tensor, position: tf.Variable) -> tf.Tensor:
        """Moves this worker's position on, after its step: the votes on the servers are public already."""
        with tf.control_dependencies([not_finite]):
            moved = self._own_position.assign_add(self._round).op
        with tf.control_dependencies([moved]):
            return tf.identity(not_finite)
