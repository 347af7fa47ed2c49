"""The feed input: a Python thread puts batches on a queue through placeholders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from trainer.data.spec import IMAGE, LABEL, DatasetSpec
from trainer.inputs.batch import RECORD, Input, batch_feature_shapes, make_input
from trainer.tf1 import tf


def build(
    batches: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    spec: DatasetSpec,
    *,
    image_shape: tuple[int, int, int],
    image_dtype: tf.DType,
    shard: slice,
    shard_size: int,
    capacity: int,
) -> Input:
    """Builds a queue of batches that a Python thread fills.

    Args:
      batches: begins to give batches, without end: their features by name.
      spec: of the data set.
      image_shape: height, width, depth of their pictures.
      image_dtype: uint8 or float32.
      shard: of each batch, that goes on the queue.
      shard_size: pictures of it.
      capacity: whole batches that the queue holds.
    """
    features = batch_feature_shapes(spec, shard_size, image_shape, image_dtype)
    queue = tf.FIFOQueue(capacity, *zip(*features.values(), strict=True), name="batches")
    placeholders = [tf.placeholder(dtype, shape) for dtype, shape in features.values()]
    enqueue, close = queue.enqueue(placeholders), queue.close(cancel_pending_enqueues=True)

    def feed(session: tf.Session, coord: tf.train.Coordinator) -> None:
        # An error in here ends the run, with its own message.
        with coord.stop_on_exception():
            put = session.make_callable(enqueue, feed_list=placeholders)
            for batch in batches():
                if coord.should_stop():
                    return
                try:
                    put(*(batch[name][shard] for name in features))
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


def batches_of(
    images: np.ndarray, labels: np.ndarray, *, batch_size: int, position: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of arrays in memory, without end.

    Args:
      images: uint8 or float32 [n, height, width, depth].
      labels: of each, as batches have them.
      batch_size: images of a step.
      position: examples that earlier steps have consumed.
      seed: of the order.
    """
    for keys in batch_keys(len(labels), batch_size, position, seed):
        records = keys % len(labels)
        yield {IMAGE: images[records], LABEL: labels[records], RECORD: keys}


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
