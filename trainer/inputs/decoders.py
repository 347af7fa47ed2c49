"""Decoder threads: whole batches of encoded pictures in, batches of pixels out, in the same order.

Each batch has a number. Threads take batches as they are free, and put them on the queue behind them when it is their
turn, so that the number of the threads and their speed change nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.inputs.batch import Features
from trainer.tf1 import tf

ENCODED_BATCHES = 4  # that wait for a decoder, beside those that the decoders have
NUMBER = "number"

Start = Callable[[tf.Session, tf.train.Coordinator], list[threading.Thread]]


def build_decoders(
    batches: Features,
    decode: Callable[[Features], Features],
    queue: tf.QueueBase,
    names: Sequence[str],
    *,
    num_threads: int,
    before: Callable[[tf.Session], None] | None = None,
) -> Start:
    """Builds the threads between batches that come several at a time and a queue of single ones.

    Args:
      batches: [n, batch, ...], of each run of the thread that makes them.
      decode: of one batch, [batch, ...].
      queue: takes what comes out.
      names: of its components.
      num_threads: that decode.
      before: is called before the first of them starts.

    Returns:
      What is to be called before the queue runners start.
    """
    waiting = _build_waiting(batches)
    # Whose turn it is: batch k may go on the queue when there is a token on the queue k modulo their number.
    turns = [tf.FIFOQueue(1, [tf.int64], [[]], name=f"turn_{place}") for place in range(num_threads)]

    def turn_of(number: tf.Tensor) -> tf.QueueBase:
        return tf.QueueBase.from_list(tf.cast(number % num_threads, tf.int32), turns) if num_threads > 1 else turns[0]

    batch = waiting.dequeue()
    number = batch.pop(NUMBER)
    decoded = decode(batch)
    values = [decoded[name] for name in names]
    with tf.control_dependencies(values):
        token = turn_of(number).dequeue()
    with tf.control_dependencies([token]), tf.control_dependencies([queue.enqueue(values)]):
        put = turn_of(number + 1).enqueue(number)
    closed = [each.close(cancel_pending_enqueues=True) for each in (queue, waiting, *turns)]
    runner = tf.train.QueueRunner(queue, [put] * num_threads, close_op=tf.group(*closed), cancel_op=tf.group(*closed))
    tf.train.add_queue_runner(runner)
    first = turns[0].enqueue(np.int64(0))

    def start(session: tf.Session, _: tf.train.Coordinator) -> list[threading.Thread]:
        if before:
            before(session)
        session.run(first)
        return []

    return start


def _build_waiting(batches: Features) -> tf.QueueBase:
    """Builds the queue of encoded batches, each with its number."""
    count = tf.shape(next(iter(batches.values())), out_type=tf.int64)[0]
    counter = tf.get_local_variable("next_batch", initializer=np.int64(0), use_resource=True)
    numbered: Mapping[str, tf.Tensor] = {**batches, NUMBER: counter.assign_add(count) - count + tf.range(count)}
    queue = tf.FIFOQueue(
        ENCODED_BATCHES,
        [tensor.dtype for tensor in numbered.values()],
        [tensor.shape[1:] for tensor in numbered.values()],
        names=list(numbered),
        name="encoded",
    )
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue_many(dict(numbered))]))
    return queue
