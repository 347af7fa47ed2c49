"""Batch scripts, and a real Slurm that runs them: a controller and two nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from launch.command import main
from tests.conftest import REPO, environment

GOLDEN = REPO / "tests" / "golden" / "slurm.sbatch"
ARGS = ["slurm", "--nodes=2", "--tasks_per_node=4", "--gpus_per_task=1", "--time=4:00:00", "--partition=gpu"]
ARGS += ["--python=/opt/env/bin/python", "--", "--flagfile=configs/mnist_lenet.flags", "--logdir=/data/my run"]


def test_the_script_is_the_golden_one(capsys):
    assert main(ARGS) == 0
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(GOLDEN)], check=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--time=1\n#SBATCH --x", "is no time limit"),
        ("--partition=a\n#SBATCH --x", "is no option of sbatch"),
        ("--partition=a b", "is no option of sbatch"),
        ("--job_name=$(id)", "is no option of sbatch"),
    ],
)
def test_an_option_cannot_add_lines(option, message, capsys):
    assert main(["slurm", option]) == 2
    assert message in capsys.readouterr().err


class Cluster:
    """Commands in the namespaces of a Slurm that runs there."""

    def __init__(self, process, folder):
        self.folder = folder
        self._enter = ["nsenter", "--net", "--mount", "--uts", f"--target={process.pid}", f"--wd={folder}"]
        self._environment = {**environment(), "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command):
        done = subprocess.run([*self._enter, *command], capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, done
        return done.stdout

    def submit(self, *args, options=()):
        said = self.run(
            sys.executable, "-m", "launch", "slurm", "--nodes=2", "--submit", *options, "--", *args, "--eval_every=0"
        )
        return int(re.fullmatch(r"Submitted batch job (\d+)\n", said)[1])

    def log(self, job):
        path = self.folder / f"trainer-{job}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, job, pattern, seconds):
        """Waits for something in a job's log; returns the log."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.log(job)):
            assert time.monotonic() < deadline, self.log(job)
            time.sleep(0.2)
        return self.log(job)

    def wait(self, job, seconds):
        """Waits for a job's end; returns its log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = re.search(r"JobState=(\w+)", self.run("scontrol", "show", "job", str(job)))[1]
            if state in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"):
                return state, self.log(job)
            time.sleep(0.5)
        raise AssertionError(self.log(job))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if os.getuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "unshare", "nsenter", "ip"))):
        pytest.skip("a Slurm of its own needs root, and Debian's slurmctld, slurmd, munge and iproute2")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "--uts", sys.executable, "-m", "tests.slurm_cluster", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "daemons.txt").open("w"),
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout.readline() == "ready\n", (folder / "daemons.txt").read_text()
        yield Cluster(process, folder)
    finally:
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_job_of_two_nodes_trains_to_its_end(cluster, digits_dir):
    logdir = cluster.folder / "whole"
    job = cluster.submit(f"--logdir={logdir}", f"--data_dir={digits_dir}", "--train_steps=600")
    state, log = cluster.wait(job, 120)
    assert state == "COMPLETED", log
    assert f"start 0 of job {job} on n[1-2]" in log
    assert log.count("600 steps of 64 over 1 tower on each of 2 workers") == 2
    assert "worker 1 is done after step 600" in log
    assert re.search(r"test accuracy 9\d\.\d\d% after 600 steps", log), log
    assert (logdir / "train-worker-1.log").is_file()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_job_that_was_queued_again_at_its_time_limit_trains_to_its_end(cluster, digits_dir):
    logdir = cluster.folder / "to_its_end"
    flags = (f"--logdir={logdir}", f"--data_dir={digits_dir}", "--train_steps=6000", "--checkpoint_every=0")
    job = cluster.submit(*flags, options=["--time=2"])
    state, log = cluster.wait(job, 600)
    assert state == "COMPLETED", log
    assert f"start 1 of job {job} on n[1-2]" in log
    assert json.loads((logdir / "result.json").read_text())["step"] == 6000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_near_its_time_limit_saves_is_queued_again_and_goes_on(cluster, digits_dir):
    logdir = cluster.folder / "limited"
    flags = (f"--logdir={logdir}", f"--data_dir={digits_dir}", "--train_steps=1000000", "--checkpoint_every=0")
    job = cluster.submit(*flags, options=["--time=2"])  # minutes; the signal comes 90 s before their end
    cluster.wait_for(job, r"resuming from step \d+ \((.|\n)*step \d+/", 400)
    cluster.run("scancel", "--full", str(job))
    state, log = cluster.wait(job, 60)
    assert state == "CANCELLED", log
    step = int(re.search(r"stopped by SIGTERM after step (\d+); the same command goes on", log)[1])
    assert f"stopped after step {step}\n" in log, "the other node stopped after another step"
    assert f"exit code 143: job {job} is queued again" in log
    assert f"start 1 of job {job} on n[1-2]" in log
    assert f"resuming from step {step} (" in log.split("start 1 of job")[1]
    assert int(re.findall(r"step (\d+)/", log)[-1]) > step


@pytest.mark.slow
def test_a_task_that_is_killed_is_named_and_the_job_queued_again(cluster, digits_dir):
    logdir = cluster.folder / "killed"
    flags = (f"--logdir={logdir}", f"--data_dir={digits_dir}", "--train_steps=1500", "--checkpoint_every=0")
    job = cluster.submit(*flags)
    cluster.wait_for(job, "step 200/", 60)
    # Not srun, whose command line ends like that of a task.
    cluster.run("pkill", "-KILL", "-o", "-f", f"^{re.escape(sys.executable)} -m trainer --logdir={logdir}")
    state, log = cluster.wait(job, 200)
    assert state == "COMPLETED", log
    assert "of the cluster is lost" in log
    assert f"start 1 of job {job} on n[1-2]" in log
    assert json.loads((logdir / "result.json").read_text())["step"] == 1500
