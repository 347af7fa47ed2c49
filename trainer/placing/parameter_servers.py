"""Variables on parameter servers, and how gradients come to them: all workers' together, or each one's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.placing.devices import server_of
from trainer.placing.strategies import Wishes, Workers, difference_from_plain, uniform_values
from trainer.tf1 import tf

QUEUE_CAPACITY = 4  # a worker hands over one step at a time; what one that was killed has left may be before it
TOKEN_TYPES = [tf.int64, tf.float32, tf.float32, tf.int64]  # tag, loss, agreed wishes, what is not finite
TOKEN_SHAPES = [tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([2]), tf.TensorShape([None, 2])]


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


class GradientQueues:
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
        self.wishes: Wishes | None = None
        self._generation = generation
        self._mine = tf.get_local_variable("wishes", initializer=np.zeros(2, np.float32), use_resource=True)
        self._tag = tf.get_local_variable("tag", initializer=np.int64(position), use_resource=True)
        self._queues: list[tf.QueueBase] = []  # those of the steps

    @property
    def leads(self) -> bool:
        """Does this worker make the update?"""
        return self.workers.index == 0

    def _gradient_queue(self, name: str, worker: int, tensors: Sequence[tf.Tensor], device: str) -> tf.QueueBase:
        server = device.partition("task:")[2].partition("/")[0]
        types, shapes = [tensor.dtype.base_dtype for tensor in tensors], [tensor.shape for tensor in tensors]
        return _queue(f"{name}_{server}_{worker}", self._generation, device, [tf.int64, *types], [[], *shapes])

    def _mean(
        self, name: str, tag: tf.Tensor, tensors: Sequence[tf.Tensor], devices: Sequence[str]
    ) -> tuple[list[tf.Tensor], list[tf.QueueBase]]:
        """Means this worker's tensors with those that all others have pushed, each on its device."""
        means: dict[int, tf.Tensor] = {}
        queues = []
        for device in sorted(set(devices)):
            chosen = [index for index, other in enumerate(devices) if other == device]
            mine = [tensors[index] for index in chosen]
            parts = [mine]
            with tf.device(device), tf.name_scope("gradients_of_workers"):
                for worker in range(1, self.workers.count):
                    queues.append(self._gradient_queue(name, worker, mine, device))
                    shapes = [tf.TensorShape([]), *(tensor.shape for tensor in mine)]
                    parts.append(_take(queues[-1], tag, shapes)[1:])
                for index, values in zip(chosen, zip(*parts, strict=True), strict=True):
                    means[index] = tf.add_n(list(values)) * (1 / self.workers.count)
        return [means[index] for index in range(len(tensors))], queues

    def _push(
        self, name: str, tag: tf.Tensor, tensors: Sequence[tf.Tensor], devices: Sequence[str]
    ) -> list[tf.Operation]:
        pushes = []
        for device in sorted(set(devices)):
            mine = [tensor for tensor, other in zip(tensors, devices, strict=True) if other == device]
            pushes.append(self._gradient_queue(name, self.workers.index, mine, device).enqueue([tag, *mine]))
        return pushes

    def mean_with_wishes(self, tensors: Sequence[tf.Tensor], devices: Sequence[str]) -> list[tf.Tensor]:
        """Means the chief's tensors with the other workers'.

        Args:
          tensors: float32, of the same shapes on all workers.
          devices: where the mean of each is wanted.
        """
        tag, devices = self._tag.read_value(), [devices[0], *devices]
        (agreed, *means), queues = self._mean("gradients", tag, [self._mine.read_value(), *tensors], devices)
        self._queues += queues
        self._set_wishes(agreed)
        return means

    def _set_wishes(self, agreed: tf.Tensor) -> None:
        own = tf.placeholder(tf.float32, [2], name="own_wishes")
        self.wishes = Wishes(agreed, own, self._mine.assign(own).op)

    def _token_queue(self, worker: int) -> tf.QueueBase:
        queue = _queue(f"tokens_{worker}", self._generation, ps_device(0), TOKEN_TYPES)
        self._queues.append(queue)
        return queue

    def answer(self, loss: tf.Tensor, not_finite: tf.Tensor, position: tf.Variable) -> tf.Tensor:
        """Tells all workers what the chief's step has come to; returns `not_finite`, after that."""
        assert self.wishes
        token = [self._tag.read_value(), loss, self.wishes.agreed, not_finite]
        with tf.control_dependencies([not_finite, *token]):
            told = [self._token_queue(worker).enqueue(token) for worker in range(1, self.workers.count)]
            moved = self._tag.assign(position.read_value())
        with tf.control_dependencies([*told, moved]):
            return tf.identity(not_finite)

    def follow(
        self, tensors: Sequence[tf.Tensor], devices: Sequence[str], *, batch_size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Hands this worker's tensors to the chief, and waits for its answer.

        Args:
          tensors: as on the chief.
          devices: as on the chief.
          batch_size: examples that a step consumes.

        Returns:
          The chief's loss, and what of its step is not finite.
        """
        tag = self._tag.read_value()
        with tf.name_scope("hand_over"):
            tensors, devices = [self._mine.read_value(), *tensors], [devices[0], *devices]
            pushes = self._push("gradients", tag, tensors, devices)
        with tf.control_dependencies(pushes), tf.device(ps_device(0)):
            done, loss, agreed, not_finite = _take(self._token_queue(self.workers.index), tag, TOKEN_SHAPES)
        self._set_wishes(tf.identity(agreed))
        with tf.control_dependencies([self._tag.assign(done + batch_size)]):
            return tf.identity(loss), tf.identity(not_finite)

    def build_close(self) -> list[tf.Operation]:
        """Builds what wakes a step that waits for other workers; it fails."""
        return [queue.close(cancel_pending_enqueues=True) for queue in self._queues]

    def build_check(
        self, shapes: Sequence[tf.TensorShape], devices: Sequence[str]
    ) -> tuple[tf.Operation | tf.Tensor, list[tf.Tensor], list[tf.Operation]]:
        """Builds a mean of known numbers, of the shapes of the gradients.

        Returns:
          On the chief the largest difference from plain means, float32 []; on others what hands their numbers over.
          On the chief also how many workers' numbers are there (int32 [] for each queue), and what closes the queues.
        """
        tag, count = tf.zeros([], tf.int64), self.workers.count
        mine = uniform_values(shapes, self.workers.index)
        if not self.leads:
            return tf.group(*self._push("check", tag, mine, devices)), [], []
        means, queues = self._mean("check", tag, mine, devices)
        plain = [uniform_values(shapes, worker) for worker in range(count)]
        close = [queue.close(cancel_pending_enqueues=True) for queue in queues]
        return difference_from_plain(means, plain), [queue.size() for queue in queues], close


class OwnUpdates:
    """Each worker's update of the servers' variables by itself, whatever the others have done in the meantime."""

    def __init__(self, workers: Workers, all_wishes: tf.Variable, *, position: int, batch_size: int) -> None:
        """Takes what all steps share.

        Args:
          workers: of the cluster.
          all_wishes: float32 [workers, 2], what each of them wants.
          position: of the examples, at which this worker begins.
          batch_size: examples of a step.
        """
        self.workers = workers
        self._round = workers.count * batch_size
        # In rounds of a batch for each worker; the counter that checkpoints hold is moved by all workers.
        self.position = tf.get_local_variable("own_position", initializer=np.int64(position), use_resource=True)
        own = tf.placeholder(tf.float32, [2], name="own_wishes")
        tell = tf.raw_ops.ResourceScatterUpdate(resource=all_wishes.handle, indices=workers.index, updates=own)
        self.wishes = Wishes(tf.reduce_sum(all_wishes.read_value(), 0), own, tell)

    def finish(self, not_finite: tf.Tensor) -> tf.Tensor:
        """Moves this worker's position on, after its step; returns `not_finite`, after that."""
        with tf.control_dependencies([not_finite]), tf.control_dependencies([self.position.assign_add(self._round).op]):
            return tf.identity(not_finite)
