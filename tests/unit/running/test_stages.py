"""Stalls planted in each stage of an input, and what is said of them."""

import os
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from trainer.inputs import order, queues
from trainer.inputs.batch import make_input
from trainer.preprocessing.preprocessing import make_preprocessing
from trainer.running import session as session_lib
from trainer.running.stages import describe_stages, read_sizes
from trainer.tf1 import tf

pytestmark = pytest.mark.timeout(60)


@contextmanager
def stalled(source, steps=0, settled=lambda sizes: True):
    """Runs steps until one does not end and the queues are `settled`; yields what is said of it."""
    with session_lib.open_session(source, tf.ConfigProto(inter_op_parallelism_threads=-1), None) as opened:
        done = [0]

        def take():
            try:
                while True:
                    opened.session.run(source.batch)
                    done[0] += 1
            except (tf.errors.OpError, RuntimeError):
                pass  # Woken at the end of the test.

        threading.Thread(target=take, daemon=True).start()
        # A busy machine does not run every thread within a second: what has to come is waited for.
        names = [stage.name for stage in opened.stages]
        last, since, sizes = None, time.monotonic(), []
        while done[0] != steps or time.monotonic() - since < 1 or not settled(dict(zip(names, sizes, strict=True))):
            sizes = read_sizes(opened.session, opened.stages) or [0] * len(names)
            if (done[0], sizes) != last:
                last, since = (done[0], sizes), time.monotonic()
            time.sleep(0.05)
        yield describe_stages(opened.stages, sizes, threading.enumerate(), sys._current_frames())


def batch_of(tensor):
    return {"image": tensor, "label": tensor}


def test_a_queue_whose_runner_blocks():
    wake = threading.Event()

    def block():
        wake.wait()
        return 1

    with tf.Graph().as_default():
        queue = tf.FIFOQueue(4, [tf.int64], [[]], name="numbers")
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(tf.py_func(block, [], tf.int64))]))
        with stalled(make_input(lambda: batch_of(queue.dequeue()))) as told:
            assert told[0] == "queue numbers is empty and the thread that fills it is blocked"
            assert told[1] == "  queue numbers: 0 of 4 elements (empty); 1 of 1 threads that fill it are alive"
            # Its stack shows the very line.
            assert "QueueRunnerThread-numbers-" in told[2] and "wait" in told[2] and "block" in told[2]
            wake.set()


def test_the_first_empty_stage_is_to_blame_not_those_behind_it(digits_dir, tmp_path):
    """Three readers; a shard of the second is a named pipe that nobody writes to."""
    from trainer.data.manifest import load_manifest

    plan = queues.make_plan(load_manifest(digits_dir), 1)
    with tf.Graph().as_default(), tf.Session() as session:
        shards = session.run(order.shard_order(plan, tf.constant(0, tf.int64)))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    plan.paths[shards[plan.open_shards // 2]] = str(pipe)
    with tf.Graph().as_default(), tf.variable_scope("input"):
        side = make_preprocessing((8, 8, 1)).training
        settings = {"batch_size": 64, "position": 0, "num_readers": 3, "capacity": 8, "side": side}
        source = queues.build(plan, load_manifest(digits_dir), **settings)
        with stalled(source, settled=lambda sizes: sizes["input/reader_0"]) as told:
            assert told[0] == "queue input/reader_1 is empty and the thread that fills it is blocked"
            stages = {line.split()[1].rstrip(":"): line for line in told if line.startswith("  queue ")}
            assert list(stages) == [*(f"input/reader_{reader}" for reader in range(3)), "input/batches"]
            assert "(full)" in stages["input/reader_0"] or "(filled)" in stages["input/reader_0"]
            assert "(empty)" in stages["input/batches"]
        # The thread is still in its read: the session was left open instead of waiting for it.
        assert session_lib._abandoned
        with pipe.open("wb"):
            pass


def test_runners_that_were_never_started(monkeypatch):
    with tf.Graph().as_default():
        queue = tf.FIFOQueue(4, [tf.int64], [[]], name="numbers")
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(1)] * 2))
        monkeypatch.setattr(tf.train, "start_queue_runners", lambda *_: [])
        with stalled(make_input(lambda: batch_of(queue.dequeue()))) as told:
            assert told[0] == "the thread that fills queue numbers is dead or was never started"
            assert told[1].endswith("0 of 2 threads that fill it are left")


def test_a_thread_that_ended_without_a_word():
    with tf.Graph().as_default():
        queue = tf.FIFOQueue(4, [tf.int64], [[]], name="numbers")
        put = queue.enqueue(1)

        def start(session, coord):
            thread = threading.Thread(
                target=lambda: [session.run(put) for _ in range(5)], name=f"QueueRunnerThread-{queue.name}-put"
            )
            thread.start()
            return [thread]  # fmt: skip

        with stalled(make_input(lambda: batch_of(queue.dequeue()), start=start, queues=(queue,)), steps=5) as told:
            assert told[0] == "the thread that fills queue numbers is dead or was never started"


def test_a_capacity_below_the_minimum_is_an_error_that_says_so():
    with tf.Graph().as_default():
        queue = tf.RandomShuffleQueue(5, 8, [tf.int64], [[]], name="mix")
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [queue.enqueue(1)]))
        source = make_input(lambda: batch_of(queue.dequeue()))
        with (
            pytest.raises(tf.errors.InvalidArgumentError, match="min_after_dequeue 8 must be < capacity 5"),
            session_lib.open_session(source, tf.ConfigProto(), None) as opened,
        ):
            opened.session.run(source.batch)


def test_a_queue_that_never_gets_its_minimum():
    wake = threading.Event()
    numbers = iter(range(6))

    def five_and_no_more():
        number = next(numbers)
        return number if number < 5 else wake.wait() and number

    with tf.Graph().as_default():
        queue = tf.RandomShuffleQueue(20, 8, [tf.int64], [[]], name="mix")
        put = queue.enqueue(tf.py_func(five_and_no_more, [], tf.int64))
        tf.train.add_queue_runner(tf.train.QueueRunner(queue, [put]))
        with stalled(make_input(lambda: batch_of(queue.dequeue())), settled=lambda sizes: sizes["mix"] == 5) as told:
            assert told[0] == "queue mix is below its minimum and the thread that fills it is blocked"
            assert told[1].startswith("  queue mix: 5 of 20 elements (below its minimum)")
            wake.set()


def test_a_computation_that_hangs():
    wake = threading.Event()
    with tf.Graph().as_default():
        value = tf.py_func(lambda: wake.wait() and 1, [], tf.int64)
        with stalled(make_input(lambda: batch_of(value))) as told:
            assert told == ["this input has no queue: the computation itself hangs"]
            wake.set()


def test_too_few_records_are_an_error_and_no_stall():
    """One epoch of two names, batches of three: the error of the reader is raised, not that of the closed queue."""
    with tf.Graph().as_default():
        names = tf.train.string_input_producer(["a", "b"], num_epochs=1, name="names")
        batch = tf.train.batch([names.dequeue()], 3)
        source = make_input(lambda: batch_of(batch))
        with (
            pytest.raises(tf.errors.OutOfRangeError),
            session_lib.open_session(source, tf.ConfigProto(), None) as opened,
        ):
            opened.session.run(source.batch)
