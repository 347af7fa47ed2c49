"""The trainer with a fault planted: `python -m tests.planted FAULT [flag ...]`, for tests that break it on purpose.

A fault that makes a phase last says `PHASE` when the phase begins.
"""

import functools
import signal
import sys
import time

from trainer import evaluate, train
from trainer.console import exit_program
from trainer.errors import TrainerError
from trainer.saving import checkpoints
from trainer.training import run

SECONDS = 1.5


def slowly(function, seconds=SECONDS):
    """Says when a call begins, and makes it last."""

    @functools.wraps(function)
    def slow(*args, **kwargs):
        print("PHASE", flush=True)
        time.sleep(seconds)
        return function(*args, **kwargs)

    return slow


def slow_restore():
    checkpoints.restore = slowly(checkpoints.restore)


def slow_save():
    checkpoints.save = slowly(checkpoints.save)


def slower_save():
    """Longer than a step takes on a busy machine."""
    checkpoints.save = slowly(checkpoints.save, 12)


def slow_evaluation():
    """Each batch of it."""
    from trainer.evaluating import evaluation

    batches = evaluation.record_batches

    def slow_batches(spec, split, _):
        for batch in batches(spec, split, 10):
            print("PHASE", flush=True)
            time.sleep(0.2)
            yield batch

    evaluation.record_batches = slow_batches


def hanging_save():
    """A file system that does not answer."""
    checkpoints.save = lambda *args: (print("PHASE", flush=True), time.sleep(1000))


def failing_save():
    """A disk that never has room."""
    checkpoints.save = lambda *args: (_ for _ in ()).throw(TrainerError("the checkpoint could not be saved: no room"))


def blocked_reader():
    """The batches stop coming after 30 steps: the reader blocks in a `py_func`."""
    import threading

    from trainer.inputs import reading
    from trainer.ops import own
    from trainer.tf1 import tf

    own.OPERATIONS.pop("records")  # Readers of TensorFlow's can be blocked.
    read = reading._read_slices

    def read_then_block(*args):
        found = read(*args)
        blocks = []

        def block(records):
            blocks.append(None)
            if len(blocks) > 3:
                print("PHASE", flush=True)
                threading.Event().wait()
            return records

        same = tf.py_func(block, [found], found.dtype)
        same.set_shape(found.shape)
        return same

    reading._read_slices = read_then_block


def no_runners():
    """Queue runners that nobody starts."""
    from trainer.tf1 import tf

    tf.train.start_queue_runners = lambda *_: []


def feeder_that_ends():
    """A feeding thread that ends without a word."""
    from trainer.inputs import feed

    indices = feed.batch_keys
    feed.batch_keys = lambda *args: (batch for batch, _ in zip(indices(*args), range(100), strict=False))


def nohup():
    """No fault: started as `nohup` starts it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


FAULTS = {
    fault.__name__: fault
    for fault in (
        slow_restore,
        slow_save,
        slower_save,
        slow_evaluation,
        hanging_save,
        failing_save,
        blocked_reader,
        no_runners,
        feeder_that_ends,
        nohup,
    )
}


if __name__ == "__main__":
    assert run  # Loaded before the fault is planted.
    FAULTS[sys.argv[1]]()
    exit_program(train.main(["trainer", *sys.argv[2:]], follow=evaluate.run))
