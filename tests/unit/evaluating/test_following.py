"""Following a training, with a clock that the test moves."""

import fcntl
import json
import os

import pytest

from trainer.errors import TrainerError
from trainer.evaluating.following import Follower
from trainer.rundir import RunDir
from trainer.saving.lock import RunLock, is_locked, wait_for_next


class Training:
    """A training on paper: `script` says what it does each time the follower sleeps."""

    def __init__(self, folder, script):
        self.rundir, self.script = RunDir(folder), list(script)
        folder.mkdir(exist_ok=True)
        self.now, self.said, self.known = 0.0, [], set()
        self.lock = None

    def save(self, step):
        for ending in ("index", "data-00000-of-00001"):
            (self.rundir.path / f"model.ckpt-{step}.{ending}").write_text("x")

    def remove(self, step):
        for path in self.rundir.path.glob(f"model.ckpt-{step}.*"):
            path.unlink()

    def start(self):
        self.lock = RunLock(self.rundir)
        self.lock.acquire()

    def end(self, status):
        self.rundir.result.write_text(json.dumps({"status": status}))
        if self.lock:
            self.lock.release()

    def sleep(self, seconds):
        self.now += seconds
        if self.script:
            self.script.pop(0)(self)

    def follower(self, timeout=100):
        return Follower(
            self.rundir,
            is_known=lambda found: found in self.known,
            interval=10,
            timeout=timeout,
            clock=lambda: self.now,
            sleep=self.sleep,
            say=self.said.append,
        )

    def steps(self, **settings):
        for found in self.follower(**settings).checkpoints():
            self.known.add(found)
            yield found.step


def test_each_checkpoint_comes_once_in_order_and_the_end_of_the_training_ends_it(tmp_path):
    script = [
        lambda t: t.start(),
        lambda t: (t.save(10), t.save(20)),
        lambda t: t.save(9),
        lambda t: None,
        lambda t: (t.save(30), t.end("done")),
    ]
    training = Training(tmp_path, script)
    assert list(training.steps()) == [10, 20, 9, 30]


def test_a_checkpoint_that_is_written_again_comes_again(tmp_path):
    def again(training):
        training.save(10)
        os.utime(tmp_path / "model.ckpt-10.index", ns=(1, 1))

    training = Training(tmp_path, [lambda t: t.start(), lambda t: t.save(10), again, lambda t: t.end("done")])
    assert list(training.steps()) == [10, 10]


def test_a_checkpoint_without_data_is_waited_for(tmp_path):
    def half(training):
        (tmp_path / "model.ckpt-10.index").write_text("x")

    training = Training(tmp_path, [lambda t: t.start(), half, lambda t: t.save(10), lambda t: t.end("done")])
    assert list(training.steps()) == [10]


def test_one_that_cannot_be_read_is_given_up_and_named(tmp_path):
    training = Training(
        tmp_path, [lambda t: t.start(), lambda t: t.save(10), *[lambda t: None] * 5, lambda t: t.end("done")]
    )
    follower = training.follower()
    tried = []
    for found in follower.checkpoints():
        tried.append(found.step)
        follower.failed(found, "damaged")
    assert tried == [10, 10, 10]
    assert training.said[-1] == "step 10 is left out: damaged"


def test_it_waits_for_a_stopped_training_that_goes_on(tmp_path):
    script = [
        lambda t: t.start(),
        lambda t: (t.save(10), t.end("stopped by SIGTERM")),
        lambda t: None,
        lambda t: (t.rundir.result.unlink(), t.start()),
        lambda t: (t.save(20), t.end("done")),
    ]
    assert list(Training(tmp_path, script).steps()) == [10, 20]


def test_it_gives_up_where_no_training_is_at_work(tmp_path):
    training = Training(tmp_path, [])
    with pytest.raises(TrainerError, match=r"no training has been at work in .* for 30 s; --timeout waits longer"):
        list(training.steps(timeout=30))
    assert training.now == 40
    assert training.said == [f"no training has been at work in {tmp_path}; waiting up to 30 s for it"]


def test_a_long_training_without_checkpoints_is_no_timeout(tmp_path):
    training = Training(tmp_path, [lambda t: t.start(), *[lambda t: None] * 50, lambda t: (t.save(1), t.end("done"))])
    assert list(training.steps(timeout=30)) == [1]


def test_a_finished_result_does_not_count_while_a_run_holds_the_lock(tmp_path):
    training = Training(tmp_path, [lambda t: t.save(5), lambda t: t.end("done")])
    training.end("done")
    training.start()
    assert list(training.steps()) == [5]


def test_looking_at_the_lock_does_not_keep_a_run_from_it(tmp_path):
    rundir = RunDir(tmp_path)
    assert not is_locked(rundir)
    rundir.lock.touch()
    with rundir.lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # As `is_locked` does, at the very moment at which a run begins.
        with pytest.raises(TrainerError):
            RunLock(rundir).acquire()
    with RunLock(rundir):
        assert is_locked(rundir)
    assert not is_locked(rundir)


def waited(training, begin=1e9):
    """Waits for the next training; returns for how long."""
    training.now = begin
    wait_for_next(training.rundir, seconds=30, now=lambda: training.now, sleep=training.sleep, interval=1)
    return training.now - begin


def test_an_end_before_the_start_is_not_that_of_the_next_training(tmp_path):
    training = Training(tmp_path, [lambda _: None, Training.start])
    training.end("done")
    os.utime(training.rundir.result, (5e8, 5e8))
    assert waited(training) == 2
    training.end("done")


def test_a_training_that_ends_while_it_is_waited_for_is_not_missed(tmp_path):
    training = Training(tmp_path, [lambda _: None, lambda each: each.end("done")])
    training.end("done")
    os.utime(training.rundir.result, (5e8, 5e8))
    assert waited(training) == 2  # It was at work between two looks; its result is of this year, not of 2001.


def test_who_has_missed_the_training_waits_in_vain_for_some_time_only(tmp_path):
    training = Training(tmp_path, [])
    training.end("done")
    os.utime(training.rundir.result, (5e8, 5e8))
    assert waited(training) == 30


def test_nothing_is_waited_for_where_no_training_has_ended(tmp_path):
    assert waited(Training(tmp_path, [])) == 0
