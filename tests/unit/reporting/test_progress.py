"""What a run says of its speed, by a clock that the test moves, and whom it tells."""

import json

import pytest

from trainer.console import Console
from trainer.reporting.failures import Failures
from trainer.reporting.metrics_file import MetricsFile
from trainer.reporting.status_file import StatusFile
from trainer.running.hooks.progress import ReportHook
from trainer.tf1 import tf
from trainer.timing import Every, Throughput


@pytest.fixture
def report(tmp_path, capsys):
    clock = type("Clock", (), {"now": 0.0, "__call__": lambda self: self.now})()
    throughput = Throughput(8, clock)
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0, Failures(print))
    status = StatusFile({"TRAINER_STATUS_FILE": str(tmp_path / "status")}, 100)
    hook = ReportHook(
        Console(), None, metrics, every=Every(every_steps=1, clock=clock), throughput=throughput, batch_size=8,
        last_step=100, tell=lambda step: status.write("step", step),
    )  # fmt: skip

    def step(number, seconds):
        clock.now += seconds
        throughput.steps(1)
        hook.after_run(None, tf.train.SessionRunValues([number, 0.5, 0.1], None, None))
        line = capsys.readouterr().out.strip()
        return line, json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])

    return step


def test_nothing_is_said_of_a_rate_before_there_is_one(report):
    """A slow model: five seconds for the first step, four for each that follows."""
    assert report(1, 5.0) == ("step 1/100  loss 0.5000  rate 1.00e-01", {"step": 1, "loss": 0.5, "learning_rate": 0.1})
    line, row = report(2, 4.0)
    assert line == "step 2/100  loss 0.5000  rate 1.00e-01  2 images/s  0:06:32 left"
    assert row["images_per_second"] == 2.0


def test_who_has_started_the_run_is_told(report, tmp_path):
    for step in (1, 2):
        report(step, 1.0)
    rows = [json.loads(line) for line in (tmp_path / "status").read_text().splitlines()]
    assert rows == [{"event": "step", "step": step, "last_step": 100} for step in (1, 2)]
    StatusFile({}, 100).write("step", 3)  # Nobody asks.
    StatusFile({"TRAINER_STATUS_FILE": str(tmp_path / "gone" / "status")}, 100).write("step", 3)  # Who asked has gone.
