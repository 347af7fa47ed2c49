"""Batch scripts for Slurm: their directives, and what their tasks are told, with stubs of Slurm's programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from launch.command import main
from trainer.cluster.spec import SLURM_FIRST_PORT, SLURM_PORTS, find_cluster, parse_slurm

PYTHON = "--python=/opt/env/bin/python"


@pytest.fixture
def script(capsys):
    def make(*options, args=()):
        assert main(["slurm", PYTHON, "--no_check", *options, "--", *args]) == 0
        return capsys.readouterr().out

    return make


def directives(script):
    return re.findall(r"^#SBATCH --(.+)$", script, re.MULTILINE)


def test_options_become_directives(script):
    options = ["--account=ml", "--qos=high", "--gres=gpu:a100:4", "--mem=64G", "--constraint=[a100|h100]&ib*2"]
    assert directives(script("--nodes=2", "--partition=gpu", *options)) == [
        "job-name=trainer",
        "nodes=2",
        "ntasks-per-node=1",
        "gres=gpu:a100:4",
        "mem=64G",
        "partition=gpu",
        "constraint=[a100|h100]&ib*2",
        "account=ml",
        "qos=high",
        "signal=B:USR1@90",
        "open-mode=append",
        "output=trainer-%j.log",
        "requeue",
    ]


def test_any_other_option_of_sbatch_is_passed_on_and_the_last_output_counts(script):
    found = directives(script("--sbatch=reservation=maint", "--sbatch", "exclusive", "--sbatch=output=logs/%x-%j.log"))
    assert found[-4:] == ["reservation=maint", "exclusive", "output=logs/%x-%j.log", "requeue"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--account=a\n#SBATCH --x", "is no option of sbatch"),
        ("--qos=a b", "is no option of sbatch"),
        ("--gres=gpu #", "is no option of sbatch"),
        ("--mem=$(id)", "is no option of sbatch"),
        ("--constraint=a\nid", "is no option of sbatch"),
        ("--sbatch=exclusive\n#SBATCH --x", "is no option of sbatch"),
        ("--sbatch=comment=a'b", "is no option of sbatch"),
        ("--sbatch=Exclusive", "is no option of sbatch"),
        ("--sbatch=", "is no option of sbatch"),
        ("--sbatch=reservation=", "is no option of sbatch"),
        ("--sbatch=nodes=3", "the launcher decides on --nodes itself; use --nodes"),
        ("--sbatch=--signal=TERM", "the launcher decides on --signal itself; leave it out"),
        ("--sbatch=no-requeue", "the launcher decides on --no-requeue itself; use --no_requeue"),
        ("--job_name=a/b", "wanted a name without a /"),
    ],
)
def test_an_option_cannot_end_or_fake_a_line(option, message, capsys):
    assert main(["slurm", PYTHON, option]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_without_requeue_the_script_says_how_to_go_on(script, slurm):
    text = script("--no_requeue")
    assert "requeue" not in text and "queue" not in text
    code, out = slurm.run(text, srun="exit 143")
    assert code == 143
    assert "exit code 143: submit the same script again to go on from the last checkpoint\n" in out
    assert slurm.calls("scontrol") == []


def test_without_requeue_a_run_that_is_moved_aside_each_time_is_refused(capsys):
    assert main(["slurm", PYTHON, "--no_requeue", "--", "--resume=never"]) == 2
    assert "--resume=never would move the run aside at each submission" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "restarts", "queued"), [(143, 0, True), (137, 3, False), (1, 0, False), (0, 0, False)]
)
@pytest.mark.parametrize("options", [[], ["--ps=1"]], ids=["workers", "servers"])
def test_a_job_whose_task_was_lost_is_queued_again(script, slurm, options, code, restarts, queued):
    found, _ = slurm.run(script("--max_restarts=3", *options), srun=f"exit {code}", SLURM_RESTART_COUNT=str(restarts))
    assert found == code
    assert ("requeue 1234" in slurm.calls("scontrol")) == queued


def test_the_interpreter_of_the_nodes_is_named(capsys):
    assert main(["slurm", "--no_check"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"the nodes will use {sys.executable}: give --python for another one\n"
    assert f" {sys.executable} -m trainer " in printed.out
    assert main(["slurm", "--no_check", PYTHON]) == 0
    assert capsys.readouterr().err == ""


def test_without_sbatch_a_submission_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["slurm", PYTHON, "--no_check", "--submit"]) == 1
    assert "error: sbatch is not on this machine: leave out --submit" in capsys.readouterr().err


SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do echo "$1" >> {folder}/srun; shift; done
for ((SLURM_PROCID = 0; SLURM_PROCID < {tasks}; SLURM_PROCID++)); do
    export SLURM_PROCID
    "$@" || exit
done
"""
SCONTROL = """#!/bin/bash
echo "$*" >> {folder}/scontrol
if [ "$1 $2 $3" = "show hostnames n[1-2]" ]; then printf '%s\\n' n1 n2; fi
"""
TASK = """#!/bin/bash
echo "task $SLURM_PROCID: $* gpus=${CUDA_VISIBLE_DEVICES-all}"
"""


