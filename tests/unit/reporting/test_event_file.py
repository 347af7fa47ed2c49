"""Event files, read back by TensorBoard's own reader."""

import shutil

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from trainer.reporting.event_file import EventFile
from trainer.reporting.failures import Failures
from trainer.tf1 import tf


def read(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    return list(EventFileLoader(str(path)).Load())


def scalar(value, length=1):
    return tf.Summary(value=[tf.Summary.Value(tag="x" * length, simple_value=value)])


def open_file(folder, said):
    return EventFile(folder, suffix=".a", failures=Failures(said.append))


def test_every_event_is_on_disk_at_once(tmp_path):
    said = []
    with open_file(tmp_path / "new", said) as file:
        for step in range(5):
            file.add_summary(scalar(step / 2), step)
            assert [event.step for event in read(tmp_path / "new")[1:]] == list(range(step + 1))
    events = read(tmp_path / "new")
    assert events[0].file_version == "brain.Event:2"
    assert [event.wall_time for event in events] == sorted(event.wall_time for event in events)
    assert said == []


def test_on_a_full_disk_only_whole_events_stay(tmpfs):
    folder, said = tmpfs("64k"), []
    file = open_file(folder, said)
    file.add_summary(scalar(1.0, 30_000), 1)
    for step in range(2, 5):
        file.add_summary(scalar(1.0, 40_000), step)
    file.add_summary(scalar(1.0, 10), 5)
    file.close()
    assert [event.step for event in read(folder)[1:]] == [1, 5]
    assert said == ["the event file could not be written: No space left on device; the run goes on"]


def test_a_lost_directory_is_made_again(tmp_path):
    said = []
    file = open_file(tmp_path / "run", said)
    file.add_summary(scalar(1.0), 1)
    shutil.rmtree(tmp_path / "run")
    file.add_summary(scalar(2.0), 2)
    file.close()
    events = read(tmp_path / "run")
    assert [event.step for event in events] == [0, 2] and events[0].file_version == "brain.Event:2"
    assert said == []


@pytest.mark.parametrize("what", ["a checkpoint", "a trace"])
def test_failures_are_said_once_and_counted(what):
    said = []
    failures = Failures(said.append)
    for _ in range(3):
        with failures.tolerated(what):
            raise OSError(28, "No space left on device", "/disk/file")
    assert said == [f"{what} could not be written: /disk/file: No space left on device; the run goes on"]
    assert failures.counts == {what: 3}


def test_a_bug_is_no_failed_write():
    with pytest.raises(KeyError), Failures(print).tolerated("a checkpoint"):
        raise KeyError("bug")
