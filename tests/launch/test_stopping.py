"""Jobs on this machine whose trainer is a small program: what is said of its processes, and how it is stopped."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import environment

pytestmark = pytest.mark.timeout(90)

TRAINER = """
import json, os, pathlib, signal, sys, time

task, args = os.environ["TRAINER_TASK"], sys.argv[1:]
here = pathlib.Path.cwd()


def tell(event, step):
    with open(os.environ["TRAINER_STATUS_FILE"], "a") as file:
        file.write(json.dumps({"event": event, "step": step, "last_step": 100}) + "\\n")


def stop(number, frame):
    if "--slow" in args:
        time.sleep(1)
    (here / f"saved {task}").touch()
    print(f"stopped by {signal.Signals(number).name}; nothing had been trained", file=sys.stderr, flush=True)
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, stop)
print(f"{task} runs, SIGHUP is {signal.getsignal(signal.SIGHUP).name}, with {args}", flush=True)
(here / f"runs {task}").touch()
if "--status" in args and task == "worker 0" and not (here / "status").exists():
    tell("begun", 0)
    tell("step", 10)
    (here / "status.new").write_text(os.environ["TRAINER_STATUS_FILE"])
    (here / "status.new").rename(here / "status")
if "--fail_first" in args and task == "worker 1" and not (here / "failed").exists():
    while "--status" in args and not (here / "status").exists():
        time.sleep(0.01)
    (here / "failed").touch()
    time.sleep(0.3)
    sys.exit(7)
if "--fail" in args and task == "worker 1":
    while not (here / "runs worker 0").exists():
        time.sleep(0.01)
    sys.exit(7)
