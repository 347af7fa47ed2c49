"""Signals in every phase of a run: the exit code, the checkpoint, and the time that it took."""

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.soak import amounts

pytestmark = pytest.mark.timeout(120)
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
BOTH = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
ENDLESS = ["--train_steps=1000000", "--decay=constant", "--log_every=10", "--eval_every=0"]


def wait_for(process, text, count=1):
    for line in process.stdout:
        if text in line:
            count -= 1
            if not count:
                return
    raise AssertionError(f"{text!r} never came: {process.stderr.read()}")


def newest_step(logdir):
    """The step of the newest checkpoint that is whole; changes nothing."""
    from trainer.errors import TrainerError
    from trainer.saving.progress import read_progress

    for step in sorted((int(path.stem.split("-")[1]) for path in logdir.glob("model.ckpt-*.index")), reverse=True):
        try:
            return read_progress(f"{logdir}/model.ckpt-{step}").step
        except TrainerError:
            continue
    return None


def handles(process, number):
    """Has the process installed its own handler for a signal?"""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


def stop(process, number, within=15.0):
    """Sends a signal; checks the exit code; returns output and seconds."""
    begin = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=40)
    seconds = time.monotonic() - begin
    assert process.returncode == CODES[number], (process.returncode, out, err)
    assert "Traceback" not in err
    assert seconds < within
    return out, err, seconds


@pytest.fixture
def args(digits_dir, tmp_path):
    return [f"--data_dir={digits_dir}", f"--logdir={tmp_path / 'run'}"]


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("delay", [1.0, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.0, 0.3, 2.0))])
def test_while_it_starts_up(program, run_program, tmp_path, number, delay):
    """From an empty directory, so that the conversion of the digits may be under way."""
    process = program("trainer", *ENDLESS, cwd=tmp_path)
    while not handles(process, signal.SIGTERM):
        time.sleep(0.005)
    time.sleep(delay)
    _, err, _ = stop(process, number)
    logdir = tmp_path / "runs" / "digits_lenet"
    step = newest_step(logdir)
    assert step or "nothing had been trained since the last checkpoint" in err
    assert [path.name for path in tmp_path.glob("data/.*")] == []
    again = run_program("trainer", *ENDLESS, f"--train_steps={(step or 0) + 3}", cwd=tmp_path)
    assert again.code == 0, again


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_while_it_restores(program, run_program, args, tmp_path, number):
    assert run_program("trainer", *args, "--train_steps=20").code == 0
    process = program("tests.planted", "slow_restore", *args, *ENDLESS)
    wait_for(process, "PHASE")
    stop(process, number)
    assert newest_step(tmp_path / "run") == 20
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("number", BOTH)
def test_while_a_step_waits_for_its_input(program, args, tmp_path, number):
    """The steps before it are saved, though the reader never comes back."""
    process = program("tests.planted", "blocked_reader", *args, *ENDLESS, "--queue_capacity=2", "--log_every=1")
    wait_for(process, "PHASE")
    time.sleep(1)
    out, _, _ = stop(process, number)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["step"] == newest_step(tmp_path / "run") > 10
    assert f"after step {result['step']}; the same command goes on from there" in out


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("when", ["during", "after"])
def test_while_it_evaluates(program, args, tmp_path, number, when):
    length = ["--train_steps=30", "--eval_every=0"] if when == "after" else [*ENDLESS, "--eval_every=30"]
    process = program("tests.planted", "slow_evaluation", *args, *length)
    wait_for(process, "PHASE", 2)
    _, _, seconds = stop(process, number)
    assert newest_step(tmp_path / "run") == 30 and seconds < 5
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == f"stopped by {number.name}" and result["test_accuracy"] is None


@pytest.mark.slow
def test_while_an_evaluation_hangs_in_its_read(program, own_digits_dir, tmp_path):
    """The validation shards become pipes that nobody writes to."""
    args = [f"--data_dir={own_digits_dir}", f"--logdir={tmp_path / 'run'}", *ENDLESS, "--eval_every=300"]
    process = program("trainer", *args, "--checkpoint_every=0")
    wait_for(process, "step 20/")
    for path in own_digits_dir.glob("validation*"):
        path.unlink()
        os.mkfifo(path)
    wait_for(process, "step 300/")
    time.sleep(1)
    _, _, seconds = stop(process, signal.SIGTERM)
    assert newest_step(tmp_path / "run") == 300 and seconds < 10  # the grace is 25


@pytest.mark.parametrize("number", BOTH)
def test_while_it_saves(program, args, tmp_path, number):
    process = program("tests.planted", "slow_save", *args, *ENDLESS, "--checkpoint_every=25")
    wait_for(process, "PHASE")
    stop(process, number)
    assert newest_step(tmp_path / "run") >= 25