class Slurm:
    """Runs batch scripts on two nodes that are not there."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / "python"
        self._write("python", TASK)
        self._write("scontrol", SCONTROL.format(folder=folder / "calls"))
        (folder / "calls").mkdir()

    def _write(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run(self, script, *, srun="", tasks=0, **environment):
        """Runs a script; returns its exit code and what it and its tasks have printed."""
        self._write(
            "srun", f"#!/bin/bash\n{srun}\n" if srun else SRUN.format(folder=self.folder / "calls", tasks=tasks)
        )
        path = self.folder / "script"
        path.write_text(script)
        known = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NODELIST": "n[1-2]", "PATH": f"{self.folder}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", path], capture_output=True, text=True, env=known | environment, timeout=30)
        assert done.stderr == "", done
        return done.returncode, done.stdout

    def calls(self, name):
        path = self.folder / "calls" / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


def tasks_of(out):
    return [line.partition(": ")[2] for line in out.splitlines() if line.startswith("task ")]


PORT = SLURM_FIRST_PORT + 1234 * 100 % SLURM_PORTS  # 23400


def test_each_task_of_a_job_with_a_server_is_told_its_role(script, slurm):
    """Two nodes of two workers and one more task; of the two more, one is the server, and one has no work."""
    text = script(f"--python={slurm.python}", "--nodes=2", "--tasks_per_node=2", "--ps=1", args=["--logdir=my run"])
    assert "ntasks-per-node=3" in directives(text)
    code, out = slurm.run(text, tasks=6)
    assert code == 0
    hosts = "--worker_hosts=n1:23400,n1:23401,n2:23403,n2:23404 --ps_hosts=n1:23402"
    assert tasks_of(out) == [
        f"-m trainer --logdir=my run {hosts} --job_name=worker --task_index=0 gpus=all",
        f"-m trainer --logdir=my run {hosts} --job_name=worker --task_index=1 gpus=all",
        f"-m trainer --logdir=my run {hosts} --job_name=ps --task_index=0 gpus=",
        f"-m trainer --logdir=my run {hosts} --job_name=worker --task_index=2 gpus=all",
        f"-m trainer --logdir=my run {hosts} --job_name=worker --task_index=3 gpus=all",
    ]
    assert "--distribution=block" in slurm.calls("srun")
    assert PORT == 23400, "as the trainer's own parser computes them"


def test_servers_are_spread_over_the_nodes_and_the_trainer_finds_them(script, slurm):
    text = script(f"--python={slurm.python}", "--nodes=2", "--ps=3")
    _, out = slurm.run(text, tasks=6)
    found = []
    for line in tasks_of(out):
        flags = dict(re.findall(r"--(\w+)=(\S+)", line))
        found.append(
            find_cluster(
                job_name=flags["job_name"],
                task_index=int(flags["task_index"]),
                worker_hosts=flags["worker_hosts"].split(","),
                ps_hosts=flags["ps_hosts"].split(","),
                environment={"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "6"},
            )
        )
    assert [each.task for each in found] == ["worker 0", "ps 0", "ps 1", "worker 1", "ps 2"]
    assert [each.is_chief for each in found] == [True, False, False, False, False]
    assert found[0].workers == {0: "n1:23400", 1: "n2:23403"}
    assert found[0].parameter_servers == {0: "n1:23401", 1: "n1:23402", 2: "n2:23404"}


def test_the_first_port_is_that_of_the_trainers_own_parser():
    values = {
        "SLURM_JOB_ID": "1234",
        "SLURM_STEP_NODELIST": "n[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "0",
    }
    assert parse_slurm(values).workers[0] == f"n1:{PORT}"


def test_the_gpus_of_a_node_are_shared_out_among_its_workers(script, slurm):
    text = script(f"--python={slurm.python}", "--nodes=2", "--tasks_per_node=2", "--ps=2", "--gpus_per_task=2")
    found = directives(text)
    assert "gpus-per-node=4" in found and not [line for line in found if line.startswith("gpus-per-task")]
    _, out = slurm.run(text, tasks=6, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert [line.partition("gpus=")[2] for line in tasks_of(out)] == ["0,1", "2,3", "", "0,1", "2,3", ""]


def test_servers_that_start_again_go_on_from_the_checkpoint(script, slurm):
    text = script(f"--python={slurm.python}", "--ps=1", args=["--resume=never"])
    _, out = slurm.run(text, tasks=2, SLURM_RESTART_COUNT="1")
    assert all("--resume=never --resume=auto " in line for line in tasks_of(out)) and tasks_of(out)


@pytest.mark.parametrize("options", [["--ps=2", "--gpus_per_task=1"], ["--no_requeue"]])
def test_every_script_is_bash(script, options, tmp_path):
    path = tmp_path / "script"
    path.write_text(script(*options))
    subprocess.run(["bash", "-n", path], check=True)
