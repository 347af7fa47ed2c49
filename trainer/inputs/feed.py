"""The feed input: a Python thread puts batches on a queue through placeholders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.inputs.batch import RECORD, Input, batch_feature_shapes, make_input
from trainer.tf1 import tf


def build(
    images: np.ndarray,
    labels: np.ndarray,
    spec: DatasetSpec,
    *,
    batch_size: int,
    shard: slice,
    position: int,
    seed: int,
    capacity: int,
) -> Input:
    """Builds a queue of batches that a Python thread fills from arrays in memory.

    Args:
      images: uint8 or float32 [n, height, width, depth].
      labels: of each, as batches have them.
      spec: of the data set.
      batch_size: images of a step.
      shard: of each batch, that goes on the queue.
      position: examples that earlier steps have consumed.
      seed: of the order.
      capacity: whole batches that the queue holds.
    """
    features = batch_feature_shapes(spec, len(range(batch_size)[shard]), images.shape[1:], tf.as_dtype(images.dtype))
    queue = tf.FIFOQueue(capacity, *zip(*features.values(), strict=True), name="batches")
    placeholders = [tf.placeholder(dtype, shape) for dtype, shape in features.values()]
    enqueue, close = queue.enqueue(placeholders), queue.close(cancel_pending_enqueues=True)

    def feed(session: tf.Session, coord: tf.train.Coordinator) -> None:
        # An error in here ends the run, with its own message.
        with coord.stop_on_exception():
            put = session.make_callable(enqueue, feed_list=placeholders)
            for keys in batch_keys(len(labels), batch_size, position, seed):
                mine = keys[shard]
                records = mine % len(labels)
                values = {IMAGE: images[records], LABEL: labels[records], RECORD: mine}
                try:
                    put(*(values[name] for name in features))
                except tf.errors.CancelledError:
                    return  # The queue was closed because the run stops.

    def close_on_stop(session: tf.Session, coord: tf.train.Coordinator) -> None:
        coord.wait_for_stop()
        session.run(close)

    def start(session: tf.Session, coord: tf.train.Coordinator) -> list[threading.Thread]:
        return [_start_thread(queue, target, session, coord) for target in (feed, close_on_stop)]

    fill = tf.cast(queue.size(), tf.float32) / capacity
    return make_input(lambda: dict(zip(features, queue.dequeue(), strict=True)), fill, start, (queue,))


def _start_thread(
    queue: tf.QueueBase, target: Callable[..., None], session: tf.Session, coord: tf.train.Coordinator
) -> threading.Thread:
    # Named as a QueueRunner names its threads.
    name = f"QueueRunnerThread-{queue.name}-{target.__name__}"
    thread = threading.Thread(target=target, args=(session, coord), name=name, daemon=True)
    coord.register_thread(thread)
    thread.start()
    return thread


def batch_keys(num_examples: int, batch_size: int, position: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the RECORD of one batch after another, without end; each epoch is a permutation of its own."""
    epoch, offset = divmod(position, num_examples)
    remainder = _permutation(num_examples, epoch, seed)[offset:]
    while True:
        while len(remainder) < batch_size:
            epoch += 1
            remainder = np.concatenate([remainder, _permutation(num_examples, epoch, seed)])
        yield remainder[:batch_size]
        remainder = remainder[batch_size:]


def _permutation(num_examples: int, epoch: int, seed: int) -> np.ndarray:
    return epoch * num_examples + np.random.default_rng([seed, epoch]).permutation(num_examples)