if "--terminated" in args and task == "worker 1":
    print("error: stopped by SIGTERM, but what was under way did not end", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
if "--end" in args:
    sys.exit(0)
time.sleep(60)
"""


@pytest.fixture
def job(program, tmp_path):
    """Starts a job of the small program above; the trainer is what stands in the current directory."""
    (tmp_path / "trainer.py").write_text(TRAINER)

    def start(*args, options=("--workers=2",)):
        return program("launch", "local", "--network=open", *options, "--", *args, cwd=tmp_path)

    return start


def wait_for(tmp_path, *tasks):
    deadline = time.monotonic() + 30
    while not all((tmp_path / f"runs {task}").exists() for task in tasks):
        assert time.monotonic() < deadline
        time.sleep(0.02)


BOTH = ("worker 0", "worker 1")


def test_the_process_of_every_task_is_named_and_carries_its_name(job, tmp_path):
    process = job(options=("--workers=2", "--evaluator"))
    wait_for(tmp_path, *BOTH, "evaluator 0")
    tasks = {each.environ()["TRAINER_TASK"]: each.pid for each in psutil.Process(process.pid).children()}
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    listed = ", ".join(f"{name} is process {tasks[name]}" for name in (*BOTH, "evaluator 0"))
    assert f"[launch] {listed}\n" in out


def wait_for_second_start(tmp_path, *tasks):
    deadline = time.monotonic() + 30
    while not (tmp_path / "failed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for each in tasks:
        (tmp_path / f"runs {each}").unlink(missing_ok=True)
    wait_for(tmp_path, *tasks)


def test_a_task_that_starts_again_is_named_again(job, tmp_path):
    process = job("--fail_first", options=("--workers=2", "--ps=1", "--max_restarts=1"))
    wait_for_second_start(tmp_path, "worker 1")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    first, second = re.findall(r"worker 1 is process (\d+)", out)
    assert first != second
    assert re.search(rf"\[launch\] worker 1 is process {second}\n", out)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda each: str(each)
)
def test_a_job_that_is_asked_to_stop_shows_no_errors(job, tmp_path, number, code):
    process = job(options=("--workers=2", "--evaluator"))
    wait_for(tmp_path, *BOTH, "evaluator 0")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, out + err
    assert "error" not in out + err
    assert out.count("stopped by SIGTERM; nothing had been trained\n") == 3
    assert out.endswith(f"[launch] stopped by {number.name}\n")
    assert len(list(tmp_path.glob("saved *"))) == 3


def test_the_task_that_failed_is_the_only_error(job):
    process = job("--fail")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 7, out + err
    assert "[worker 0] stopped by SIGTERM; nothing had been trained\n" in out
    assert "error:" not in out and "[launch] stopped by" not in out


def test_a_task_that_someone_else_has_stopped_is_an_error(job):
    process = job("--terminated")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, out + err
    assert "[worker 1] stopped by SIGTERM; nothing had been trained\n" in out
    assert "[worker 1] error: stopped by SIGTERM, but what was under way did not end\n" in out


def test_a_second_hangup_kills_nobody(job, tmp_path):
    """The system and the shell send one each."""
    process = job("--slow")
    wait_for(tmp_path, *BOTH)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 129, out + err
    assert len(list(tmp_path.glob("saved *"))) == 2 and "was killed" not in out


def test_a_hangup_that_nohup_ignores_stays_ignored_in_the_tasks_too(tmp_path):
    (tmp_path / "trainer.py").write_text(TRAINER)
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "launch", "local", "--workers=2", "--network=open"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(tmp_path, *BOTH)
        tasks = psutil.Process(process.pid).children()
        for each in (process.pid, *(task.pid for task in tasks)):
            os.kill(each, signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None and all(task.is_running() for task in tasks)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143
    assert out.count("SIGHUP is SIG_IGN") == 2 and out.endswith("[launch] stopped by SIGTERM\n")


def test_a_job_whose_terminal_is_closed_saves_and_ends(tmp_path):
    """It writes what the tasks print to a terminal that is no longer there."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        command = [sys.executable, "-m", "launch", "local", "--workers=2", "--network=open"]
        os.execve(sys.executable, command, environment())
    wait_for(tmp_path, *BOTH)
    tasks = psutil.Process(child).children()
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    psutil.wait_procs(tasks, timeout=10)
    assert sorted(path.name for path in tmp_path.glob("saved *")) == ["saved worker 0", "saved worker 1"]


def test_a_job_whose_output_nobody_reads_goes_on(job, tmp_path):
    process = job("--fail_first", options=("--workers=2", "--ps=1", "--max_restarts=1"))
    process.stdout.close()
    wait_for_second_start(tmp_path, "worker 1")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert process.returncode == 143
    assert "the launcher's output cannot be written any more" in process.stderr.read()
    process.stdout = None


def test_the_chiefs_status_decides_how_a_job_starts_again(job, tmp_path):
    process = job("--status", "--fail_first", "--resume=never", options=("--workers=2", "--max_restarts=1"))
    wait_for_second_start(tmp_path, *BOTH)
    path = Path((tmp_path / "status").read_text())
    assert path.exists()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, out + err
    assert "with ['--status', '--fail_first', '--resume=never']\n" in out
    assert "with ['--status', '--fail_first', '--resume=never', '--resume=auto']\n" in out
    assert path.parents[1].name.startswith("launch-") and not path.parents[1].exists()


def test_a_run_directory_that_was_not_the_chiefs_yet_is_moved_aside_by_the_next_start(job, tmp_path):
    process = job("--fail_first", "--resume=never", "--end", options=("--workers=2", "--max_restarts=1"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert len(re.findall(r"worker 0 is process", out)) == 2 and "--resume=auto" not in out


def test_a_check_that_is_interrupted_ends_quietly(program, tmp_path):
    (tmp_path / "trainer.py").write_text("import pathlib, time\npathlib.Path('runs check').touch()\ntime.sleep(60)\n")
    process = program("launch", "slurm", f"--python={sys.executable}", cwd=tmp_path)
    wait_for(tmp_path, "check")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "stopped by SIGINT\n")
