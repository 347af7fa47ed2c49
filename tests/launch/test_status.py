"""What the chief tells the launcher, and what the launcher does with it."""

from __future__ import annotations

import json

import pytest

from launch.output import Output
from launch.plan import make_tasks, status_path
from launch.status import Event, StatusFile


def line(event, step, last_step=100):
    return json.dumps({"event": event, "step": step, "last_step": last_step}) + "\n"


def test_events_are_read_once_and_as_they_come(tmp_path):
    path = tmp_path / "status.jsonl"
    status = StatusFile(path)
    assert status.read() == [], "there is no file yet"
    path.write_text(line("begun", 20))
    assert status.read() == [Event("begun", 20, 100)]
    assert status.read() == []
    with path.open("a") as file:
        file.write(line("step", 30) + line("step", 40))
    assert status.read() == [Event("step", 30, 100), Event("step", 40, 100)]


def test_a_line_that_is_cut_off_is_read_when_it_is_complete(tmp_path):
    path = tmp_path / "status.jsonl"
    status = StatusFile(path)
    whole = line("step", 30)
    path.write_text(line("begun", 0) + whole[:17])
    assert status.read() == [Event("begun", 0, 100)]
    path.write_text(line("begun", 0) + whole[:-1])
    assert status.read() == []
    path.write_text(line("begun", 0) + whole)
    assert status.read() == [Event("step", 30, 100)]


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "3", "null", '{"event": "step"}', '{"event": "step", "step": []}']
)
def test_lines_of_another_kind_are_passed_over(tmp_path, text):
    path = tmp_path / "status.jsonl"
    path.write_text(f"{text}\n{line('step', 3)}")
    assert StatusFile(path).read() == [Event("step", 3, 100)]


def test_a_step_after_the_first_one_is_progress():
    with Output(["worker 0"]) as output:
        assert not output.begun and not output.has_progress
        output.follow(Event("begun", 20, 100))
        assert output.begun and output.step == 20
        assert not output.has_progress, "all of it was made before this start"
        output.follow(Event("step", 30, 100))
        assert output.step == 30 and output.has_progress
        output.forget_steps()
        assert output.begun and output.step == 0 and not output.has_progress


def test_the_text_of_a_task_decides_nothing():
    with Output(["worker 0"]) as output:
        output.line("worker 0", "lenet on digits; to watch: tensorboard --logdir=run; moved the earlier run to run.1")
        output.line("worker 0", "step 30/100 loss 0.1")
        assert not output.begun and output.step == 0


def test_events_move_the_bar():
    with Output(["worker 0"]) as output:
        output.follow(Event("begun", 20, 100))
        output.follow(Event("step", 30, 100))
        (bar,) = output._progress.tasks
        assert (bar.completed, bar.total) == (30, 100)


def test_an_event_that_is_unknown_changes_nothing():
    with Output(["worker 0"]) as output:
        output.follow(Event("saved", 30, 100))
        assert not output.begun and output.step == 0


def test_every_task_has_a_status_file_and_its_name(tmp_path):
    tasks = make_tasks(workers=["a:1", "b:2"], servers=["c:3"], evaluator=True, args=[], status_dir=tmp_path)
    paths = [each.environment["TRAINER_STATUS_FILE"] for each in tasks]
    assert len(set(paths)) == 4 and paths[0] == str(status_path(tmp_path, "worker", 0))
    names = [each.environment["TRAINER_TASK"] for each in tasks]
    assert names == ["worker 0", "worker 1", "ps 0", "evaluator 0"]