@pytest.mark.slow
def test_what_hangs_is_left_after_the_grace(program, run_program, args, tmp_path):
    """A save that never ends: nothing can be done but say so; the checkpoint before it is as it was."""
    assert run_program("trainer", *args, "--train_steps=20").code == 0
    process = program("tests.planted", "hanging_save", *args, *ENDLESS, "--checkpoint_every=25", "--grace_seconds=2")
    wait_for(process, "PHASE")
    _, err, seconds = stop(process, signal.SIGTERM)
    assert 2 <= seconds < 10
    assert "did not end within --grace_seconds=2" in err and "time.sleep(1000)" in err
    assert newest_step(tmp_path / "run") == 20


@pytest.mark.slow
@pytest.mark.parametrize("number", [*BOTH, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_after_the_last_line_nothing_changes_any_more(program, args, number):
    process = program("trainer", *args, "--train_steps=20")
    wait_for(process, "test accuracy")
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0 and err == ""


@pytest.mark.slow
def test_sigusr1_in_any_phase_ends_nothing(program, args, tmp_path):
    process = program("trainer", *args, *ENDLESS, "--checkpoint_every=0")
    while not handles(process, signal.SIGUSR1):
        time.sleep(0.005)
    process.send_signal(signal.SIGUSR1)
    wait_for(process, "step 50/")
    first = {path.name for path in (tmp_path / "run").glob("*.index")}
    assert first == {"model.ckpt-1.index"}  # It was remembered until the first step had ended.
    process.send_signal(signal.SIGUSR1)
    wait_for(process, "step ", 3)
    deadline = time.monotonic() + 10
    while len(list((tmp_path / "run").glob("*.index"))) < 2 and time.monotonic() < deadline:
        wait_for(process, "step ")
    assert len(list((tmp_path / "run").glob("*.index"))) == 2
    stop(process, signal.SIGTERM)


@amounts("signals", 5, 40)
@pytest.mark.timeout(1800)
def test_at_random_moments(signals, program, args, tmp_path):
    """Each run goes on where the one before has saved, and no step is lost."""
    rng = random.Random(1)
    step, slowest = 0, 0.0
    # How long this machine takes from the first handler to the first checkpoint.
    process = program("trainer", *args, *ENDLESS, "--eval_every=50", "--checkpoint_every=20")
    while not handles(process, signal.SIGTERM):
        time.sleep(0.005)
    begin = time.monotonic()
    while not newest_step(tmp_path / "run"):
        time.sleep(0.05)
    start = time.monotonic() - begin
    stop(process, signal.SIGTERM)
    for _ in range(signals):
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        process = program("trainer", *args, *ENDLESS, "--eval_every=50", "--checkpoint_every=20")
        while not handles(process, signal.SIGTERM):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 2) * start)
        out, _, seconds = stop(process, number)
        slowest = max(slowest, seconds)
        found = newest_step(tmp_path / "run") or 0
        assert found >= step, out
        if "after step" in out:
            assert f"after step {found};" in out
        step = found
    assert step > signals
    print(f"{signals} signals, the slowest end after {slowest:.2f} s, step {step}")


@pytest.mark.slow
def test_three_thousand_signals_in_the_middle_of_matrix_products(program, args):
    """A handler that runs in the thread of a matrix product would corrupt memory: the process then aborts."""
    flags = ["--model=mlp", "--decay=constant", "--eval_every=200", "--log_every=200", "--checkpoint_every=0"]
    process = program("trainer", *args, *flags, "--train_steps=1000000")
    wait_for(process, "step 200/")
    for _ in range(3000):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.001)
    stop(process, signal.SIGTERM)


def test_a_closed_terminal_stops_a_run_as_sigterm_does(program, args, tmp_path):
    process = program("trainer", *args, *ENDLESS)
    wait_for(process, "step 50/")
    out, err, _ = stop(process, signal.SIGHUP)
    assert f"stopped by SIGHUP after step {newest_step(tmp_path / 'run')}" in out and err == ""


@pytest.mark.slow
def test_under_nohup_a_closed_terminal_changes_nothing(program, args):
    process = program("tests.planted", "nohup", *args, *ENDLESS)
    wait_for(process, "step 50/")
    process.send_signal(signal.SIGHUP)
    wait_for(process, "step ", count=5)
    stop(process, signal.SIGTERM)


@pytest.mark.slow
def test_time_in_which_the_process_was_stopped_is_no_stall(program, args):
    """SIGSTOP for longer than a fatal stall lasts; the rate leaves it out too."""
    process = program("trainer", *args, *ENDLESS, "--stall_seconds=10", "--stall_fatal", "--log_every=100")
    wait_for(process, "step 100/")
    process.send_signal(signal.SIGSTOP)
    time.sleep(13)
    process.send_signal(signal.SIGCONT)
    wait_for(process, "this process was stopped for 13 s, as by SIGSTOP or with its machine; they do not count")
    wait_for(process, "images/s")
    out, _, _ = stop(process, signal.SIGTERM)
    assert "has not ended" not in out


def test_a_run_has_no_children(program, args):
    process = program("trainer", *args, *ENDLESS)
    wait_for(process, "step 50/")
    assert psutil.Process(process.pid).children(recursive=True) == []
    stop(process, signal.SIGTERM)
