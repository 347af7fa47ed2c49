"""A full disk, a lost directory, a read-only mount, in the middle of a run."""

import errno
import json
import shutil
import signal
import subprocess
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import read_metrics
from tests.integration.test_signals import ENDLESS, newest_step, stop, wait_for

pytestmark = pytest.mark.timeout(120)
BUSY = ["--checkpoint_every=50", "--summary_every=10", "--keep_checkpoints=2"]


def fill(folder):
    """Writes until there is no room for another byte."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def wait_for_checkpoint(logdir):
    deadline = time.monotonic() + 60
    while not (logdir / "checkpoint").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(program, digits_dir, tmpfs):
    """The training goes on, says once what failed, and saves again when there is room."""
    small = tmpfs("40m")
    logdir = small / "run"
    process = program("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", *ENDLESS, *BUSY)
    wait_for_checkpoint(logdir)
    fill(small)
    told = []
    for line in process.stdout:
        told.append(line)
        if "a checkpoint could not be written: " in line:
            break
    before = newest_step(logdir)
    assert before  # What was there is there.
    wait_for(process, "step ", 30)
    (small / "ballast").unlink()
    wait_for(process, "step ", 40)
    out, _, _ = stop(process, signal.SIGTERM)
    step = newest_step(logdir)
    assert step > before and f"after step {step};" in out
    assert "not all could be written: " in out and "a checkpoint" in out
    failed = json.loads((logdir / "result.json").read_text())["failed_writes"]
    assert failed["a checkpoint"] >= 1 and failed["the event file"] >= 1
    # No line of metrics.jsonl is lost or cut: what did not fit was written later.
    steps = [json.loads(line)["step"] for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(10, steps[-1] + 10, 10))
    # The event file holds whole events only, also behind the ones that were dropped.
    events = EventAccumulator(str(logdir)).Reload()
    found = [event.step for event in events.Scalars("loss")]
    assert found[-1] == steps[-1] and found == sorted(set(found)) and len(found) < len(steps)
    assert not list(logdir.glob("*.temp*")) and not list(logdir.glob("*.part"))


@pytest.mark.slow
def test_a_disk_that_stays_full_fails_at_the_end(program, run_program, digits_dir, tmpfs):
    small = tmpfs("40m")
    logdir = small / "run"
    args = [f"--data_dir={digits_dir}", f"--logdir={logdir}", *BUSY, "--eval_every=0"]
    process = program("trainer", *args, "--train_steps=600")
    wait_for_checkpoint(logdir)
    fill(small)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: the checkpoint of step 600 could not be saved: ")
    assert "No space left on device" in err and "Traceback" not in err
    assert "a checkpoint could not be written: the checkpoint of step " in out
    step = newest_step(logdir)
    assert 50 <= step < 600
    (small / "ballast").unlink()
    again = run_program("trainer", *args, f"--train_steps={step + 10}")
    assert again.code == 0 and f"resuming from step {step}" in again.out


@pytest.mark.slow
def test_a_lost_directory_is_made_again(program, run_program, digits_dir, tmp_path):
    logdir = tmp_path / "run"
    process = program("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", *ENDLESS, *BUSY)
    wait_for_checkpoint(logdir)
    # The run is writing there: what appears meanwhile goes too.
    while logdir.exists():
        shutil.rmtree(logdir, ignore_errors=True)
    wait_for(process, f"{logdir} had gone, and was made again")
    wait_for(process, "step ", 5)
    second = run_program("trainer", f"--data_dir={digits_dir}", f"--logdir={logdir}", "--train_steps=5")
    assert second.code == 1 and f"is in use by process {process.pid} on " in second.err
    stop(process, signal.SIGTERM)
    step = newest_step(logdir)
    assert step and json.loads((logdir / "result.json").read_text())["step"] == step
    assert {"config.json", "flags.txt", "metrics.jsonl", "train.log", "lock"} <= {
        path.name for path in logdir.iterdir()
    }
    # The lines of before are there too.
    assert read_metrics(logdir, "loss").keys() >= {10, 20, 30, 40, 50}
    assert EventAccumulator(str(logdir)).Reload().Scalars("loss")[-1].step > 50


@pytest.mark.slow
def test_a_mount_that_becomes_read_only(program, digits_dir, tmpfs):
    folder = tmpfs("40m")
    logdir = folder / "run"
    args = [
        f"--data_dir={digits_dir}",
        f"--logdir={logdir}",
        *BUSY,
        "--trace_every=200",
        "--eval_every=0",
        "--train_steps=600",
    ]
    process = program("trainer", *args)
    wait_for_checkpoint(logdir)
    # Another mount over the first: files that are open stay writable, as on a network file system.
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        out, err = process.communicate(timeout=90)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert process.returncode == 1 and "Read-only file system" in err and "Traceback" not in err
    assert "a checkpoint could not be written: " in out and "a trace could not be written: " in out
    assert "step 600/600" in out
    assert 50 <= newest_step(logdir) < 600


def test_a_log_that_cannot_be_written_is_said_once(tmpfs, capsys):
    from trainer.console import Console

    small = tmpfs("64k")
    console = Console()
    console.open_log(small / "train.log")
    fill(small)
    for _ in range(300):
        console.say("x" * 100)
    console.close()
    assert capsys.readouterr().err.count("train.log could not be written: No space left on device") == 1


def test_a_last_save_that_fails_is_no_success(run_program, digits_dir, tmp_path):
    args = [f"--data_dir={digits_dir}", f"--logdir={tmp_path}", "--train_steps=30", "--checkpoint_every=10"]
    done = run_program("tests.planted", "failing_save", *args)
    assert done.code == 1 and done.err == "error: the checkpoint could not be saved: no room\n"
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["step"]) == ("error", 30) and result["test_accuracy"] > 0.5
    assert result["failed_writes"]["a checkpoint"] >= 3
