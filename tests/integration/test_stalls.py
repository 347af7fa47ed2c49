"""Runs that stall: reported with the stage, fatal where asked, and going on where the stall ends."""

import json
import signal
import time

import pytest

from tests.integration.test_signals import ENDLESS, newest_step, stop, wait_for
from tests.soak import pairs

pytestmark = pytest.mark.timeout(120)
DEAD = "is dead or was never started"
STALL = "--stall_seconds=10"  # the first step on a busy machine takes more than three


@pytest.fixture
def args(digits_dir, tmp_path):
    return [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}", *ENDLESS, "--queue_capacity=2"]


def read_until(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines) + process.stderr.read())


@pytest.mark.slow
def test_a_reader_that_blocks_is_reported_with_its_stack(program, args):
    process = program("tests.planted", "blocked_reader", *args, STALL)
    wait_for(process, "PHASE")
    told = read_until(process, "the main thread:")
    assert f"the step has not ended for {STALL}: queue input/reader_0 is empty" in told
    assert "planted.py" in told and "block" in told  # The line where the reader waits.
    assert process.poll() is None
    stop(process, signal.SIGTERM)


FATAL = [
    ("blocked_reader", [], "queue input/reader_0 is empty and the thread that fills it is blocked"),
    ("no_runners", [], f"queue input/reader_0 {DEAD}"),
    ("feeder_that_ends", ["--input=feed"], f"queue input/batches {DEAD}"),
]


@pairs("fault, more, message", FATAL[::2], FATAL)
def test_a_fatal_stall_saves_and_ends_with_code_1(program, args, tmp_path, fault, more, message):
    process = program("tests.planted", fault, *args, *more, STALL, "--stall_fatal", "--log_every=1")
    begin = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1 and time.monotonic() - begin < 47  # 40 and what STALL is longer than three seconds
    assert err.startswith(f"error: the step has not ended for {STALL}: ") and message in err
    assert "Traceback" not in err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "error" and result["step"] == (newest_step(tmp_path / "run") or 0)
    assert (result["step"] > 0) == (fault != "no_runners")


def test_a_save_that_hangs_is_named(program, args):
    process = program("tests.planted", "hanging_save", *args, "--checkpoint_every=25", "--stall_seconds=1")
    wait_for(process, "PHASE")
    told = read_until(process, "the main thread:")
    assert "nothing has ended for --stall_seconds=1: running/hooks/checkpointing.py:" in told
    process.kill()


@pytest.mark.slow
def test_a_stall_that_ends_is_said_to_go_on(program, args, tmp_path):
    process = program("tests.planted", "slow_save", *args, "--checkpoint_every=25", "--stall_seconds=0.5")
    wait_for(process, "nothing has ended for --stall_seconds=0.5")
    wait_for(process, "it goes on, after ")
    stop(process, signal.SIGTERM)


@pytest.mark.slow
def test_a_slow_save_is_no_fatal_stall(program, args, tmp_path):
    more = ["--checkpoint_every=40", STALL, "--stall_fatal", "--train_steps=60"]
    process = program("tests.planted", "slower_save", *args, *more)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0 and f"nothing has ended for {STALL}" in out, err


@pytest.mark.soak
def test_zero_reports_nothing(program, args):
    process = program("tests.planted", "blocked_reader", *args, "--stall_seconds=0")
    wait_for(process, "PHASE")
    time.sleep(3)
    out, _, _ = stop(process, signal.SIGTERM)
    assert "has not ended" not in out
