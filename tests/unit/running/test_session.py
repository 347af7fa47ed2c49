"""Sessions end in order, and the first error is the one that is seen."""

import threading
import time

import pytest

from trainer.inputs.batch import make_input
from trainer.running.session import open_session
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(60)


def queue_that_fails_with(error):
    """A queue whose runner delivers three elements and then fails."""
    left = [3]

    def produce():
        left[0] -= 1
        if left[0] < 0:
            raise error
        return 1

    queue = tf.FIFOQueue(2, [tf.int64], [[]])
    tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(tf.py_func(produce, [], tf.int64))]))
    return queue.dequeue()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("the reader broke"), tf.errors.InvalidArgumentError),
        (RuntimeError("the reader broke"), tf.errors.UnknownError),
        (MemoryError("the reader broke"), tf.errors.ResourceExhaustedError),
    ],
)
def test_the_error_of_a_queue_runner_is_raised_and_not_that_of_the_closed_queue(error, kind):
    with tf.Graph().as_default():
        element = queue_that_fails_with(error)
        source = make_input(lambda: {"image": element})
        with pytest.raises(kind, match="the reader broke"), open_session(source, tf.ConfigProto(), None) as opened:
            for _ in range(10):
                opened.session.run(element)


def test_a_runner_that_ends_is_an_error_too():
    """Its queue is closed: the step must not take that for a clean end."""
    with tf.Graph().as_default():
        names = tf.train.string_input_producer(["a", "b"], num_epochs=1, shuffle=False)
        element = names.dequeue()
        source = make_input(lambda: {"image": element})
        with pytest.raises(tf.errors.OutOfRangeError), open_session(source, tf.ConfigProto(), None) as opened:
            for _ in range(10):
                opened.session.run(element)


def test_an_error_in_the_block_ends_the_threads_and_is_raised():
    before = threading.active_count()
    with tf.Graph().as_default():
        queue = tf.FIFOQueue(2, [tf.int64], [[]])
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(1)] * 3))
        source = make_input(lambda: {"image": queue.dequeue()})
        start = time.monotonic()
        with pytest.raises(KeyError, match="mine"), open_session(source, tf.ConfigProto(), None) as opened:
            opened.session.run(source.batch)
            raise KeyError("mine")
    assert threading.active_count() == before and time.monotonic() - start < 5
